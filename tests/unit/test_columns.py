"""Metal by columns: shapes of known volume, however they are built. None is ever firm and wrong."""

import hashlib
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.facts import Facts
from pricing.mesh import columns as columns_module
from pricing.mesh.analysis import analyse, facts_of
from pricing.mesh.columns import measure_columns, turn_of
from pricing.price.firmness import firmness_of
from tests.support import meshes

Triangles = meshes.Triangles

MONEY = 1e-3
"""What a firm volume may be wrong by."""


def box(lower: tuple[float, float, float], upper: tuple[float, float, float]) -> Triangles:
    sides = np.subtract(upper, lower)
    facets: Triangles = meshes.cube(1.0) * sides + np.array(lower)
    return facets


def ball(radius: float, rings: int = 32, at: tuple[float, float, float] = (0, 0, 0)) -> Triangles:
    """Facets between circles of latitude, as 3D programs make them."""
    latitude = np.linspace(0, np.pi, rings + 1)
    longitude = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    points = np.stack(
        [
            np.outer(np.sin(latitude), np.cos(longitude)),
            np.outer(np.sin(latitude), np.sin(longitude)),
            np.outer(np.cos(latitude), np.ones(2 * rings)),
        ],
        axis=2,
    )
    points[[0, -1]] = np.array([[[0, 0, 1.0]], [[0, 0, -1.0]]])
    below, right = points[1:], np.roll(points, -1, axis=1)
    one = np.stack([points[:-1], below, np.roll(below, -1, axis=1)], axis=2).reshape(-1, 3, 3)
    other = np.stack([points[:-1], np.roll(below, -1, axis=1), right[:-1]], axis=2).reshape(-1, 3, 3)
    both = np.concatenate([one, other])
    area = np.linalg.norm(np.cross(both[:, 1] - both[:, 0], both[:, 2] - both[:, 0]), axis=1)
    facets: Triangles = both[area > 1e-12] * radius + np.array(at)
    return facets


def prism(outline: list[tuple[float, float]], height: float) -> Triangles:
    """Over a polygon whose sides may cross; the ends are fans from its middle."""
    middle = np.mean(outline, axis=0)
    facets = []
    for (x, y), (u, v) in zip(outline, [*outline[1:], outline[0]], strict=True):
        facets += [
            [(x, y, 0), (u, v, 0), (u, v, height)],
            [(x, y, 0), (u, v, height), (x, y, height)],
            [(*middle, height), (x, y, height), (u, v, height)],
            [(*middle, 0), (u, v, 0), (x, y, 0)],
        ]
    return np.array(facets, np.float64)


def volume_of(triangles: Triangles) -> float:
    middle = triangles.reshape(-1, 3).mean(axis=0)
    a, b, c = np.swapaxes(triangles - middle, 0, 1)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def turned(triangles: Triangles) -> Triangles:
    return triangles[:, ::-1]


def star(points: int, step: int, radius: float) -> list[tuple[float, float]]:
    """A polygon that goes round its middle `step` times."""
    angles = [2 * math.pi * step * number / points for number in range(points)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def star_area(points: int, step: int, radius: float) -> float:
    """Of what such a polygon covers: its outline runs between tips and the crossings next to them."""
    half = math.pi / points
    inner = radius * math.cos(math.pi * step / points) / math.cos(math.pi * (step - 1) / points)
    return points * radius * inner * math.sin(half)


class Shape(NamedTuple):
    facets: Triangles
    volume: float
    sound: bool = True
    """Whether a price should be firm."""


RING = meshes.torus(around=96, across=32)
RING_VOLUME = volume_of(RING)
WIRE = meshes.torus(70.0, 0.15, around=400, across=12)
BALL = ball(6.0)
HOLLOW = ball(5.0, 24)
BEAD = ball(3.0, 16)
PIT = ball(1.5, 12)


def cracked(gap: float) -> Triangles:
    ring = RING.copy()
    ring[: len(RING) // 2, :, 2] += gap
    return ring


def united(count: int) -> tuple[Triangles, float]:
    """Boxes along a bar, each reaching a little into it."""
    bar = box((0, 0, 0), (20, 2, 2))
    prongs = [box((2.5 * n + 1, 0.5, 1.5), (2.5 * n + 2, 1.5, 4)) for n in range(count)]
    return np.concatenate([bar, *prongs]), 80 + count * 2.0


SHAPES: dict[str, Callable[[], Shape]] = {
    "ball": lambda: Shape(BALL, volume_of(BALL)),
    "ring": lambda: Shape(RING, RING_VOLUME),
    "ring inside out": lambda: Shape(turned(RING), RING_VOLUME),
    "box": lambda: Shape(box((0, 0, 0), (20, 10, 5)), 1000),
    "pentagram": lambda: Shape(prism(star(5, 2, 10), 4), 4 * star_area(5, 2, 10), False),
    "heptagram": lambda: Shape(prism(star(7, 3, 10), 4), 4 * star_area(7, 3, 10), False),
    "heptagram of two turns": lambda: Shape(prism(star(7, 2, 10), 4), 4 * star_area(7, 2, 10), False),
    "pentagram inside out": lambda: Shape(turned(prism(star(5, 2, 10), 4)), 4 * star_area(5, 2, 10), False),
    "a wire": lambda: Shape(WIRE, volume_of(WIRE)),
    "ring twice": lambda: Shape(np.concatenate([RING, RING]), RING_VOLUME, False),
    "ring twice, moved by a hair": lambda: Shape(np.concatenate([RING, RING + 1e-5]), RING_VOLUME),
    "cavity": lambda: Shape(np.concatenate([BALL, turned(HOLLOW)]), volume_of(BALL) - volume_of(HOLLOW)),
    "bead in a cavity": lambda: Shape(
        np.concatenate([BALL, turned(HOLLOW), BEAD]), volume_of(BALL) - volume_of(HOLLOW) + volume_of(BEAD)
    ),
    "pit in a bead in a cavity": lambda: Shape(
        np.concatenate([BALL, turned(HOLLOW), BEAD, turned(PIT)]),
        volume_of(BALL) - volume_of(HOLLOW) + volume_of(BEAD) - volume_of(PIT),
    ),
    "all of that inside out": lambda: Shape(
        turned(np.concatenate([BALL, turned(HOLLOW), BEAD, turned(PIT)])),
        volume_of(BALL) - volume_of(HOLLOW) + volume_of(BEAD) - volume_of(PIT),
    ),
    "a body in a body": lambda: Shape(np.concatenate([BALL, BEAD]), volume_of(BALL)),
    "prongs": lambda: Shape(*united(6)),
    "one prong": lambda: Shape(*united(1)),
    "boxes that share a face": lambda: Shape(
        np.concatenate([box((0, 0, 0), (10, 10, 5)), box((10, 0, 0), (15, 10, 5))]), 750
    ),
    "boxes that share half a face": lambda: Shape(
        np.concatenate([box((0, 0, 0), (10, 10, 5)), box((10, 3, 0), (15, 8, 5))]), 625
    ),
    "boxes that share an edge": lambda: Shape(
        np.concatenate([box((0, 0, 0), (10, 10, 5)), box((10, 10, 0), (15, 15, 5))]), 625
    ),
    "boxes apart": lambda: Shape(
        np.concatenate([box((0, 0, 0), (10, 10, 5)), box((11, 0, 0), (15, 10, 5))]), 700
    ),
    "crack of 0.1 um": lambda: Shape(cracked(1e-4), RING_VOLUME),
    "crack of 1 um": lambda: Shape(cracked(1e-3), RING_VOLUME),
    "crack of 10 um": lambda: Shape(cracked(1e-2), RING_VOLUME),
    "crack of 50 um": lambda: Shape(cracked(5e-2), RING_VOLUME, False),
    "a facet in a hundred missing": lambda: Shape(
        np.delete(RING, slice(0, 3000, 100), 0), RING_VOLUME, False
    ),
    "at 1e3": lambda: Shape((RING + 1e3).astype(np.float32).astype(np.float64), RING_VOLUME),
    "at 1e4": lambda: Shape((RING + 1e4).astype(np.float32).astype(np.float64), RING_VOLUME, False),
    "at 1e6": lambda: Shape((RING + 1e6).astype(np.float32).astype(np.float64), RING_VOLUME, False),
    "at 1e7": lambda: Shape((RING + 1e7).astype(np.float32).astype(np.float64), RING_VOLUME, False),
}


def facts(shape: Shape) -> Facts:
    return analyse(meshes.ascii_stl(shape.facets))


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_firm_is_right_and_what_is_sound_is_firm(name: str) -> None:
    shape = SHAPES[name]()
    found = facts(shape)
    firmness = firmness_of(found, "mm")
    if firmness.priceable == "auto":
        assert found.volume == pytest.approx(shape.volume, rel=MONEY)
    assert not shape.sound or firmness.priceable == "auto", firmness.warnings


@pytest.mark.parametrize("name", ["pentagram", "heptagram", "heptagram of two turns", "pentagram inside out"])
def test_what_passes_through_itself_has_the_volume_of_its_metal(name: str) -> None:
    shape = SHAPES[name]()
    found = facts(shape)
    assert found.volume == pytest.approx(shape.volume, rel=5e-3)
    assert "self_crossing" in {warning.code for warning in found.warnings}
    assert firmness_of(found, "mm").priceable == "provisional"


def test_cavities_are_told_apart_and_are_no_bodies() -> None:
    found = facts(SHAPES["pit in a bead in a cavity"]())
    assert found.cavities == pytest.approx(volume_of(HOLLOW) + volume_of(PIT), rel=1e-6)
    assert found.bodies == 2
    area = facts(Shape(BALL, 0)).area + facts(Shape(BEAD, 0)).area
    assert found.area == pytest.approx(area, rel=1e-6)


def test_what_counts_twice_and_what_is_inside_out_is_measured() -> None:
    """Two cubes of 10 mm that share 125 mm3; and one of them turned inside out."""
    one, other = box((0, 0, 0), (10, 10, 10)), box((5, 5, 5), (15, 15, 15))
    both = facts(Shape(np.concatenate([one, other]), 0))
    assert both.counted_twice == pytest.approx(125, rel=1e-2)
    assert both.metal == pytest.approx(1875, rel=1e-3)
    turn = turn_of(hashlib.sha256(b"").digest())
    found = measure_columns(np.concatenate([one, one + 20, turned(other)]), turn)
    assert found is not None
    assert found.inside_out == pytest.approx(875, rel=2e-2)
    assert found.metal == pytest.approx(1875, rel=2e-2)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_columns_find_the_sums_whichever_way_they_run(seed: bytes) -> None:
    found = measure_columns(RING, turn_of(seed))
    assert found is not None
    assert found.signed == pytest.approx(RING_VOLUME, rel=2e-3)
    assert (found.counted_twice, found.inside_out, found.leaks) == pytest.approx((0, 0, 0), abs=1e-9)
    assert np.allclose(turn_of(seed) @ turn_of(seed).T, np.eye(3))


def test_the_same_bytes_give_the_same_facts_and_others_another_turn() -> None:
    body = meshes.binary_stl(SHAPES["pentagram"]().facets)
    digest = hashlib.sha256(body)
    assert analyse(body) == analyse(body) == analyse(body, sha256=digest.hexdigest())
    other = hashlib.sha256(body + b"\n").hexdigest()
    assert analyse(body).volume != analyse(body, sha256=other).volume


def test_too_much_for_columns_is_not_firm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_module, "CELLS_MAX", 1_000)
    found = facts_of(RING, "stl-ascii", None)
    assert found.metal is None
    assert firmness_of(found, "mm").priceable == "provisional"
