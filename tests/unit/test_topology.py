"""Vertices, edges and bodies of a mesh: against plain dictionaries, and whatever the file does."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pricing.mesh.measures import Grid
from pricing.mesh.topology import (
    FREE,
    SHARED,
    SKIPPED,
    Faces,
    bodies_of,
    match_edges,
    parts_of,
    weld,
    with_areas,
)
from tests.support import meshes

FACES = st.lists(st.tuples(*[st.integers(0, 7)] * 3), min_size=1, max_size=40)
VERTICES = 8


def array(faces: list[tuple[int, ...]]) -> Faces:
    return np.array(faces, np.int32)


def edges_of(faces: list[tuple[int, ...]]) -> dict[frozenset[int], list[tuple[int, int]]]:
    """Edge -> the directions it is run through in, of facets with three different corners."""
    found: dict[frozenset[int], list[tuple[int, int]]] = defaultdict(list)
    for a, b, c in faces:
        if len({a, b, c}) == 3:
            for edge in ((a, b), (b, c), (c, a)):
                found[frozenset(edge)].append(edge)
    return found


@given(FACES)
@settings(max_examples=300, deadline=None)
def test_edges_are_counted_as_a_dictionary_counts_them(faces: list[tuple[int, ...]]) -> None:
    edges = match_edges(array(faces), VERTICES)
    expected = edges_of(faces).values()
    assert edges.free == sum(len(each) == 1 for each in expected)
    assert edges.shared == sum(len(each) > 2 for each in expected)
    assert edges.contrary == sum(len(each) == 2 and each[0] == each[1] for each in expected)


@given(FACES)
@settings(max_examples=300, deadline=None)
def test_partners_are_each_others_and_share_their_edge(faces: list[tuple[int, ...]]) -> None:
    expected = edges_of(faces)
    partners = match_edges(array(faces), VERTICES).partners
    for place, partner in enumerate(partners.reshape(-1).tolist()):
        facet, corner = divmod(place, 3)
        edge = frozenset((faces[facet][corner], faces[facet][(corner + 1) % 3]))
        if len(set(faces[facet])) < 3:
            assert partner == SKIPPED
        elif len(expected[edge]) != 2:
            assert partner == (FREE if len(expected[edge]) == 1 else SHARED)
        else:
            other, at = divmod(partner, 3)
            assert partners[other, at] == place
            assert frozenset((faces[other][at], faces[other][(at + 1) % 3])) == edge


def test_a_vertex_with_very_many_edges_is_matched_like_any_other() -> None:
    """A fan round one vertex: comparing each edge with each would take minutes."""
    around = 300_000
    rim = np.arange(1, around + 1, dtype=np.int32)
    fan = np.stack([np.zeros(around, np.int32), rim, np.roll(rim, -1)], axis=1)
    edges = match_edges(fan, around + 1)
    assert (edges.free, edges.shared, edges.contrary) == (around, 0, 0)


@given(FACES)
@settings(max_examples=200, deadline=None)
def test_bodies_are_the_components_of_a_graph(faces: list[tuple[int, ...]]) -> None:
    groups: list[set[int]] = []
    for face in faces:
        touched = [group for group in groups if group & set(face)]
        groups = [group for group in groups if group not in touched] + [set(face).union(*touched)]
    labels, number = bodies_of(array(faces), VERTICES)
    assert number == len(groups)
    assert list(dict.fromkeys(labels.tolist())) == list(range(number))  # in the order of the facets
    for group in groups:
        assert len({label for label, face in zip(labels, faces, strict=True) if group & set(face)}) == 1


@given(FACES)
def test_facets_without_area_are_left_out(faces: list[tuple[int, ...]]) -> None:
    assert with_areas(array(faces)).tolist() == [list(face) for face in faces if len(set(face)) == 3]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_equal_positions_are_one_vertex_and_others_are_not(precision: type[np.floating]) -> None:
    random = np.random.default_rng(3)
    points = random.integers(-3, 4, (500, 3)).astype(precision) / 4
    corners: NDArray[np.floating] = points[random.integers(0, 500, (900, 3))]
    corners[::7] *= -1  # some zeros become negative
    welded = weld(corners)
    assert len(welded.places) == len(np.unique(corners.reshape(-1, 3) + 0.0, axis=0))
    assert (corners.reshape(-1, 3)[welded.places][welded.faces] == corners).all()


def test_loose_facets_have_a_vertex_for_every_corner() -> None:
    corners = np.random.default_rng(5).normal(0, 1, (5_000, 3, 3))
    assert len(weld(corners).places) == 15_000


def test_positions_in_one_cell_are_one_vertex() -> None:
    triangles = meshes.torus(around=12, across=6)
    noisy = triangles + np.random.default_rng(1).uniform(-1e-9, 1e-9, triangles.shape)
    assert len(weld(noisy, Grid(1e-3, 0.3819)).places) == len(weld(triangles).places)


def test_a_moebius_strip_has_no_sides_that_agree() -> None:
    around = 12
    low, high = np.arange(around), np.arange(around) + around
    next_low, next_high = np.roll(low, -1), np.roll(high, -1)
    next_low[-1], next_high[-1] = high[0], low[0]
    first = np.stack([low, next_low, high], axis=1)
    second = np.stack([next_low, next_high, high], axis=1)
    faces = np.concatenate([first, second]).astype(np.int32)
    assert parts_of(faces, match_edges(faces, 2 * around)).turned is None


@given(st.sets(st.integers(0, 143), max_size=143))
@settings(max_examples=50, deadline=None)
def test_the_fewer_facets_are_turned(wrong: set[int]) -> None:
    triangles = meshes.torus(around=12, across=6)
    faces = weld(triangles).faces.copy()
    faces[sorted(wrong)] = faces[sorted(wrong)][:, ::-1]
    turned = parts_of(faces, match_edges(faces, 72)).turned
    assert turned is not None
    assert turned.sum() == min(len(wrong), 144 - len(wrong))
