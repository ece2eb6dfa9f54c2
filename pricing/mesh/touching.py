"""Bodies that touch along an edge or in a face: an edge then has four facets, or more.

Around such an edge solid and air take turns. The facets that border one wedge of solid belong together: so
the bodies come apart again, each with a closed surface.
"""

import numpy as np
from numpy.typing import NDArray

from pricing.mesh.topology import SHARED, Edges, Mesh

SHARED_MAX = 20_000
"""Edges of facets, counted with each of their facets, that are looked at."""

_SAME_ANGLE = 1e-7


def pair_shared(mesh: Mesh, edges: Edges) -> Edges | None:
    """The same edges, each with one partner. None where the facets do not agree on what is solid."""
    at = np.flatnonzero(edges.partners.reshape(-1) == SHARED)
    if len(at) > SHARED_MAX:
        return None
    facet, corner = at // 3, at % 3
    one, other = mesh.faces[facet, corner], mesh.faces[facet, (corner + 1) % 3]
    angles = _angles(
        mesh, np.minimum(one, other), np.maximum(one, other), mesh.faces[facet, (corner + 2) % 3]
    )
    order = np.lexsort((np.maximum(one, other), np.minimum(one, other)))
    low, high = np.minimum(one, other)[order], np.maximum(one, other)[order]
    begins = np.flatnonzero(np.r_[True, (low[1:] != low[:-1]) | (high[1:] != high[:-1])])
    partners = edges.partners.copy().reshape(-1)
    for group in np.split(order, begins[1:]):
        if not _pair(partners, at[group], angles[group], (one > other)[group]):
            return None
    return edges._replace(partners=partners.reshape(-1, 3), shared=0)


def _angles(
    mesh: Mesh, low: NDArray[np.int32], high: NDArray[np.int32], opposite: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Where each facet stands around its edge, seen along it from its lower vertex to the higher."""
    start = mesh.positions[low]
    axis = mesh.positions[high] - start
    axis /= np.linalg.norm(axis, axis=1)[:, None]
    helper = np.eye(3)[np.abs(axis).argmin(axis=1)]
    right = np.cross(axis, helper)
    right /= np.linalg.norm(right, axis=1)[:, None]
    towards = mesh.positions[opposite] - start
    up = np.cross(axis, right)
    angles: NDArray[np.float64] = np.arctan2((towards * up).sum(axis=1), (towards * right).sum(axis=1))
    return angles


def _pair(
    partners: NDArray[np.int32],
    edges: NDArray[np.int64],
    angles: NDArray[np.float64],
    opens: NDArray[np.bool_],
) -> bool:
    """Each facet at which a wedge of solid begins with that at which it ends, turning one way."""
    if 2 * opens.sum() != len(opens):
        return False
    around = (angles - angles[0]) % (2 * np.pi)
    around[around > 2 * np.pi - _SAME_ANGLE] = 0.0
    # Of facets in the same place one body ends before the other begins.
    order = np.lexsort((opens, np.round(around / _SAME_ANGLE)))
    depth = np.cumsum(np.where(opens[order], 1, -1))
    order = np.roll(order, -(int(depth.argmin()) + 1))
    waiting: list[int] = []
    for place in order:
        if opens[place]:
            waiting.append(int(place))
        elif not waiting:
            return False
        else:
            begun = edges[waiting.pop()]
            partners[begun], partners[edges[place]] = edges[place], begun
    return not waiting
