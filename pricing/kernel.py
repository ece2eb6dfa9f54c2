"""Volume, area, box and closedness of a mesh, in chunks, with memory that does not grow with the mesh.

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
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facets import FacetSource, FloatArray

CHUNK_FACETS = 4096
"""Facets per step: the arrays of one step stay within the second-level cache of a core."""

Hashes = NDArray[np.uint64]


class Grid(NamedTuple):
    """Positions are compared as cells of this width (native units), the whole grid moved by `shift` cells."""

    step: float
    shift: float


class Measures(NamedTuple):
    """What one pass over a mesh gives; lengths in the file's own unit."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    signed_volume: float
    area: float
    edges_cancel: bool


class EdgeResidues(NamedTuple):
    """Whether the edges of a mesh pair up: with opposite directions; regardless of direction."""

    directed_cancel: bool
    undirected_cancel: bool


def _odd_number() -> np.uint64:
    return np.uint64(secrets.randbits(64) | 1)


# Drawn once per process: a file cannot be built so that its edges cancel by design.
_AXIS_FACTORS = tuple(_odd_number() for _ in range(3))
_MIX_FACTOR = _odd_number()
_EDGE_FACTOR = _odd_number()
_HALF = np.uint64(32)
_THIRD = np.uint64(29)


class _Workspace:
    """Arrays reused by every chunk, so that a pass allocates once."""

    def __init__(self, dtype: np.dtype[np.floating], facets: int) -> None:
        self.corners: FloatArray = np.empty((3, 3, facets), dtype)
        self.keys = np.empty((3, 3, facets), np.float32)
        self.placed = np.empty((3, 3, facets), np.float64)
        self.edges = np.empty((2, 3, facets), np.float64)
        self.normals = np.empty((3, facets), np.float64)
        self.row = np.empty(facets, np.float64)
        self.hashes = np.empty((3, facets), np.uint64)
        self.spare = np.empty((3, facets), np.uint64)

    def first(self, facets: int) -> "_Workspace":
        """The same arrays, cut to the last and shorter chunk."""
        cut = object.__new__(_Workspace)
        for name, array in vars(self).items():
            setattr(cut, name, np.ascontiguousarray(array[..., :facets]))
        return cut


def _chunks(source: FacetSource) -> Iterator[_Workspace]:
    """Yield a workspace whose `corners` hold the next facets; the arrays are overwritten by the next step."""
    work = _Workspace(source.dtype, min(CHUNK_FACETS, source.count))
    for start in range(0, source.count, CHUNK_FACETS):
        stop = min(start + CHUNK_FACETS, source.count)
        if stop - start != work.corners.shape[2]:
            work = work.first(stop - start)
        source.block(start, stop, work.corners)
        yield work


def first_vertex(source: FacetSource) -> NDArray[np.float64]:
    """The first corner of the first facet, shape (3,): the point volumes are taken about."""
    block = np.empty((3, 3, 1), source.dtype)
    source.block(0, 1, block)
    return block[0, :, 0].astype(np.float64)


def measure(source: FacetSource) -> Measures:
    """Box, signed volume, area and exact closedness of at least one facet, in a single pass.

    Not-a-number and infinite coordinates come out in the box, which the caller checks. The volume is taken
    about the first vertex: about the file's origin, a small part far away would lose its digits.
    """
    origin = first_vertex(source)
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    volume = area = 0.0
    residue = np.uint64(0)
    with np.errstate(all="ignore"):
        for work in _chunks(source):
            np.minimum(lower, work.corners.min(axis=2).min(axis=0), out=lower)
            np.maximum(upper, work.corners.max(axis=2).max(axis=0), out=upper)
            np.subtract(work.corners, origin[:, None], out=work.placed)
            volume_part, area_part = _volume_and_area(work)
            volume += volume_part
            area += area_part
            _hash_vertices(_exact_keys(work), work)
            residue += _directed_residue(work)
    return Measures(lower, upper, volume, area, bool(residue == 0))


def _volume_and_area(work: _Workspace) -> tuple[float, float]:
    """Signed volume about the origin of `placed`, and area, of the facets at hand."""
    np.subtract(work.placed[1:], work.placed[:1], out=work.edges)
    first, second = work.edges
    for axis in range(3):
        after, last = (axis + 1) % 3, (axis + 2) % 3
        np.multiply(first[after], second[last], out=work.normals[axis])
        np.multiply(first[last], second[after], out=work.row)
        work.normals[axis] -= work.row
    volume = float(np.vdot(work.normals, work.placed[0])) / 6.0
    np.multiply(work.normals, work.normals, out=work.normals)
    np.add(work.normals[0], work.normals[1], out=work.row)
    work.row += work.normals[2]
    np.sqrt(work.row, out=work.row)
    return volume, float(work.row.sum()) / 2.0


def _exact_keys(work: _Workspace) -> NDArray[np.uint32]:
    """Positions as bit patterns; `placed` must hold them relative to the first vertex.

    Single-precision files are compared bit for bit. Double-precision ones are compared in single precision
    relative to the first vertex, which never opens a closed mesh. Adding zero turns -0 into 0: they are one
    position.
    """
    if work.corners.dtype == np.float32:
        np.add(work.corners, np.float32(0), out=work.keys)
    else:
        np.add(work.placed, 0.0, out=work.keys, casting="same_kind")
    return work.keys.view(np.uint32)


def _grid_keys(work: _Workspace, origin: NDArray[np.float64], grid: Grid) -> NDArray[np.uint32]:
    """Positions as cell numbers of `grid`."""
    np.subtract(work.corners, origin[:, None], out=work.placed)
    work.placed /= grid.step
    work.placed += grid.shift
    np.floor(work.placed, out=work.placed)
    cells: NDArray[np.uint32] = work.placed.astype(np.int64).astype(np.uint32)
    return cells


def _hash_vertices(keys: NDArray[np.uint32], work: _Workspace) -> None:
    """Fill `hashes`, shape (3 vertices, facets), from integer positions of shape (3 vertices, 3 axes,
    facets)."""
    hashes, spare = work.hashes, work.spare
    np.multiply(keys[:, 0], _AXIS_FACTORS[0], out=hashes, dtype=np.uint64)
    for axis in (1, 2):
        np.multiply(keys[:, axis], _AXIS_FACTORS[axis], out=spare, dtype=np.uint64)
        hashes += spare
    # High bits must reach the low ones: coordinates with short mantissas leave those zero, and the products
    # below would then keep nothing. Without the second shift h would stay linear, and symmetric holes would
    # cancel.
    np.right_shift(hashes, _HALF, out=spare)
    hashes ^= spare
    hashes *= _MIX_FACTOR
    np.right_shift(hashes, _THIRD, out=spare)
    hashes ^= spare


def _directed_residue(work: _Workspace) -> np.uint64:
    """The sum over the facets at hand of the product in the module's docstring."""
    (a, b, c), product = work.hashes, work.spare
    np.subtract(b, a, out=product[0])
    np.subtract(c, a, out=product[1])
    np.subtract(c, b, out=product[2])
    product[0] *= product[1]
    product[0] *= product[2]
    return np.uint64(product[0].sum())


def _undirected_residue(work: _Workspace) -> np.uint64:
    """XOR over all edges of a symmetric hash: zero when every edge occurs an even number of times."""
    following = np.roll(work.hashes, -1, axis=0)
    joined = work.hashes + following
    joined ^= joined >> _HALF
    joined *= _EDGE_FACTOR
    joined ^= joined >> _THIRD
    # The edge from a vertex to itself, in a facet with two equal corners, borders nothing.
    joined[work.hashes == following] = 0
    return np.uint64(np.bitwise_xor.reduce(joined, axis=None))


def edge_residues(source: FacetSource, grid: Grid | None) -> EdgeResidues:
    """Whether the edges pair up when positions are compared exactly (`grid` None) or by cell."""
    directed = undirected = np.uint64(0)
    with np.errstate(over="ignore"):
        for work in _hashed_chunks(source, grid):
            directed += _directed_residue(work)
            undirected ^= _undirected_residue(work)
    return EdgeResidues(bool(directed == 0), bool(undirected == 0))


def vertex_hashes(source: FacetSource, grid: Grid | None) -> Hashes:
    """One number per corner, shape (facets, 3); equal numbers are one position. 24 bytes per facet."""
    hashes = np.empty((source.count, 3), np.uint64)
    filled = 0
    with np.errstate(over="ignore"):
        for work in _hashed_chunks(source, grid):
            facets = work.hashes.shape[1]
            hashes[filled : filled + facets] = work.hashes.T
            filled += facets
    return hashes


def _hashed_chunks(source: FacetSource, grid: Grid | None) -> Iterator[_Workspace]:
    origin = first_vertex(source)
    for work in _chunks(source):
        if grid is None:
            np.subtract(work.corners, origin[:, None], out=work.placed)
            keys = _exact_keys(work)
        else:
            keys = _grid_keys(work, origin, grid)
        _hash_vertices(keys, work)
        yield work
