"""A mesh of shared vertices: its measures, and the parts its facets hang together in by their edges."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.jit import compiled
from pricing.mesh.weld import Edges, Faces, Numbers, Welded
from pricing.readers.corners import Corners

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
