"""Volume, area, box, closedness and bodies: against trimesh, against known solids, and under changes that
must not matter.
"""

import tracemalloc

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.mesh import analysis as facts_module
from pricing.mesh.analysis import analyse, facts_of
from pricing.mesh.measures import EXACT, Grid, edge_residues, measure
from pricing.price.firmness import firmness_of
from pricing.readers import stl
from tests.support import meshes


def of(triangles: meshes.Triangles) -> Facts:
    return facts_of(triangles, "stl-ascii", None)


def codes(facts: Facts) -> set[str]:
    return {warning.code for warning in facts.warnings}


def rotation(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = Rotation.from_euler("xyz", angles).as_matrix()
    return matrix


ANGLE = st.floats(-3.1, 3.1)
OFFSET = st.floats(-1000, 1000)


def test_cube_is_known_exactly() -> None:
    facts = of(meshes.cube(2.0))
    assert facts.volume == pytest.approx(8)
    assert facts.area == pytest.approx(24)
    assert facts.extent == pytest.approx((2, 2, 2), rel=1e-12)
    assert (facts.bodies, facts.closed, facts.oriented, facts.repaired) == (1, True, True, False)
    assert facts.warnings == ()


@pytest.mark.parametrize("around", [3, 24, 200])
def test_ring_agrees_with_trimesh(around: int) -> None:
    triangles = meshes.torus(around=around)
    vertices, faces = meshes.indexed(triangles)
    mesh = trimesh.Trimesh(vertices, faces)
    facts = of(triangles)
    assert facts.volume == pytest.approx(mesh.volume, rel=1e-9)
    assert facts.area == pytest.approx(mesh.area, rel=1e-9)
    assert facts.extent == pytest.approx(tuple(mesh.extents), rel=1e-12)
    assert facts.bodies == mesh.body_count
    assert mesh.is_volume


@given(
    angles=st.tuples(ANGLE, ANGLE, ANGLE),
    offset=st.tuples(OFFSET, OFFSET, OFFSET),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40, deadline=None)
def test_place_attitude_and_order_do_not_matter(
    angles: tuple[float, float, float], offset: tuple[float, float, float], seed: int
) -> None:
    triangles = meshes.torus(around=12, across=6)
    random = np.random.default_rng(seed)
    moved = (triangles @ rotation(angles).T + offset)[random.permutation(len(triangles))]
    turned = np.stack([np.roll(facet, random.integers(3), axis=0) for facet in moved])
    before, after = of(triangles), of(turned)
    assert after.volume == pytest.approx(before.volume, rel=1e-9)
    assert after.area == pytest.approx(before.area, rel=1e-9)
    assert (after.closed, after.oriented, after.bodies) == (True, True, 1)


@given(scale=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_volume_grows_with_the_cube_of_the_unit(scale: float) -> None:
    before, after = of(meshes.torus(around=12, across=6)), of(meshes.torus(around=12, across=6) * scale)
    assert after.volume == pytest.approx(before.volume * scale**3, rel=1e-9)
    assert after.area == pytest.approx(before.area * scale**2, rel=1e-9)
    assert after.closed


@given(seed=st.integers(0, 2**32), missing=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_ring_with_any_facets_missing_is_open(seed: int, missing: int) -> None:
    triangles = meshes.torus(around=12, across=6)
    kept = np.random.default_rng(seed).permutation(len(triangles))[missing:]
    facts = of(triangles[kept])
    assert (facts.closed, facts.oriented) == (False, False)


def test_symmetric_holes_do_not_cancel() -> None:
    triangles = meshes.cube(2.0, at=(-1, -1, -1))
    for first in range(0, 12, 2):
        for second in range(first + 2, 12, 2):
            kept = np.delete(triangles, [first, first + 1, second, second + 1], axis=0)
            assert not of(kept).closed


def test_negative_zero_is_zero() -> None:
    triangles = meshes.cube(2.0)
    mixed = triangles.copy()
    mixed[::2][mixed[::2] == 0] = -0.0
    assert measure(mixed).edges_cancel
    assert measure(stl.read_binary(memoryview(meshes.binary_stl(mixed))).corners).edges_cancel
    assert analyse(meshes.binary_stl(mixed)).bodies == 1


@pytest.mark.parametrize("jitter", [1e-15, 1e-13])
def test_positions_that_differ_in_their_last_digits_are_one(jitter: float) -> None:
    """What CAD programs write where a coordinate should be zero."""
    triangles = meshes.cube(2.0, at=(-1, -1, 0))
    noisy = triangles + np.where(
        triangles == 0, np.random.default_rng(1).normal(0, jitter, triangles.shape), 0
    )
    facts = analyse(meshes.binary_stl(noisy))
    assert (facts.closed, facts.oriented, facts.bodies) == (True, True, 1)


def test_single_precision_far_from_the_origin_is_still_closed() -> None:
    triangles = meshes.torus() + np.array([3000.0, -2000.0, 500.0])
    facts = analyse(meshes.binary_stl(triangles))
    assert facts.closed
    assert facts.volume == pytest.approx(of(meshes.torus()).volume, rel=1e-3)


def test_inside_out_is_priced_by_its_size_with_a_warning() -> None:
    facts = of(meshes.flipped(meshes.torus()))
    assert facts.volume == pytest.approx(of(meshes.torus()).volume)
    assert facts.oriented
    assert codes(facts) == {"inverted"}


def test_degenerate_facet_does_not_open_a_mesh() -> None:
    triangles = meshes.cube()
    point = np.repeat(triangles[:1, :1], 3, axis=1)
    edge = triangles[:1, [0, 1, 1]]
    facts = of(np.concatenate([triangles, point, edge]))
    assert facts.volume == pytest.approx(1000)
    assert (facts.closed, facts.oriented, facts.bodies) == (True, True, 1)
    assert codes(facts) == {"degenerate_facets"}


def test_bodies_apart_are_counted() -> None:
    assert of(np.concatenate([meshes.cube(at=(20 * n, 0, 0)) for n in range(7)])).bodies == 7


@pytest.mark.parametrize(
    ("at", "area"), [((10, 10, 0), 1200), ((10, 0, 0), 1000), ((10, 5, 0), 1100), ((10, 10, 10), 1200)]
)
def test_cubes_that_touch_are_two_cubes_with_the_area_that_is_left(
    at: tuple[int, int, int], area: float
) -> None:
    facts = of(np.concatenate([meshes.cube(), meshes.cube(at=at)]))
    assert facts.volume == pytest.approx(2000)
    assert facts.area == pytest.approx(area)
    assert (facts.closed, facts.oriented) == (True, True)
    assert firmness_of(facts, "mm").priceable == "auto"


def test_bodies_are_not_counted_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "WELD_FACETS_MAX", 100)
    facts = of(meshes.torus())
    assert facts.bodies is None
    assert codes(facts) == {"bodies_not_counted"}


def test_no_facets_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="no_facets"):
        of(np.empty((0, 3, 3)))
    monkeypatch.setattr(facts_module, "FACETS_MAX", 11)
    with pytest.raises(Refused, match="too_many_facets"):
        of(meshes.cube())


def test_coordinates_beyond_the_limit_are_refused() -> None:
    with pytest.raises(Refused, match="coordinate_limit"):
        of(meshes.cube(at=(2e9, 0, 0)))


@pytest.mark.parametrize("grid", [EXACT, Grid(0.001, 0.3)])
def test_directed_and_undirected_edges_are_told_apart(grid: Grid) -> None:
    triangles = meshes.flipped(meshes.cube(), 0)
    needle = meshes.cube()[:1, [0, 1, 1]]
    assert edge_residues(triangles, grid) == (False, True)
    assert edge_residues(np.concatenate([triangles, needle]), grid) == (False, True)


@pytest.mark.parametrize("facets", [1, 2, 4097, 9999])
def test_box_and_area_are_those_of_numpy(facets: int) -> None:
    triangles = meshes.torus(around=100, across=50)[:facets]
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    measures = measure(triangles)
    assert measures.area == pytest.approx(np.linalg.norm(cross, axis=1).sum() / 2, rel=1e-12)
    assert measures.lower == pytest.approx(triangles.min(axis=(0, 1)))
    assert measures.upper == pytest.approx(triangles.max(axis=(0, 1)))


def test_memory_beyond_the_body_does_not_grow_with_the_mesh() -> None:
    body = memoryview(meshes.binary_stl(meshes.torus(around=500, across=200)))
    tracemalloc.start()
    measure(stl.read_binary(body).corners)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3_000_000 < len(body)
