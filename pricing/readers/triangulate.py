"""Triangles from polygons, each facet in the polygon's own direction.

A fan from one corner is right whenever all its triangles turn the same way, which every convex polygon does.
The others are cut along their ears: a fan would still enclose the right volume, but count the parts outside
of the polygon twice into the area, which is what plating is charged by.
"""

import numpy as np
from numpy.typing import NDArray

from pricing.readers.common import Indices, Points, unsupported
from pricing.readers.corners import POLYGONS

_PLANE_AXES = ((1, 2), (2, 0), (0, 1))
_CUT_COORDINATE_MAX = 1e12
"""Beyond, products overflow; such coordinates are refused as they are, after reading."""

CUT_CORNERS_MAX = 4_000
"""A face with more corners must be convex: cutting takes the square of their number, 0.1 s at this many."""

AREA_NOISE = 1e-7
"""A triangle that turns against the others by less than this share of the polygon does so by rounding, as
between corners on one straight edge."""

Flags = NDArray[np.bool_]


def facets_of(points: Points, corners: Indices, counts: Indices) -> Points:
    """Corners (n, 3, 3) of all polygons.

    `corners` are the indices into `points` of all polygons in a row, `counts` (each 3 or more) says how many
    belong to each.
    """
    if (counts == 3).all():
        triangles: Points = points[corners.reshape(-1, 3)]
        return triangles
    starts = np.cumsum(counts) - counts
    order = np.argsort(counts, kind="stable")
    sizes, firsts = np.unique(counts[order], return_index=True)
    groups = np.split(order, firsts[1:])
    parts = [
        _triangles(points, corners[starts[group][:, None] + np.arange(size)])
        for size, group in zip(sizes, groups, strict=True)
    ]
    facets: Points = points[np.concatenate(parts)]
    return facets


def polygons_of(counts: Indices) -> tuple[str, ...]:
    """That there are faces to be cut, as one of OTHERWISE."""
    return (POLYGONS,) if (counts > 3).any() else ()


def facet_count(counts: Indices) -> int:
    """How many facets polygons with `counts` corners give."""
    return int(counts.sum()) - 2 * len(counts)


def _triangles(points: Points, polygons: Indices) -> Indices:
    """Indices (n, 3) of the triangles of polygons (m, k) that have equally many corners."""
    fans = _fans(polygons)
    if polygons.shape[1] == 3:
        return fans.reshape(-1, 3)
    for turn in (1, 2):
        crooked = np.flatnonzero(~_agree(points, fans))
        fans[crooked] = _fans(np.roll(polygons[crooked], -turn, axis=1))
    for index in np.flatnonzero(~_agree(points, fans)):
        fans[index] = _cut(points, polygons[index], fans[index])
    return fans.reshape(-1, 3)


def _fans(polygons: Indices) -> Indices:
    """Indices (m, k - 2, 3): every two neighbouring corners with the first one."""
    first = np.broadcast_to(polygons[:, :1], polygons[:, 2:].shape)
    return np.stack([first, polygons[:, 1:-1], polygons[:, 2:]], axis=2)


def _normals(points: Points, fans: Indices) -> Points:
    corners = points[fans]
    normals: Points = np.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    )
    return normals


def _agree(points: Points, fans: Indices) -> Flags:
    """For each polygon, whether no triangle turns against the sum of all (whichever the triangulation)."""
    with np.errstate(all="ignore"):
        normals = _normals(points, fans)
        whole = normals.sum(axis=1)
        along = np.einsum("ijk,ik->ij", normals, whole)
        noise = AREA_NOISE * np.einsum("ik,ik->i", whole, whole)
    # Not a number where the coordinates are beyond all bounds: those are refused later, as they are.
    agree: Flags = ~(along < -noise[:, None]).any(axis=1)
    return agree


def _cut(points: Points, polygon: Indices, fan: Indices) -> Indices:
    """The triangles of one polygon that is not convex; the fan when it cuts itself."""
    if len(polygon) > CUT_CORNERS_MAX:
        raise unsupported(
            f"A face has {len(polygon)} corners and is not convex; at most {CUT_CORNERS_MAX} are cut."
        )
    if not np.abs(points[polygon]).max() < _CUT_COORDINATE_MAX:
        return fan
    # Few files have such faces, and the import costs every worker.
    from manifold3d import triangulate

    normal = _normals(points, fan).sum(axis=0)
    axis = int(np.abs(normal).argmax())
    plane = points[polygon][:, _PLANE_AXES[axis]]
    turned = normal[axis] < 0
    cut = np.asarray(triangulate([plane[::-1] if turned else plane]), np.int64).reshape(-1, 3)
    if cut.shape != fan.shape:
        return fan
    triangles: Indices = polygon[(len(polygon) - 1 - cut)[:, ::-1] if turned else cut]
    return triangles
