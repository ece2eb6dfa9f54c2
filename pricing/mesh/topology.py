"""From loose facets to vertices that facets share, and from those to edges and bodies.

Unlike `measures` this needs all positions at once: some 90 bytes per facet at its peak, hence a limit on the
facets. Positions are told apart by their random number (see `measures`): two of a million share one with a
probability below 10^-7, and no file can be made to do so.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.jit import compiled
from pricing.mesh.measures import EXACT, FACTORS, Grid, number_positions, offset_of
from pricing.readers.corners import Corners

WELD_FACETS_MAX = 4_000_000
"""More facets than this are not welded (some 360 MB and two seconds at the limit)."""

FREE, SHARED, SKIPPED = -1, -2, -3
"""In place of a partner: the edge has one facet; it has more than two; the facet has two equal corners."""

_SORTED_FROM = 24
"""Edges of one vertex are compared each with each up to here, and sorted beyond: no file makes this slow."""

Faces = NDArray[np.int32]
Numbers = NDArray[np.int32]


class Welded(NamedTuple):
    """`faces`, shape (n, 3): vertices of each facet; `places`: for each vertex a corner that lies on it,
    counted through all facets."""

    faces: Faces
    places: NDArray[np.int32]


class Edges(NamedTuple):
    """`partners`, shape (n, 3): for the edge from corner k to k + 1 of each facet the same edge of its
    neighbour (3 * facet + corner), or FREE, SHARED, SKIPPED. The counts are of edges: with one facet, with
    more than two, and with two that run through it in the same direction."""

    partners: Faces
    free: int
    shared: int
    contrary: int

    @property
    def sound(self) -> bool:
        """Every edge has two facets, which agree on what is inside."""
        return self.free == self.shared == self.contrary == 0


def weld(corners: Corners, grid: Grid = EXACT) -> Welded:
    """Equal positions (by cell of `grid`) become one vertex; numbered in the order they appear."""
    faces = np.empty((len(corners), 3), np.int32)
    places = number_positions(corners, offset_of(corners, grid), grid.step, grid.shift, FACTORS, faces)
    return Welded(faces, places)


def match_edges(faces: Faces, vertices: int) -> Edges:
    partners = np.empty((len(faces), 3), np.int32)
    free, shared, contrary = _match(faces, vertices, partners)
    return Edges(partners, int(free), int(shared), int(contrary))


def with_areas(faces: Faces) -> Faces:
    """Without the facets that have two equal corners."""
    a, b, c = faces.T
    real = (a != b) & (b != c) & (c != a)
    return faces if real.all() else np.ascontiguousarray(faces[real])


class BodyLabels(NamedTuple):
    """`labels`: the body of each facet, from 0 in the order of their first facets."""

    labels: NDArray[np.int32]
    number: int


def bodies_of(faces: Faces, vertices: int) -> BodyLabels:
    """Facets that share a vertex belong to one, as in trimesh's `body_count`."""
    labels = np.empty(len(faces), np.int32)
    return BodyLabels(labels, int(_label_bodies(faces, vertices, labels)))


@compiled
def _match(faces: Faces, vertices: int, partners: Faces) -> Any:
    """Edges are gathered at the smaller of their vertices: those of one vertex are few."""
    starts = np.zeros(vertices + 1, np.int32)
    for facet in range(len(faces)):
        a, b, c = faces[facet, 0], faces[facet, 1], faces[facet, 2]
        if a != b and b != c and c != a:
            starts[min(a, b) + 1] += 1
            starts[min(b, c) + 1] += 1
            starts[min(c, a) + 1] += 1
    for vertex in range(vertices):
        starts[vertex + 1] += starts[vertex]
    ends = starts[:-1].copy()
    others, edges = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    for facet in range(len(faces)):
        a, b, c = faces[facet, 0], faces[facet, 1], faces[facet, 2]
        if a == b or b == c or c == a:
            partners[facet, :] = SKIPPED
            continue
        for corner in range(3):
            one, other = faces[facet, corner], faces[facet, (corner + 1) % 3]
            at = ends[min(one, other)]
            others[at], edges[at] = max(one, other), 3 * facet + corner
            ends[min(one, other)] += 1
    free = shared = contrary = 0
    for vertex in range(vertices):
        first, last = starts[vertex], starts[vertex + 1]
        if last - first > _SORTED_FROM:
            order = np.argsort(others[first:last], kind="mergesort")
            others[first:last] = others[first:last][order]
            edges[first:last] = edges[first:last][order]
        more_free, more_shared, more_contrary = _pair(faces, others, edges, first, last, partners.reshape(-1))
        free += more_free
        shared += more_shared
        contrary += more_contrary
    return free, shared, contrary


@compiled
def _pair(faces: Faces, others: Numbers, edges: Numbers, first: int, last: int, partners: Numbers) -> Any:
    """The edges of one vertex, `others` where they lead to; either few or sorted by that."""
    free = shared = contrary = 0
    is_sorted = last - first > _SORTED_FROM
    for at in range(first, last):
        if edges[at] < 0:
            continue
        edge, found, second = edges[at], 1, -1
        for later in range(at + 1, last):
            if others[later] == others[at]:
                found += 1
                if found == 2:
                    second = edges[later]
                    partners[edge], partners[second] = second, edge
                else:
                    partners[edge] = partners[second] = partners[edges[later]] = SHARED
                edges[later] = -1
            elif is_sorted:
                break
        if found == 1:
            partners[edge] = FREE
            free += 1
        elif found > 2:
            shared += 1
        elif faces[edge // 3, edge % 3] == faces[second // 3, second % 3]:
            contrary += 1
    return free, shared, contrary


@compiled
def _label_bodies(faces: Faces, vertices: int, labels: Numbers) -> Any:
    """Union and find (Tarjan), halving paths."""
    parents = np.arange(vertices).astype(np.int32)
    bodies = 0
    for facet in range(len(faces)):
        root = _root(parents, faces[facet, 0])
        for corner in range(1, 3):
            other = _root(parents, faces[facet, corner])
            parents[max(root, other)] = min(root, other)
            root = min(root, other)
    numbers = np.full(vertices, -1, np.int32)
    for facet in range(len(faces)):
        root = _root(parents, faces[facet, 0])
        if numbers[root] < 0:
            numbers[root] = bodies
            bodies += 1
        labels[facet] = numbers[root]
    return bodies


@compiled
def _root(parents: Numbers, vertex: int) -> Any:
    while parents[vertex] != vertex:
        parents[vertex] = parents[parents[vertex]]
        vertex = parents[vertex]
    return vertex


Positions = NDArray[np.float64]


class Mesh(NamedTuple):
    """`faces`, shape (n, 3), into `positions`, shape (vertices, 3), relative to a point near the mesh."""

    faces: Faces
    positions: Positions


class Parts(NamedTuple):
    """`labels`: the part of each facet, from 0; `turned`: facets to turn round so that all of a part agree.
    `turned` is None when the facets of some part cannot agree, as on a Klein bottle."""

    labels: NDArray[np.int32]
    turned: NDArray[np.bool_] | None

    @property
    def number(self) -> int:
        return int(self.labels.max(initial=-1)) + 1


def mesh_of(welded: Welded, corners: Corners) -> Mesh:
    positions = corners.reshape(-1, 3)[welded.places].astype(np.float64)
    return Mesh(welded.faces, positions - positions[0])


def areas(mesh: Mesh) -> NDArray[np.float64]:
    """Of each facet."""
    a, b, c = (mesh.positions[mesh.faces[:, corner]] for corner in range(3))
    doubled: NDArray[np.float64] = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return doubled / 2.0


def volumes(mesh: Mesh) -> NDArray[np.float64]:
    """What each facet adds to the signed volume."""
    a, b, c = (mesh.positions[mesh.faces[:, corner]] for corner in range(3))
    sixfold: NDArray[np.float64] = np.einsum("ij,ij->i", a, np.cross(b, c))
    return sixfold / 6.0


def parts_of(faces: Faces, edges: Edges) -> Parts:
    """Facets hang together where an edge belongs to just two of them. Of the two ways to make a part agree
    the one that turns fewer facets is taken."""
    labels, turned = np.full(len(faces), -1, np.int32), np.zeros(len(faces), np.bool_)
    agree = _spread(faces, edges.partners.reshape(-1), labels, turned)
    return Parts(labels, turned if agree else None)


@compiled
def _spread(faces: Faces, partners: Numbers, labels: Numbers, turned: NDArray[np.bool_]) -> Any:
    """From facet to facet over shared edges. Whether all agree with all their neighbours."""
    agree, part = True, 0
    waiting = np.empty(len(faces), np.int32)
    for start in range(len(faces)):
        if labels[start] >= 0:
            continue
        labels[start] = part
        waiting[0], taken, filled, contrary = start, 0, 1, 0
        while taken < filled:
            facet = waiting[taken]
            taken += 1
            for corner in range(3):
                partner = partners[3 * facet + corner]
                if partner < 0:
                    continue
                neighbour = partner // 3
                same_way = faces[facet, corner] == faces[neighbour, partner % 3]
                if labels[neighbour] < 0:
                    labels[neighbour] = part
                    turned[neighbour] = turned[facet] != same_way
                    contrary += turned[neighbour]
                    waiting[filled] = neighbour
                    filled += 1
                elif (turned[neighbour] != turned[facet]) != same_way:
                    agree = False
        if 2 * contrary > filled:
            for at in range(filled):
                turned[waiting[at]] = not turned[waiting[at]]
        part += 1
    return agree
