"""Metal by columns: the winding number along a grid of parallel rays.

Every facet is laid on a grid across the rays; each ray that meets it notes how deep, and whether it enters or
leaves. So it is known along each ray in how many bodies it is: metal where that is above 0, metal that the
sums count twice above 1, inside out below 0. A ray that does not come out as often as it goes in has found a
leak. The work is linear in the facets and the hits, and so is the memory.

The grid is turned by what follows from the hash of the file, so that faces of models do not lie along it and
facts stay a function of the bytes. An edge is looked at in the same direction for both of its facets, so that
of two that share it each ray meets just one.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.jit import compiled
from pricing.readers.corners import Corners

ACROSS = 256
"""Columns along each side of the grid: a ring has some 10,000 hits, and is wrong by 0.02 % where it is not
simple; where it is, the sums say the volume."""

CELLS_MAX = 300_000_000
"""Cells of the grid that all facets together may be looked for in: a second or two. Twenty million facets of
a piece need a third of it."""

ACROSS_FINE = 1024
"""Where something is counted twice, since the error of columns is one of edges, and those of a part are many;
and where fewer than MET_MIN columns meet the model, as with long thin wire."""

MET_MIN = 4_000

HITS_MAX = 30_000_000
"""Some 270 MB. A mesh of more passes through itself hundreds of times."""

COLUMNS_SHARE = 1e-3
"""What columns and sums may differ by, as a share of the volume: less is no money."""

_SORTED_FROM = 32

Turn = NDArray[np.float64]
"""A rotation, shape (3, 3)."""


class Columns(NamedTuple):
    """Volumes in the cube of the file's unit, as the columns have them; of a surface that faces inwards as if
    it were turned round. `signed`: what the sums say. `metal`: once, whatever lies in it twice. `leaks`: the
    share of columns that do not come out as often as they go in, of the `met` that meet the model."""

    signed: float
    metal: float
    counted_twice: float
    inside_out: float
    leaks: float
    met: int

    def metal_beside(self, sums: float) -> float:
        """The metal of a surface whose signed volume is known: the columns need only say what that counts
        twice or less than once, and so add no error of their own where it is simple."""
        metal = sums - (self.signed - self.metal)
        return metal if metal > 0 else self.metal


def turn_of(sha256: bytes) -> Turn:
    """The rotation that follows from a digest."""
    numbers = np.frombuffer(sha256, "<u4").astype(np.float64) / 2**32
    # Shoemake, "Uniform random rotations", Graphics Gems III (1992).
    inner, outer = math.sqrt(1 - numbers[0]), math.sqrt(numbers[0])
    one, two = 2 * math.pi * numbers[1], 2 * math.pi * numbers[2]
    x, y, z, w = inner * math.sin(one), inner * math.cos(one), outer * math.sin(two), outer * math.cos(two)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def measure_columns(corners: Corners, turn: Turn, across: int = ACROSS) -> Columns | None:
    """What the columns find in facets of shape (n, 3, 3), finite and at least one. None beyond CELLS_MAX or
    HITS_MAX, or when the model is flat across the columns."""
    if corners.dtype == np.float64:  # else all of this were compiled again for another layout
        corners = np.ascontiguousarray(corners, np.float64)
    origin = np.array(corners[0, 0], np.float64)
    lower, upper = _box(corners, origin, turn)
    step = float((upper - lower).max()) / across
    if not step > 0:
        return None
    # Half a step off the edge, so that none runs along the box.
    corner = lower - 0.381966 * step
    starts = np.zeros((across + 1) * (across + 1) + 1, np.int64)
    depths, signs = np.empty(0), np.empty(0, np.int8)
    grid = (corners, origin, turn, corner, step, across + 1, CELLS_MAX)
    if _cast(*grid, starts, starts[1:], depths, signs) > CELLS_MAX or starts.sum() > HITS_MAX:
        return None
    np.cumsum(starts, out=starts)
    depths, signs = np.empty(starts[-1]), np.empty(starts[-1], np.int8)
    _cast(*grid, starts, starts[:-1].copy(), depths, signs)
    signed, metal, twice, inside_out, met, leaking = _walk(starts, depths, signs)
    if signed < 0:
        signed, metal, twice, inside_out, met, leaking = _walk(starts, depths, -signs)
    cell = step * step
    leaks = leaking / max(met, 1)
    return Columns(signed * cell, metal * cell, twice * cell, inside_out * cell, leaks, int(met))


@compiled
def _turned(corner: Any, origin: Any, turn: Any, axis: int) -> Any:
    return (
        (corner[0] - origin[0]) * turn[axis, 0]
        + (corner[1] - origin[1]) * turn[axis, 1]
        + (corner[2] - origin[2]) * turn[axis, 2]
    )


@compiled
def _box(corners: Corners, origin: Any, turn: Any) -> Any:
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for facet in range(len(corners)):
        for corner in range(3):
            for axis in range(2):
                at = _turned(corners[facet, corner], origin, turn, axis)
                lower[axis], upper[axis] = min(lower[axis], at), max(upper[axis], at)
    return lower, upper


@compiled
def _side(ax: float, ay: float, bx: float, by: float, x: float, y: float) -> bool:
    """Whether a point lies to the left of the edge from a to b. Worked out in the same direction for both, so
    that for one facet it is just where for its neighbour it is not."""
    if ax < bx or (ax == bx and ay < by):
        return (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0.0
    return not (ax - bx) * (y - by) - (ay - by) * (x - bx) > 0.0


@compiled
def _places(least: float, most: float, start: float, step: float, across: int) -> tuple[int, int]:
    """The first and the last line of the grid between these."""
    first, last = math.ceil((least - start) / step), math.floor((most - start) / step)
    return max(first, 0), min(last, across - 1)


@compiled
def _cast(
    corners: Corners,
    origin: Any,
    turn: Any,
    start: Any,
    step: float,
    across: int,
    cells_max: int,
    starts: Any,
    ends: Any,
    depths: Any,
    signs: Any,
) -> int:
    """Moves the end of each column on by every facet that it meets, and returns in how many cells facets were
    looked for. Where there is room for them, the depth of each hit is put in its place within the column, and
    1 where the ray enters, -1 where it leaves. Stops beyond `cells_max`."""
    cells = 0
    for facet in range(len(corners)):
        ax, ay = _turned(corners[facet, 0], origin, turn, 0), _turned(corners[facet, 0], origin, turn, 1)
        bx, by = _turned(corners[facet, 1], origin, turn, 0), _turned(corners[facet, 1], origin, turn, 1)
        cx, cy = _turned(corners[facet, 2], origin, turn, 0), _turned(corners[facet, 2], origin, turn, 1)
        first, last = _places(min(ax, bx, cx), max(ax, bx, cx), start[0], step, across)
        low, high = _places(min(ay, by, cy), max(ay, by, cy), start[1], step, across)
        if first > last or low > high:
            continue
        cells += (last - first + 1) * (high - low + 1)
        if cells > cells_max:
            break
        az = _turned(corners[facet, 0], origin, turn, 2)
        bz = _turned(corners[facet, 1], origin, turn, 2)
        cz = _turned(corners[facet, 2], origin, turn, 2)
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for column in range(first, last + 1):
            x = start[0] + column * step
            for row in range(low, high + 1):
                y = start[1] + row * step
                left = _side(ax, ay, bx, by, x, y)
                if left != _side(bx, by, cx, cy, x, y) or left != _side(cx, cy, ax, ay, x, y):
                    continue
                place = column * across + row
                at = ends[place]
                ends[place] += 1
                if len(depths) == 0:
                    continue
                depth = az if nz == 0.0 else az - (nx * (x - ax) + ny * (y - ay)) / nz
                depth = min(max(depth, min(az, bz, cz)), max(az, bz, cz))
                # Most columns meet few facets: each hit is put into its place.
                earliest = max(starts[place], at - _SORTED_FROM)
                while at > earliest and depths[at - 1] > depth:
                    depths[at], signs[at] = depths[at - 1], signs[at - 1]
                    at -= 1
                depths[at], signs[at] = depth, -1 if left else 1
    return cells


@compiled
def _walk(starts: Any, depths: Any, signs: Any) -> Any:
    signed = metal = twice = inside_out = 0.0
    met = leaking = 0
    for place in range(len(starts) - 1):
        first, end = starts[place], starts[place + 1]
        if first == end:
            continue
        met += 1
        if end - first > _SORTED_FROM:
            order = np.argsort(depths[first:end])
            depths[first:end] = depths[first:end][order]
            signs[first:end] = signs[first:end][order]
        inside = 0
        for at in range(first, end):
            if inside != 0:
                length = depths[at] - depths[at - 1]
                signed += inside * length
                if inside > 0:
                    metal += length
                    twice += (inside - 1) * length
                else:
                    inside_out -= inside * length
            inside += signs[at]
        leaking += inside != 0
    return signed, metal, twice, inside_out, met, leaking
