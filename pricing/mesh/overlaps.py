"""Several bodies in one file: side by side, one within the other, or overlapping, where metal would count
twice.

Bodies whose boxes do not meet are apart. The others are united exactly by manifold3d, cavities taken out; a
volume other than the sum of theirs shows that they overlap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facts import MeshWarning
from pricing.mesh.repair import boxes
from pricing.mesh.topology import Mesh, Parts, areas, volumes

UNITED_FACETS_MAX = 300_000
"""Bodies that meet and have more facets together are not united (seconds, and some 500 MB at the limit)."""
PARTS_MAX = 3_000
"""Of more bodies it is not looked for which may meet."""
SAME_VOLUME = 1e-6
"""Volumes that differ by this share of the bodies' are the same but for rounding."""


INVERTED = "All facets face inwards; the volume is taken without its sign."


class Size(NamedTuple):
    """Of all bodies together; `bodies` when some became one. `oriented`: they agree on what is inside."""

    volume: float
    area: float
    warnings: list[MeshWarning]
    bodies: int | None = None
    oriented: bool = True


def size_of(mesh: Mesh, parts: Parts) -> Size:
    """Volume and area with nothing counted twice. `parts` must be closed, each in agreement with itself."""
    signed = _by_part(volumes(mesh), parts)
    area = _by_part(areas(mesh), parts)
    if (signed <= 0).all():
        signed = -signed
        mesh = mesh._replace(faces=mesh.faces[:, ::-1])
        warnings = [MeshWarning("inverted", INVERTED)]
    else:
        warnings = []
    if parts.number == 1:
        return Size(float(signed.sum()), float(area.sum()), warnings)
    if parts.number > PARTS_MAX:
        return _unchecked(signed, area, warnings, f"There are {parts.number} bodies, too many to compare.")
    return _recovered(mesh, parts, signed, area, warnings)


def _by_part(of_facets: NDArray[np.float64], parts: Parts) -> NDArray[np.float64]:
    return np.bincount(parts.labels, weights=of_facets, minlength=parts.number).astype(np.float64)


def _unchecked(
    signed: NDArray[np.float64], area: NDArray[np.float64], warnings: list[MeshWarning], why: str
) -> Size:
    warnings.append(MeshWarning("bodies_unchecked", f"{why} Where they overlap, metal counts twice."))
    return Size(abs(float(signed.sum())), float(area.sum()), warnings)


class _Sum:
    """What the groups of bodies come to, one after the other."""

    def __init__(self) -> None:
        self.volume = self.area = 0.0
        self.bodies = self.overlapping = self.inverted = 0

    def add_apart(self, signed: float, area: float) -> None:
        self.volume += abs(signed)
        self.area += area
        self.bodies += 1
        self.inverted += signed < 0

    def add_group(self, signed: NDArray[np.float64], area: float, union: "_Union") -> bool:
        """False when the meaning of the file is ambiguous."""
        expected = float(signed.sum())
        self.bodies += union.bodies
        if abs(union.volume - expected) <= SAME_VOLUME * float(np.abs(signed).sum()):
            self.volume += expected
            self.area += area
            return True
        self.volume += union.volume
        self.area += union.area
        self.overlapping += len(signed)
        return bool((signed > 0).all())

    def warnings(self) -> list[MeshWarning]:
        found = []
        if self.inverted:
            said = f"{self.inverted} bodies that faced inwards were turned round."
            found.append(MeshWarning("inverted_bodies", said))
        if self.overlapping:
            said = f"{self.overlapping} bodies overlap: what they share is counted once."
            found.append(MeshWarning("bodies_overlap", said))
        elif self.bodies > 1:
            said = f"There are {self.bodies} bodies; they do not overlap."
            found.append(MeshWarning("several_bodies", said))
        return found


def _recovered(
    mesh: Mesh,
    parts: Parts,
    signed: NDArray[np.float64],
    area: NDArray[np.float64],
    warnings: list[MeshWarning],
) -> Size:
    total = _Sum()
    for group in groups_that_meet(*boxes(mesh, parts)):
        if len(group) == 1:
            total.add_apart(float(signed[group[0]]), float(area[group[0]]))
            continue
        if np.isin(parts.labels, group).sum() > UNITED_FACETS_MAX:
            return _unchecked(signed, area, warnings, f"{len(group)} bodies that may meet have many facets.")
        if (union := _union(mesh, parts, signed, group)) is None:
            return _unchecked(signed, area, warnings, f"{len(group)} bodies meet and could not be united.")
        if not total.add_group(signed[group], float(area[group].sum()), union):
            said = f"{len(group)} bodies meet, and some that face inwards lie not wholly within another."
            warnings.append(MeshWarning("bodies_contradict", said))
            return Size(float(np.abs(signed).sum()), float(area.sum()), warnings, oriented=False)
    warnings += total.warnings()
    return Size(total.volume, total.area, warnings, total.bodies if total.overlapping else None)


def groups_that_meet(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Parts whose boxes meet, directly or by way of others."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    meets = np.ones((len(lower), len(lower)), np.bool_)
    for axis in range(3):
        meets &= lower[:, None, axis] <= upper[None, :, axis]
    count, labels = connected_components(csr_array(meets & meets.T), directed=False)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=count))[:-1])


class _Union(NamedTuple):
    volume: float
    area: float
    bodies: int


def _union(mesh: Mesh, parts: Parts, signed: NDArray[np.float64], group: NDArray[np.int64]) -> _Union | None:
    """The bodies that face outwards as one, less those that face inwards."""
    import manifold3d

    solids: list[manifold3d.Manifold] = []
    cavities: list[manifold3d.Manifold] = []
    for part in group:
        faces = mesh.faces[parts.labels == part]
        used, numbers = np.unique(faces, return_inverse=True)
        triangles = numbers.reshape(-1, 3)
        if signed[part] < 0:
            triangles = triangles[:, ::-1]
        solid = manifold3d.Manifold(
            manifold3d.Mesh64(
                np.ascontiguousarray(mesh.positions[used]), np.ascontiguousarray(triangles, np.uint64)
            )
        )
        if solid.status() != manifold3d.Error.NoError:
            return None
        (cavities if signed[part] < 0 else solids).append(solid)
    whole = manifold3d.Manifold.batch_boolean(solids, manifold3d.OpType.Add)
    if cavities:
        whole -= manifold3d.Manifold.batch_boolean(cavities, manifold3d.OpType.Add)
    # What is flat may come to less than nothing, by rounding.
    return _Union(max(whole.volume(), 0.0), whole.surface_area(), len(whole.decompose()))
