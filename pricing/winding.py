"""Turning round the facets of a closed body that face the wrong way.

Two facets that share an edge agree when they run through it in opposite directions. In a graph with two
nodes per facet, "as it is" and "turned", such neighbours are joined node by node, all others crosswise. One
body then falls into exactly two components, and either is a consistent choice; a body with a single
component has no inside (a Klein bottle).
"""

import numpy as np
from numpy.typing import NDArray

from pricing.facets import ArrayFacets, FacetSource
from pricing.kernel import Grid, vertex_hashes

REPAIR_FACETS_MAX = 500_000
"""Above this many facets nothing is turned (some 300 MB and two seconds at the limit)."""


def turned_consistently(source: FacetSource, grid: Grid | None) -> ArrayFacets | None:
    """The facets of one body with a consistent winding, the fewer of them turned; None when there is none.

    Every edge must belong to exactly two facets, compared exactly or by cell of `grid`.
    """
    if source.count > REPAIR_FACETS_MAX:
        return None
    wrong = _facets_to_turn(vertex_hashes(source, grid))
    if wrong is None:
        return None
    corners = np.empty((3, 3, source.count), source.dtype)
    source.block(0, source.count, corners)
    triangles = np.ascontiguousarray(corners.transpose(2, 0, 1), np.float64)
    triangles[wrong] = triangles[wrong][:, ::-1]
    return ArrayFacets(triangles)


def _facets_to_turn(hashes: NDArray[np.uint64]) -> NDArray[np.bool_] | None:
    """One flag per facet; None when the facets cannot agree."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs, agree = _neighbours(hashes)
    if pairs is None:
        return None
    facets = len(hashes)
    left, right = pairs
    other = np.where(agree, right, right + facets)
    mirrored = np.where(agree, right + facets, right)
    starts, ends = np.concatenate([left, left + facets]), np.concatenate([other, mirrored])
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(2 * facets, 2 * facets))
    count, labels = connected_components(graph, directed=False)
    if count != 2 or (labels[:facets] == labels[facets:]).any():
        return None
    wrong: NDArray[np.bool_] = labels[:facets] != labels[0]
    return ~wrong if wrong.sum() * 2 > facets else wrong


def _neighbours(
    hashes: NDArray[np.uint64],
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]] | None, NDArray[np.bool_]]:
    """Pairs of facets that share an edge, and whether they agree; None when an edge has not two facets."""
    following = np.roll(hashes, -1, axis=1)
    forward = (hashes < following).reshape(-1)
    low, high = np.minimum(hashes, following).reshape(-1), np.maximum(hashes, following).reshape(-1)
    order = np.lexsort((high, low))
    first, second = order[0::2], order[1::2]
    paired = len(order) % 2 == 0 and bool(
        ((low[first] == low[second]) & (high[first] == high[second])).all() and (low != high).all()
    )
    if not paired:
        return None, forward
    return (first // 3, second // 3), forward[first] != forward[second]
