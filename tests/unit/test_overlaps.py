"""Several bodies in one file: nothing counts twice, and cavities stay cavities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.facts import Facts
from pricing.mesh import overlaps
from pricing.mesh.analysis import facts_of
from pricing.price.firmness import firmness_of
from tests.support import meshes

Cube = tuple[float, float, float]


def of(*bodies: meshes.Triangles) -> Facts:
    return facts_of(np.concatenate(bodies), "stl-ascii", None)


def codes(facts: Facts) -> list[str]:
    return [warning.code for warning in facts.warnings]


def test_overlapping_cubes_count_what_they_share_once() -> None:
    facts = of(meshes.cube(), meshes.cube(at=(5, 5, 5)))
    assert facts.volume == pytest.approx(2000 - 125)
    assert facts.area == pytest.approx(1200 - 2 * 3 * 25)
    assert (facts.bodies, facts.repaired, codes(facts)) == (1, True, ["bodies_overlap"])
    assert firmness_of(facts, "mm").priceable == "auto"


def test_cubes_apart_are_firm() -> None:
    facts = of(meshes.cube(), meshes.cube(at=(11, 0, 0)))
    assert facts.volume == pytest.approx(2000)
    assert (facts.bodies, facts.repaired) == (2, False)
    assert firmness_of(facts, "mm").priceable == "auto"


def test_rings_through_each_other_whose_boxes_meet_do_not_overlap() -> None:
    ring = meshes.torus(around=40, across=12)
    through = ring[:, :, [0, 2, 1]][:, ::-1] + np.array([np.ptp(ring[..., 0]) / 2 * 0.8, 0, 0])
    facts = of(ring, through)
    assert facts.volume == pytest.approx(2 * of(ring).volume)
    assert codes(facts) == ["several_bodies"]


def test_a_cavity_takes_its_metal_away() -> None:
    facts = of(meshes.cube(), meshes.flipped(meshes.cube(4.0, at=(3, 3, 3))))
    assert facts.volume == pytest.approx(1000 - 64)
    assert "bodies_contradict" not in codes(facts)
    assert not facts.repaired


def test_a_body_within_a_body_counts_once() -> None:
    facts = of(meshes.cube(), meshes.cube(4.0, at=(3, 3, 3)))
    assert facts.volume == pytest.approx(1000)
    assert codes(facts) == ["bodies_overlap"]


def test_a_body_apart_that_faces_inwards_is_turned_round() -> None:
    facts = of(meshes.cube(), meshes.flipped(meshes.cube(at=(20, 0, 0))))
    assert facts.volume == pytest.approx(2000)
    assert codes(facts) == ["inverted_bodies", "several_bodies"]


def test_a_body_that_faces_inwards_half_within_another_is_for_a_person() -> None:
    facts = of(meshes.cube(), meshes.flipped(meshes.cube(at=(5, 5, 5))))
    assert "bodies_contradict" in codes(facts)
    assert firmness_of(facts, "mm").priceable == "manual"


def test_bodies_with_very_many_facets_are_not_united(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaps, "UNITED_FACETS_MAX", 20)
    facts = of(meshes.cube(), meshes.cube(at=(5, 5, 5)))
    assert codes(facts) == ["bodies_unchecked"]
    assert firmness_of(facts, "mm").priceable == "provisional"


def test_very_many_bodies_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlaps, "PARTS_MAX", 2)
    facts = of(*[meshes.cube(at=(20 * n, 0, 0)) for n in range(3)])
    assert (codes(facts), facts.bodies) == (["bodies_unchecked"], 3)


WHOLE = st.integers(0, 6)


@given(st.lists(st.tuples(WHOLE, WHOLE, WHOLE), min_size=2, max_size=5, unique=True))
@settings(max_examples=60, deadline=None)
def test_volume_of_any_cubes_is_that_of_the_cells_they_fill(places: list[tuple[int, int, int]]) -> None:
    """Cubes of three cells, each a hair off the others' faces so that none coincide."""
    hair = 1e-3
    bodies = [
        meshes.cube(3.0, at=(x + hair * n, y + hair * n, z + hair * n)) for n, (x, y, z) in enumerate(places)
    ]
    filled = {
        (x + i, y + j, z + k) for x, y, z in places for i in range(3) for j in range(3) for k in range(3)
    }
    assert of(*bodies).volume == pytest.approx(len(filled), rel=0.02)
