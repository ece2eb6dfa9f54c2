"""How many separate bodies a mesh has, and whether some edge is shared by more than two facets.

Unlike the kernel this needs all positions at once: some 130 bytes per facet, hence a limit on the facets.
Equal positions are found with a table instead of a sort, which is five times faster for a million facets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facets import FacetSource
from pricing.kernel import Grid, vertex_hashes

BODY_COUNT_FACETS_MAX = 2_000_000
"""Above this many facets bodies are not counted (some 300 MB and a second at the limit)."""

# Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4): 2^64 over the golden ratio, odd.
_GOLDEN = 0x9E3779B97F4A7C15
_TABLE_BITS_MIN = 8
_TABLE_BITS_MAX = 30


class Bodies(NamedTuple):
    """`bodies` is how many hang together; `edges_shared` is how many edges belong to more than two facets."""

    bodies: int
    edges_shared: int


def count_bodies(source: FacetSource, grid: Grid | None) -> Bodies:
    """Weld equal positions (exact, or by cell of `grid`) and count what hangs together.

    Two facets belong to one body when they share a vertex, as in trimesh's `body_count`. Facets with two
    equal corners border nothing and are left out of the edges.
    """
    corners, positions = number_equal(vertex_hashes(source, grid).reshape(-1))
    vertices = corners.reshape(-1, 3)
    return Bodies(_components(vertices, positions), _edges_shared(vertices, positions))


def number_equal(values: NDArray[np.uint64]) -> tuple[NDArray[np.int32], int]:
    """Number the distinct values; returns the number of each entry, and how many numbers there are.

    Values that occur close to each other get numbers close to each other, which keeps later passes within
    the caches.

    Every round drops each open entry's index into a table slot chosen by its value. All entries that read
    back an entry of their own value share it; the few whose slot another value took go round again with
    another choice of slots.
    """
    leader = np.empty(len(values), np.int32)
    open_entries = np.arange(len(values), dtype=np.int32)
    factor = _GOLDEN
    while len(open_entries):
        bits = min(max(len(open_entries).bit_length(), _TABLE_BITS_MIN), _TABLE_BITS_MAX)
        wanted = values[open_entries]
        slots = ((wanted * np.uint64(factor)) >> np.uint64(64 - bits)).astype(np.int32)
        table = np.empty(1 << bits, np.int32)
        table[slots] = open_entries
        found = table[slots]
        same = values[found] == wanted
        leader[open_entries[same]] = found[same]
        open_entries = open_entries[~same]
        factor = factor * _GOLDEN & (2**64 - 1)
    leads = leader == np.arange(len(values), dtype=np.int32)
    numbers = np.cumsum(leads, dtype=np.int32) - 1
    return numbers[leader], int(leads.sum())


def _components(vertices: NDArray[np.int32], positions: int) -> int:
    # scipy.sparse takes a third of a second to import, and most callers of this package never get here.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts = np.concatenate([vertices[:, 0], vertices[:, 1]])
    ends = np.concatenate([vertices[:, 1], vertices[:, 2]])
    links = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(positions, positions))
    count, _ = connected_components(links, directed=False)
    return int(count)


def _edges_shared(vertices: NDArray[np.int32], positions: int) -> int:
    real = vertices[(vertices != np.roll(vertices, 1, axis=1)).all(axis=1)]
    following = np.roll(real, -1, axis=1)
    keys = np.minimum(real, following).astype(np.uint64) * np.uint64(positions)
    keys += np.maximum(real, following).astype(np.uint64)
    edges, distinct = number_equal(keys.reshape(-1))
    return int((np.bincount(edges, minlength=distinct) > 2).sum())
