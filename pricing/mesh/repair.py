"""What is certainly wrong with a mesh, put right: its surface then encloses a definite volume.

Left out are facets without area, copies of a facet, and a few facets that hang on by an edge or lie about.
Edges that should meet and miss each other by a rounding error are joined. Facets that face the wrong way are
turned round. Each step counts only if in the end every edge has two facets that agree: a hole stays a hole,
and a person prices the model.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facts import MeshWarning
from pricing.mesh.topology import (
    FREE,
    Edges,
    Faces,
    Mesh,
    Parts,
    areas,
    match_edges,
    parts_of,
    volumes,
    with_areas,
)
from pricing.mesh.touching import pair_shared

REPAIR_FACETS_MAX = 1_000_000
"""Meshes with more facets are not repaired (some 250 MB and three seconds at the limit)."""

CRACK_SHARES = (2e-5,)
WIDE_CRACK_SHARES = (2e-4, 2e-3)
"""Vertices of open edges that are closer than one of these shares of the largest extent are one: the least
that closes the surface. The wide ones come last: they would swallow small loose facets."""
CRACK_VERTICES_MAX = 200_000
FEW_POINTS = 64
"""Up to here points are compared each with each, without a library that takes a while to import."""
PAIRS_MAX = 4_000_000

REPAIRED_VOLUME_SHARE = 1e-3
"""What closing cracks and leaving out strays may change of the volume. The measure of a repair is the metal:
a crack of 20 um through a ring of 22 mm changes seven tenths of a millionth."""

STRAY_AREA_SHARE = 1e-3
"""Facets that only hang on may have this share of the area, not more: beyond, the surface has a hole."""
STRAY_ROUNDS = 50


class Repair(NamedTuple):
    """`changed`: the share of the volume that closing cracks and leaving out strays has changed."""

    mesh: Mesh
    edges: Edges
    parts: Parts
    warnings: list[MeshWarning]
    changed: float = 0.0


def repair(mesh: Mesh, extent: float) -> Repair | None:
    """The mesh with a sound surface, and what was done to it; None when that is not certain."""
    if len(mesh.faces) > REPAIR_FACETS_MAX:
        return None
    warnings: list[MeshWarning] = []
    changed = 0.0
    edges = _edges(mesh)
    for step in (_without_copies, _without_cracks, _without_strays, _without_wide_cracks):
        if not edges.free and not edges.shared:
            break
        before, mesh = mesh, step(mesh, edges, extent, warnings)
        if mesh is not before and step is not _without_copies:
            changed += _change(before, mesh)
        edges = _edges(mesh)
    if edges.shared and not edges.free:
        edges = pair_shared(mesh, edges) or edges
    if edges.free or edges.shared or not len(mesh.faces):
        return None
    turned = _turned(mesh, edges, warnings)
    return None if turned is None else turned._replace(changed=changed)


def _edges(mesh: Mesh) -> Edges:
    return match_edges(mesh.faces, len(mesh.positions))


def _without_copies(mesh: Mesh, edges: Edges, extent: float, warnings: list[MeshWarning]) -> Mesh:
    """Of facets with the same corners one is left; none when as many face one way as the other."""
    faces = mesh.faces
    smallest = np.argmin(faces, axis=1)
    rolled = np.take_along_axis(faces, (smallest[:, None] + np.arange(3)) % 3, axis=1)
    one_way = rolled[:, 1] < rolled[:, 2]
    ordered = np.where(one_way[:, None], rolled, rolled[:, [0, 2, 1]])
    _, first, same = np.unique(ordered, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(faces):
        return mesh
    surplus = np.bincount(same.reshape(-1), weights=np.where(one_way, 1, -1), minlength=len(first))
    kept = surplus != 0
    chosen = np.where((surplus > 0)[:, None], ordered[first], ordered[first][:, [0, 2, 1]])[kept]
    between = int(np.bincount(same.reshape(-1))[~kept].sum())
    copies = len(faces) - len(chosen) - between
    if between:
        warnings.append(MeshWarning("bodies_touch", f"{between} facets between bodies are left out."))
    if copies:
        warnings.append(MeshWarning("duplicate_facets", f"{copies} copies of facets are left out."))
    return Mesh(np.ascontiguousarray(chosen, np.int32), mesh.positions)


def _without_cracks(mesh: Mesh, edges: Edges, extent: float, warnings: list[MeshWarning]) -> Mesh:
    return _without_cracks_of(CRACK_SHARES, mesh, edges, extent, warnings)


def _without_wide_cracks(mesh: Mesh, edges: Edges, extent: float, warnings: list[MeshWarning]) -> Mesh:
    return _without_cracks_of(WIDE_CRACK_SHARES, mesh, edges, extent, warnings)


def _without_cracks_of(
    shares: tuple[float, ...], mesh: Mesh, edges: Edges, extent: float, warnings: list[MeshWarning]
) -> Mesh:
    """Vertices of open edges that nearly coincide become one."""
    open_vertices = np.unique(_open_edges(mesh.faces, edges))
    if not 0 < len(open_vertices) <= CRACK_VERTICES_MAX:
        return mesh
    best, least, said = mesh, edges.free, ""
    for share in shares:
        numbers, joined = _joined(mesh.positions, open_vertices, share * extent)
        closed = Mesh(with_areas(numbers[mesh.faces]), mesh.positions)
        free = _edges(closed).free
        if joined and free < least and _changes_little(mesh, closed):
            best, least = closed, free
            said = f"Open edges no more than {share * extent:.3g} apart were joined at {joined} vertices."
        if not free:
            break
    if said:
        warnings.append(MeshWarning("cracks_closed", said))
    return best


def _changes_little(before: Mesh, after: Mesh) -> bool:
    return _change(before, after) <= REPAIRED_VOLUME_SHARE


def _change(before: Mesh, after: Mesh) -> float:
    """As a share of the volume about the middle of the mesh: there an open surface encloses what it nearly
    does."""
    middle = (before.positions.min(axis=0) + before.positions.max(axis=0)) / 2
    was, now = (float(volumes(Mesh(mesh.faces, mesh.positions - middle)).sum()) for mesh in (before, after))
    return min(1.0, abs(now - was) / abs(now)) if now else 1.0


def _open_edges(faces: Faces, edges: Edges) -> Faces:
    """Both vertices of every edge with one facet, shape (n, 2)."""
    facet, corner = np.nonzero(edges.partners == FREE)
    return np.stack([faces[facet, corner], faces[facet, (corner + 1) % 3]], axis=1)


def _joined(
    positions: NDArray[np.float64], vertices: NDArray[np.int32], distance: float
) -> tuple[NDArray[np.int32], int]:
    """New numbers of all vertices: each of these the smallest of those that hang together with it."""
    points = positions[vertices]
    pairs = near_pairs_of_few(points, distance) if len(points) <= FEW_POINTS else near_pairs(points, distance)
    leaders = np.arange(len(vertices))
    for _ in range(STRAY_ROUNDS):
        least = leaders.copy()
        np.minimum.at(least, pairs[:, 0], leaders[pairs[:, 1]])
        np.minimum.at(least, pairs[:, 1], leaders[pairs[:, 0]])
        if (least == leaders).all():
            break
        leaders = least
    numbers = np.arange(len(positions), dtype=np.int32)
    numbers[vertices] = vertices[leaders]
    return numbers, int((leaders != np.arange(len(vertices))).sum())


def near_pairs(points: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """All pairs of points within the distance, shape (n, 2); none when there are more than PAIRS_MAX."""
    from scipy.spatial import KDTree  # takes a while to import, and few meshes get here

    tree = KDTree(points)
    if tree.count_neighbors(tree, distance) > 2 * PAIRS_MAX + len(points):
        return np.empty((0, 2), np.int64)
    found: NDArray[np.int64] = tree.query_pairs(distance, output_type="ndarray")
    return found


def near_pairs_of_few(points: NDArray[np.float64], distance: float) -> NDArray[np.int64]:
    """As `near_pairs`, each compared with each."""
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return np.argwhere(np.triu(apart <= distance**2, k=1))


def _without_strays(mesh: Mesh, edges: Edges, extent: float, warnings: list[MeshWarning]) -> Mesh:
    """Facets with an open edge go, and those that are open then, as long as they are next to nothing."""
    area = areas(mesh)
    budget = STRAY_AREA_SHARE * area.sum()
    kept, faces = np.ones(len(area), np.bool_), mesh.faces
    for _ in range(STRAY_ROUNDS):
        hanging = (edges.partners == FREE).any(axis=1)
        if not hanging.any():
            break
        kept[np.flatnonzero(kept)[hanging]] = False
        if area[~kept].sum() > budget:
            return mesh
        faces = mesh.faces[kept]
        edges = match_edges(faces, len(mesh.positions))
    if kept.all() or not _changes_little(mesh, Mesh(faces, mesh.positions)):
        return mesh
    said = f"{int((~kept).sum())} facets that belong to no closed surface are left out."
    warnings.append(MeshWarning("stray_facets", said))
    return Mesh(faces, mesh.positions)


def _turned(mesh: Mesh, edges: Edges, warnings: list[MeshWarning]) -> Repair | None:
    """All facets of each part facing the same side: outwards where some were turned."""
    parts = parts_of(mesh.faces, edges)
    if parts.turned is None:
        return None
    if not parts.turned.any():
        return Repair(mesh, edges, parts, warnings)
    faces = mesh.faces.copy()
    faces[parts.turned] = faces[parts.turned][:, ::-1]
    sizes = np.bincount(parts.labels, weights=volumes(Mesh(faces, mesh.positions)), minlength=parts.number)
    uncertain = np.unique(parts.labels[parts.turned])
    if parts.number > 1 and _any_within_another(mesh, parts, uncertain):
        return None
    inward = np.zeros(parts.number, np.bool_)
    inward[uncertain] = sizes[uncertain] < 0
    over = inward[parts.labels]
    faces[over] = faces[over][:, ::-1]
    said = f"{int(parts.turned.sum())} facets that faced the wrong way were turned round."
    warnings.append(MeshWarning("flipped_facets", said))
    turned = Mesh(faces, mesh.positions)
    return Repair(turned, _edges(turned), parts, warnings)


def _any_within_another(mesh: Mesh, parts: Parts, asked: NDArray[np.int32]) -> bool:
    """Whether the box of one of these parts meets that of another: it might be a cavity then."""
    lower, upper = boxes(mesh, parts)
    for part in asked:
        meets = (lower <= upper[part]).all(axis=1) & (upper >= lower[part]).all(axis=1)
        if meets.sum() > 1:
            return True
    return False


def boxes(mesh: Mesh, parts: Parts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of each part, shape (parts, 3)."""
    lower, upper = np.full((parts.number, 3), np.inf), np.full((parts.number, 3), -np.inf)
    for corner in range(3):
        at = mesh.positions[mesh.faces[:, corner]]
        np.minimum.at(lower, parts.labels, at)
        np.maximum.at(upper, parts.labels, at)
    return lower, upper
