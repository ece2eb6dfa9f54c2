"""What is put right in a mesh, and what is left to a person."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.facts import Facts
from pricing.mesh.analysis import facts_of
from pricing.mesh.repair import near_pairs, near_pairs_of_few
from pricing.price.firmness import firmness_of
from tests.support import meshes

RING = meshes.torus(around=60, across=20)


def of(triangles: meshes.Triangles) -> Facts:
    return facts_of(triangles, "stl-ascii", None)


TRUE = of(RING)


def codes(facts: Facts) -> set[str]:
    return {warning.code for warning in facts.warnings}


def check_repaired(facts: Facts, code: str, rel: float = 1e-6) -> None:
    assert (facts.closed, facts.oriented, facts.repaired) == (True, True, True)
    assert codes(facts) == {code}
    assert facts.volume == pytest.approx(TRUE.volume, rel=rel)
    assert facts.area == pytest.approx(TRUE.area, rel=max(rel, 1e-4))
    assert facts.bodies == 1


@given(st.sets(st.integers(0, len(RING) - 1), min_size=1, max_size=len(RING) - 1))
@settings(max_examples=40, deadline=None)
def test_facets_of_one_body_are_turned_until_they_agree(wrong: set[int]) -> None:
    check_repaired(of(meshes.flipped(RING, *wrong)), "flipped_facets")


def test_facets_of_bodies_apart_are_turned_outwards() -> None:
    cube = meshes.cube()
    facts = of(np.concatenate([cube, meshes.flipped(meshes.cube(at=(20, 0, 0)), *range(11))]))
    assert facts.volume == pytest.approx(2000)
    assert codes(facts) == {"flipped_facets", "several_bodies"}


def test_a_body_within_another_that_has_flipped_facets_is_left_to_a_person() -> None:
    """It may be a cavity or a body: nobody can tell."""
    inner = meshes.flipped(meshes.cube(4.0, at=(3, 3, 3)), 2)
    facts = of(np.concatenate([meshes.cube(10.0), inner]))
    assert (facts.closed, facts.oriented, facts.repaired) == (True, False, False)


@pytest.mark.parametrize("copies", [1, 30])
def test_copies_of_facets_are_left_out(copies: int) -> None:
    check_repaired(of(np.concatenate([RING, np.roll(RING[:copies], 1, axis=1)])), "duplicate_facets")


def test_the_same_shell_twice_counts_once() -> None:
    check_repaired(of(np.concatenate([RING, RING])), "duplicate_facets")


def test_a_facet_with_its_own_reverse_goes_altogether() -> None:
    inside = RING[:1] * 0.5 + 1
    facts = of(np.concatenate([RING, RING[:1], RING[:1, ::-1], inside, inside[:, ::-1]]))
    assert facts.volume == pytest.approx(TRUE.volume, rel=1e-9)


@pytest.mark.parametrize("strays", [1, 3])
def test_loose_facets_are_left_out(strays: int) -> None:
    loose = np.random.default_rng(2).uniform(-0.1, 0.1, (strays, 3, 3)) + 20.0
    check_repaired(of(np.concatenate([RING, loose])), "stray_facets")


def test_a_fin_on_an_edge_is_left_out() -> None:
    tip = RING[5, 0] + np.array([0, 0, 0.2])
    fin = np.stack([RING[5, 0], RING[5, 1], tip])[None]
    check_repaired(of(np.concatenate([RING, fin])), "stray_facets")


def test_much_that_hangs_on_is_left_to_a_person() -> None:
    wing = np.stack([RING[5, 0], RING[5, 1], RING[5, 1] + 8.0])[None]
    facts = of(np.concatenate([RING, wing]))
    assert (facts.closed, facts.repaired) == (False, False)
    assert {"open_edges", "edges_shared"} <= codes(facts)


def test_cracks_of_rounding_errors_are_closed() -> None:
    """Half of the ring was moved by a hair: coarser than any grid, finer than anything that is made."""
    cracked = RING.copy()
    cracked[: len(RING) // 2] += np.array([1.7e-5, -0.9e-5, 1.3e-5]) * max(TRUE.extent) / 2
    facts = of(cracked)
    check_repaired(facts, "cracks_closed")


@pytest.mark.parametrize("gap", [1e-2, 0.1])
def test_a_gap_that_can_be_seen_stays_open(gap: float) -> None:
    cracked = RING.copy()
    cracked[: len(RING) // 2, :, 2] += gap * max(TRUE.extent)
    assert not of(cracked).closed


@pytest.mark.parametrize("gap_mm", [1e-4, 1e-3, 2e-2])
def test_a_gap_of_less_than_a_hair_is_closed(gap_mm: float) -> None:
    cracked = RING.copy()
    cracked[: len(RING) // 2, :, 2] += gap_mm
    facts = of(cracked)
    check_repaired(facts, "cracks_closed", rel=1e-3)
    assert firmness_of(facts, "mm").priceable == "auto"


def test_t_junctions_enclose_what_they_enclose() -> None:
    """Facets cut in two along one side of an edge alone."""
    a, b, c = np.swapaxes(RING[::2], 0, 1)
    middle = (a + b) / 2
    halves = np.concatenate([np.stack([a, middle, c], 1), np.stack([middle, b, c], 1)])
    facts = of(np.concatenate([halves, RING[1::2]]))
    assert facts.volume == pytest.approx(TRUE.volume, rel=1e-3)
    assert firmness_of(facts, "mm").priceable == "auto"
    assert "edges_meet" in codes(facts)


@given(st.sets(st.integers(0, len(RING) - 1), min_size=1, max_size=200))
@settings(max_examples=40, deadline=None)
def test_a_hole_is_never_closed(missing: set[int]) -> None:
    facts = of(np.delete(RING, sorted(missing), axis=0))
    assert (facts.closed, facts.repaired) == (False, False)
    assert "open_edges" in codes(facts)


def test_several_faults_at_once_are_put_right() -> None:
    loose = np.random.default_rng(2).uniform(-0.1, 0.1, (1, 3, 3)) + 20.0
    flipped = meshes.flipped(RING, 3, 77, 500)
    facts = of(np.concatenate([flipped, RING[10:12], loose]))
    assert codes(facts) == {"duplicate_facets", "stray_facets", "flipped_facets"}
    assert facts.volume == pytest.approx(TRUE.volume, rel=1e-6)


@given(
    coordinates=st.lists(st.tuples(*[st.floats(-3, 3, width=16)] * 3), min_size=1, max_size=30),
    distance=st.sampled_from([1e-6, 0.37, 1.13, 20.0]),
)
def test_few_points_find_the_pairs_that_many_do(
    coordinates: list[tuple[float, float, float]], distance: float
) -> None:
    points = np.array(coordinates)
    few, many = near_pairs_of_few(points, distance), near_pairs(points, distance)
    assert {tuple(pair) for pair in few.tolist()} == {tuple(sorted(pair)) for pair in many.tolist()}
