"""Several bodies in one file: side by side, one within the other, or overlapping, where metal would count
twice.

Bodies whose boxes do not meet are apart. The others are united exactly by manifold3d; a volume other than
the sum of theirs shows that they overlap. What faces inwards is a cavity where the columns find nothing
inside out and nothing twice: then the sums are right, however deep one lies within another.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facts import MeshWarning
from pricing.mesh.columns import COLUMNS_SHARE, Turn, measure_columns
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
    """Of all bodies together; `bodies` when some became one. `oriented`: they agree on what is inside.
    `cavities`: what is hollow within, which is not part of the volume. `mesh`: with the bodies that faced
    inwards for no reason turned round; `sums`: its signed volume."""

    volume: float
    area: float
    warnings: list[MeshWarning]
    mesh: Mesh
    sums: float
    bodies: int | None = None
    oriented: bool = True
    cavities: float = 0.0


def size_of(mesh: Mesh, parts: Parts, turn: Turn) -> Size:
    """Volume and area with nothing counted twice. `parts` must be closed, each in agreement with itself."""
    signed = _by_part(volumes(mesh), parts)
    area = _by_part(areas(mesh), parts)
    if signed.sum() < 0 or (signed <= 0).all():
        signed = -signed
        mesh = mesh._replace(faces=mesh.faces[:, ::-1])
        warnings = [MeshWarning("inverted", INVERTED)]
    else:
        warnings = []
    if parts.number == 1:
        return Size(float(signed.sum()), float(area.sum()), warnings, mesh, float(signed.sum()))
    if parts.number > PARTS_MAX:
        why = f"There are {parts.number} bodies, too many to compare."
        return _unchecked(mesh, signed, area, warnings, why)
    return _recovered(mesh, parts, signed, area, warnings, turn)


def _by_part(of_facets: NDArray[np.float64], parts: Parts) -> NDArray[np.float64]:
    return np.bincount(parts.labels, weights=of_facets, minlength=parts.number).astype(np.float64)


def _unchecked(
    mesh: Mesh,
    signed: NDArray[np.float64],
    area: NDArray[np.float64],
    warnings: list[MeshWarning],
    why: str,
) -> Size:
    said = f"{why} What they share is counted once as columns find it, their area as it is in the file."
    warnings.append(MeshWarning("bodies_unchecked", said))
    sums = float(signed.sum())
    return Size(abs(sums), float(area.sum()), warnings, mesh, sums)


class _Sum:
    """What the groups of bodies come to, one after the other."""

    def __init__(self) -> None:
        self.volume = self.area = self.cavities = 0.0
        self.bodies = self.hollows = self.overlapping = self.inverted = 0

    def add_apart(self, signed: float, area: float) -> None:
        self.volume += abs(signed)
        self.area += area
        self.bodies += 1
        self.inverted += signed < 0

    def add_hollow(self, signed: NDArray[np.float64], area: NDArray[np.float64]) -> None:
        """Bodies one within the other, by turns metal and hollow. The walls of what is hollow no tool
        reaches: they are not polished."""
        self.volume += float(signed.sum())
        self.area += float(area[signed > 0].sum())
        self.cavities -= float(signed[signed < 0].sum())
        self.bodies += int((signed > 0).sum())
        self.hollows += int((signed < 0).sum())

    def add_group(self, signed: NDArray[np.float64], union: "_Union") -> None:
        expected = float(signed.sum())
        overlap = abs(union.volume - expected) > SAME_VOLUME * float(np.abs(signed).sum())
        self.volume += union.volume if overlap else expected
        self.area += union.area
        self.overlapping += overlap * len(signed)
        self.bodies += union.bodies

    def warnings(self) -> list[MeshWarning]:
        found = []
        if self.inverted:
            said = f"{self.inverted} bodies that faced inwards were turned round."
            found.append(MeshWarning("inverted_bodies", said))
        if self.hollows:
            said = f"{self.hollows} closed cavities lie within; they are told apart from the volume."
            found.append(MeshWarning("cavities", said))
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
    turn: Turn,
) -> Size:
    total = _Sum()
    turned = np.zeros(parts.number, np.bool_)
    for group in groups_that_meet(*boxes(mesh, parts)):
        if len(group) == 1:
            turned[group] = signed[group] < 0
            total.add_apart(float(signed[group[0]]), float(area[group[0]]))
            continue
        facets = np.isin(parts.labels, group)
        if (signed[group] < 0).any():
            if not _is_nested(mesh, facets, turn):
                said = f"{len(group)} bodies meet, and some that face inwards lie not wholly within another."
                warnings.append(MeshWarning("bodies_contradict", said))
                volume = float(np.abs(signed).sum())
                return Size(volume, float(area.sum()), warnings, mesh, volume, oriented=False)
            total.add_hollow(signed[group], area[group])
            continue
        if facets.sum() > UNITED_FACETS_MAX:
            why = f"{len(group)} bodies that may meet have many facets."
            return _unchecked(mesh, signed, area, warnings, why)
        if (union := _union(mesh, parts, group)) is None:
            why = f"{len(group)} bodies meet and could not be united."
            return _unchecked(mesh, signed, area, warnings, why)
        total.add_group(signed[group], union)
    warnings += total.warnings()
    if turned.any():
        over = turned[parts.labels][:, None]
        mesh = mesh._replace(faces=np.where(over, mesh.faces[:, ::-1], mesh.faces))
    bodies = total.bodies if total.overlapping or total.hollows else None
    sums = float(np.where(turned, -signed, signed).sum())
    return Size(total.volume, total.area, warnings, mesh, sums, bodies, cavities=total.cavities)


def _is_nested(mesh: Mesh, facets: NDArray[np.bool_], turn: Turn) -> bool:
    """Whether metal and hollow take turns from the outside to the inside."""
    found = measure_columns(mesh.positions[mesh.faces[facets]], turn)
    if found is None or not volumes(mesh)[facets].sum() > 0:
        return False
    return max(found.counted_twice, found.inside_out) <= COLUMNS_SHARE * found.metal


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


def _union(mesh: Mesh, parts: Parts, group: NDArray[np.int64]) -> _Union | None:
    """The bodies as one."""
    import manifold3d

    solids: list[manifold3d.Manifold] = []
    for part in group:
        used, numbers = np.unique(mesh.faces[parts.labels == part], return_inverse=True)
        points, triangles = mesh.positions[used], numbers.reshape(-1, 3)
        solid = manifold3d.Manifold(
            manifold3d.Mesh64(np.ascontiguousarray(points), np.ascontiguousarray(triangles, np.uint64))
        )
        if solid.status() != manifold3d.Error.NoError:
            return None
        solids.append(solid)
    whole = manifold3d.Manifold.batch_boolean(solids, manifold3d.OpType.Add)
    # What is flat may come to less than nothing, by rounding.
    return _Union(max(whole.volume(), 0.0), whole.surface_area(), len(whole.decompose()))
