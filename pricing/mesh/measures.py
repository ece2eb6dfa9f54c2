"""Volume, area, box and closedness of a mesh in one pass, with memory that does not grow with the mesh.

Volume and area follow Zhang and Chen, "Efficient feature extraction for 2D/3D objects in mesh
representation" (ICIP 2001): signed tetrahedra over a point near the mesh, and half the length of each
facet's cross product.

Closedness without sorting. Every vertex position gets one pseudo-random 64-bit number h. A facet (a, b, c)
adds

    (h_b - h_a) (h_c - h_a) (h_c - h_b)   mod 2^64

which is the sum of h_x h_y (h_y - h_x) over its directed edges (Vandermonde). An edge and its reverse
cancel, every other edge leaves its own monomials, so the total is zero when each directed edge is met by
its reverse (closed and consistently oriented), and for any other mesh with a probability near 2^-60. The
numbers are drawn anew in every process, because files come from strangers. A facet together with its exact
reverse also cancels; it adds no volume.
"""

import secrets
from typing import Any, NamedTuple

import numpy as np
from numpy import floor, sqrt
from numpy.typing import NDArray

from pricing.jit import compiled, inlined
from pricing.readers.corners import Corners

Point = NDArray[np.float64]
"""Shape (3,)."""
Factors = NDArray[np.uint64]


class Grid(NamedTuple):
    """Positions are compared as cells of this width (native units), the whole grid moved by `shift` cells."""

    step: float
    shift: float


EXACT = Grid(0.0, 0.0)
"""Positions are compared bit for bit in single precision; -0 is 0. Double-precision files are compared
relative to their first vertex, which never opens a closed mesh."""


class Measures(NamedTuple):
    """What one pass over a mesh gives; lengths in the file's own unit."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    signed_volume: float
    area: float
    edges_cancel: bool
    finite: bool


SINGLE_PRECISION = 1.2e-7
"""What a coordinate in single precision may be wrong by, as a share of it."""


def distance_of(measures: Measures) -> float:
    """Of the farthest side of the box from the origin."""
    return float(np.abs(np.concatenate([measures.lower, measures.upper])).max())


class EdgeResidues(NamedTuple):
    """Whether the edges of a mesh pair up: with opposite directions; regardless of direction."""

    directed_cancel: bool
    undirected_cancel: bool


# Drawn once per process, and odd: a file cannot be built so that its edges cancel by design.
FACTORS = np.array([secrets.randbits(64) | 1 for _ in range(5)], np.uint64)
"""One for each axis, one to mix, one for edges."""


def measure(corners: Corners) -> Measures:
    """Box, signed volume, area and exact closedness of at least one facet, shape (n, 3, 3).

    The volume is taken about the first vertex: about the file's origin, a small part far away would lose its
    digits. When a coordinate is not finite nothing but that is told.
    """
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    signed, area, residue, poison = _measure(
        corners, first_vertex(corners), offset_of(corners), FACTORS, lower, upper
    )
    return Measures(lower, upper, float(signed), float(area), int(residue) == 0, bool(poison == 0.0))


def edge_residues(corners: Corners, grid: Grid) -> EdgeResidues:
    """Whether the edges pair up when positions are compared so."""
    directed, undirected = _residues(corners, offset_of(corners, grid), *grid, FACTORS)
    return EdgeResidues(int(directed) == 0, int(undirected) == 0)


def first_vertex(corners: Corners) -> Point:
    """The first corner of the first facet, shape (3,): the point volumes are taken about."""
    with np.errstate(invalid="ignore"):  # what is no number is refused with the box
        return np.array(corners[0, 0], np.float64)


def offset_of(corners: Corners, grid: Grid = EXACT) -> Point:
    """The point that positions are compared relative to."""
    if grid == EXACT and corners.dtype == np.float32:
        return np.zeros(3)
    return first_vertex(corners)


@inlined
def _key_of(value: float, offset: float, step: float, shift: float) -> Any:
    """One coordinate as an integer: equal for what counts as the same place."""
    if step == 0.0:
        # Adding zero turns -0 into 0.
        return np.uint64(np.float32((value - offset) + 0.0).view(np.uint32))
    return np.uint64(np.int64(floor((value - offset) / step + shift)))


@inlined
def _hash_of(corner: Point, offset: Point, step: float, shift: float, factors: Factors) -> Any:
    """The pseudo-random number of a position, shape (3,)."""
    number = _key_of(corner[0], offset[0], step, shift) * factors[0]
    number += _key_of(corner[1], offset[1], step, shift) * factors[1]
    number += _key_of(corner[2], offset[2], step, shift) * factors[2]
    # High bits must reach the low ones: coordinates with short mantissas leave those zero, and the products
    # of differences would then keep nothing. Without the second shift the number would stay linear, and
    # symmetric holes would cancel.
    number ^= number >> np.uint64(32)
    number *= factors[3]
    return number ^ (number >> np.uint64(29))


@inlined
def _edge_hash(one: Any, other: Any, factor: np.uint64) -> Any:
    """The same in both directions; 0 from a vertex to itself, which borders nothing."""
    if one == other:
        return np.uint64(0)
    number = one + other
    number ^= number >> np.uint64(32)
    number *= factor
    return number ^ (number >> np.uint64(29))


@compiled
def _measure(
    corners: Corners, origin: Point, offset: Point, factors: Factors, lower: Point, upper: Point
) -> Any:
    volume = area = poison = 0.0
    residue = np.uint64(0)
    x, y, z = origin[0], origin[1], origin[2]
    low_x = low_y = low_z = np.inf
    high_x = high_y = high_z = -np.inf
    for facet in range(len(corners)):
        ax, ay, az = corners[facet, 0, 0] - x, corners[facet, 0, 1] - y, corners[facet, 0, 2] - z
        bx, by, bz = corners[facet, 1, 0] - x, corners[facet, 1, 1] - y, corners[facet, 1, 2] - z
        cx, cy, cz = corners[facet, 2, 0] - x, corners[facet, 2, 1] - y, corners[facet, 2, 2] - z
        poison += (ax + ay + az) * 0.0 + (bx + by + bz) * 0.0 + (cx + cy + cz) * 0.0
        low_x, high_x = min(low_x, ax, bx, cx), max(high_x, ax, bx, cx)
        low_y, high_y = min(low_y, ay, by, cy), max(high_y, ay, by, cy)
        low_z, high_z = min(low_z, az, bz, cz), max(high_z, az, bz, cz)
        ux, uy, uz = bx - ax, by - ay, bz - az
        vx, vy, vz = cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        volume += nx * ax + ny * ay + nz * az
        area += sqrt(nx * nx + ny * ny + nz * nz)
        a = _hash_of(corners[facet, 0], offset, 0.0, 0.0, factors)
        b = _hash_of(corners[facet, 1], offset, 0.0, 0.0, factors)
        c = _hash_of(corners[facet, 2], offset, 0.0, 0.0, factors)
        residue += (b - a) * (c - a) * (c - b)
    lower[:] = low_x + x, low_y + y, low_z + z
    upper[:] = high_x + x, high_y + y, high_z + z
    return volume / 6.0, area / 2.0, residue, poison


@compiled
def _residues(corners: Corners, offset: Point, step: float, shift: float, factors: Factors) -> Any:
    directed = undirected = np.uint64(0)
    for facet in range(len(corners)):
        a = _hash_of(corners[facet, 0], offset, step, shift, factors)
        b = _hash_of(corners[facet, 1], offset, step, shift, factors)
        c = _hash_of(corners[facet, 2], offset, step, shift, factors)
        directed += (b - a) * (c - a) * (c - b)
        undirected ^= (
            _edge_hash(a, b, factors[4]) ^ _edge_hash(b, c, factors[4]) ^ _edge_hash(c, a, factors[4])
        )
    return directed, undirected


@compiled
def number_positions(
    corners: Corners, offset: Point, step: float, shift: float, factors: Factors, faces: NDArray[np.int32]
) -> Any:
    """Fills `faces`, shape (n, 3), with the number of each corner's position, in the order they appear.
    Returns for each position a corner that lies there, counted through all facets."""
    facets = len(corners)
    bits = 8
    while (1 << bits) < facets + facets // 4:
        bits += 1
    keys, numbers = np.empty(1 << bits, np.uint64), np.full(1 << bits, -1, np.int32)
    places = np.empty(max(16, facets // 2 + facets // 8), np.int32)
    count = 0
    for facet in range(facets):
        for corner in range(3):
            key = _hash_of(corners[facet, corner], offset, step, shift, factors)
            slot = key & np.uint64((1 << bits) - 1)
            while numbers[slot] >= 0 and keys[slot] != key:
                slot = (slot + np.uint64(1)) & np.uint64((1 << bits) - 1)
            if numbers[slot] < 0:
                keys[slot], numbers[slot] = key, count
                if count == len(places):
                    longer = np.empty(2 * len(places), np.int32)
                    longer[:count] = places
                    places = longer
                places[count] = 3 * facet + corner
                count += 1
                faces[facet, corner] = count - 1
                if 2 * count > (1 << bits):
                    bits += 1
                    keys, numbers = _larger(keys, numbers, bits)
            else:
                faces[facet, corner] = numbers[slot]
    return places[:count].copy()


@compiled
def _larger(keys: NDArray[np.uint64], numbers: NDArray[np.int32], bits: int) -> Any:
    """The same table with room for twice as many."""
    mask = np.uint64((1 << bits) - 1)
    more_keys, more_numbers = np.empty(1 << bits, np.uint64), np.full(1 << bits, -1, np.int32)
    for old in range(len(keys)):
        if numbers[old] >= 0:
            slot = keys[old] & mask
            while more_numbers[slot] >= 0:
                slot = (slot + np.uint64(1)) & mask
            more_keys[slot], more_numbers[slot] = keys[old], numbers[old]
    return more_keys, more_numbers
