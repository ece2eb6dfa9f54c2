"""3MF (3MF Consortium, core specification 1.3, production extension 1.1): the triangles of the build, in the
unit the model states.

Objects are known by part and id together, because the production extension uses the same ids in several
parts. What is in the build but no part of the piece (supports, items not to be printed, what slicers mark as
modifiers, see `roles`) does not count, and a remark says so; what would change the volume and is not
understood here (beam lattices, surfaces, volumes to be taken out) is refused.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pricing.errors import Refused
from pricing.facts import MeshWarning
from pricing.readers.common import (
    Indices,
    Points,
    check_indices,
    check_shown,
    coordinate,
    malformed,
    placed,
    unsupported,
    whole_number,
)
from pricing.readers.corners import SEVERAL_PARTS, Contents
from pricing.readers.roles import CURA_ROLES, FacetRange, Roles
from pricing.readers.xml_stream import Attributes, ElementStream
from pricing.readers.zip_package import ARCHIVE_ERRORS, Package, part_name

_DEPTH_MAX = 50
_CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
_PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
_TRIANGLE_SETS = "http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07"
_MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_UNDERSTOOD = frozenset({_CORE, _PRODUCTION, _TRIANGLE_SETS, _MATERIALS})
_UNITS = {"micron": "um", "millimeter": "mm", "centimeter": "cm", "inch": "in", "foot": "ft", "meter": "m"}

# Built to hold the piece; never cast.
_SUPPORTS = frozenset({"support", "solidsupport"})

_Key = tuple[str, str]


class _Reference(NamedTuple):
    """An object in its place: points are rows, p @ rotation + offset."""

    key: _Key
    rotation: Points
    offset: Points


class _Object:
    """What one object adds: a mesh, or references to other objects."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.role = "supports" if kind in _SUPPORTS else None
        """What it is for, when it is no metal."""
        self.positions = array("d")
        self.corners = array("q")
        self.components: list[_Reference] = []

    def mesh(self, left_out: Sequence[FacetRange]) -> tuple[Points, Indices]:
        """Points (v, 3) and faces (n, 3)."""
        points = np.asarray(self.positions, np.float64).reshape(-1, 3)
        faces = np.asarray(self.corners, np.int64).reshape(-1, 3)
        kept = np.ones(len(faces), np.bool_)
        for first, last, _ in left_out:
            kept[first : last + 1] = False
        return points, faces if kept.all() else faces[kept]


def read_three_mf(body: memoryview) -> Contents:
    """The triangles of all build items, and the unit of the model.

    Refused `malformed_3mf`, `archive_limit`, `dtd_forbidden`, `unsupported_feature`, `too_many_facets`,
    `not_finite`, `comma_decimal`, `no_facets`.
    """
    try:
        package = Package(body)
        build = _Build(package, package.model_name())
        build.check()
        otherwise = (SEVERAL_PARTS,) if build.parts > 1 else ()
        return Contents(np.concatenate(list(build.corners())), build.unit, build.remarks(), otherwise)
    except Refused:
        raise
    except ARCHIVE_ERRORS as error:
        raise malformed("3mf", f"The archive cannot be read ({error}).") from error


class _Part:
    """One model part: its unit, objects and build items, collected from the stream of its elements."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.unit = ""
        self.objects: dict[str, _Object] = {}
        self.items: list[_Reference] = []
        self._open: list[str | None] = []
        self._object: _Object  # the one that is open: only its children ask for it
        self._metadata = ""
        self.not_printed = 0
        self._stream = ElementStream(self._start, self._end, self._text)
        self.read = self._stream.read

    def _start(self, name: str, attributes: Attributes) -> None:
        """Elements count only where the format has them; None on the stack marks all others."""
        space, _, local = name.rpartition("}")
        parent = self._open[-1] if self._open else ""
        known = _ELEMENTS.get((parent, local)) if space == _CORE and parent is not None else None
        if known is None and parent == "":
            raise malformed("3mf", f"The root of a part is {name[-80:]}.")
        if known is None and parent in ("object", "mesh") and (space, local) not in _HARMLESS_CHILDREN:
            raise unsupported(f"An object is described by {name[-80:]}.")
        self._open.append(None if known is None else local)
        if known is not None:
            try:
                known(self, attributes)
            except (KeyError, ValueError) as error:
                said = f"'{local}' in line {self._stream.line}: {type(error).__name__}: {error}"
                raise malformed("3mf", f"{said[:160]}.") from error

    def _end(self) -> None:
        self._open.pop()
        self._metadata = ""

    def _text(self, text: str) -> None:
        if self._metadata and text.strip().lower() == "true":
            self._object.role = CURA_ROLES[self._metadata]

    def _object_metadata(self, attributes: Attributes) -> None:
        name = attributes["name"].lower()
        self._metadata = name if name in CURA_ROLES else ""

    def _nothing(self, attributes: Attributes) -> None:
        """An element whose attributes do not matter."""

    def _model(self, attributes: Attributes) -> None:
        self.unit = _UNITS[attributes.get("unit", "millimeter")]
        for prefix in attributes.get("requiredextensions", "").split():
            space = self._stream.namespaces.get(prefix, prefix)
            if space not in _UNDERSTOOD:
                raise unsupported(f"The model requires the extension {space[:80]}.")

    def _begin_object(self, attributes: Attributes) -> None:
        identity = attributes["id"].strip()
        if identity in self.objects:
            raise ValueError(f"id {identity} occurs twice")
        self._object = self.objects[identity] = _Object(identity, attributes.get("type", "model"))

    def _mesh(self, attributes: Attributes) -> None:
        if self._object.positions:
            raise ValueError("an object has two meshes")

    def _vertex(self, attributes: Attributes) -> None:
        for axis in "xyz":
            self._object.positions.append(self._number(attributes[axis]))

    def _triangle(self, attributes: Attributes) -> None:
        for corner in ("v1", "v2", "v3"):
            self._object.corners.append(whole_number(attributes[corner].strip().encode()))

    def _component(self, attributes: Attributes) -> None:
        self._object.components.append(self._reference(attributes))

    def _item(self, attributes: Attributes) -> None:
        if attributes.get("printable", "1") != "0":
            self.items.append(self._reference(attributes))
        else:
            self.not_printed += 1

    def _reference(self, attributes: Attributes) -> _Reference:
        path = attributes.get(_PRODUCTION + "}path")
        if path is None and any(name.rpartition("}")[2] == "path" for name in attributes):
            raise unsupported("An object is said to be in another part, in a way that is not known.")
        name = self.name if path is None else part_name(path)
        numbers = [
            self._number(word) for word in attributes.get("transform", "1 0 0 0 1 0 0 0 1 0 0 0").split()
        ]
        if len(numbers) != 12:
            raise ValueError(f"a transform has {len(numbers)} numbers")
        matrix = np.array(numbers).reshape(4, 3)
        return _Reference((name, attributes["objectid"].strip()), matrix[:3], matrix[3])

    def _number(self, text: str) -> float:
        return coordinate(text.strip().encode(), "3mf", self._stream.line)


_ELEMENTS: dict[tuple[str, str], Callable[[_Part, Attributes], None]] = {
    ("", "model"): _Part._model,
    ("model", "resources"): _Part._nothing,
    ("resources", "object"): _Part._begin_object,
    ("object", "metadatagroup"): _Part._nothing,
    ("metadatagroup", "metadata"): _Part._object_metadata,
    ("object", "mesh"): _Part._mesh,
    ("mesh", "vertices"): _Part._nothing,
    ("vertices", "vertex"): _Part._vertex,
    ("mesh", "triangles"): _Part._nothing,
    ("triangles", "triangle"): _Part._triangle,
    ("object", "components"): _Part._nothing,
    ("components", "component"): _Part._component,
    ("model", "build"): _Part._nothing,
    ("build", "item"): _Part._item,
}
_HARMLESS_CHILDREN = frozenset({(_TRIANGLE_SETS, "trianglesets")})


class _Build:
    """The build items of the root part, with the parts they lead to."""

    def __init__(self, package: Package, root: str) -> None:
        self._package = package
        self._parts: dict[str, _Part] = {}
        self._totals: dict[_Key, int] = {}
        self._stored = 0
        self._root = self._part(root)
        self.unit = self._root.unit
        self._roles = Roles(package)
        self._left_out: Counter[str] = Counter()

    @property
    def parts(self) -> int:
        """How many were read."""
        return len(self._parts)

    def _part(self, name: str) -> _Part:
        """A part, read when it is first asked for."""
        if name not in self._parts:
            part = _Part(name)
            self._package.read(name, part.read)
            # The specification does not say which unit would win.
            if self._parts and part.unit != self.unit:
                raise unsupported(f"The parts are in different units, {self.unit} and {part.unit}.")
            self._parts[name] = part
        return self._parts[name]

    def _object(self, key: _Key) -> _Object:
        if (found := self._part(key[0]).objects.get(key[1])) is None:
            raise malformed("3mf", f"Object {key[1][:20]!r} of {key[0][:80]!r} does not exist.")
        return found

    def check(self) -> None:
        """Bound what the build holds before it is put together; Refused when it holds nothing."""
        check_shown(sum(self._total(item.key, 0) for item in self._root.items), self._stored)

    def _total(self, key: _Key, depth: int) -> int:
        """Facets of an object with its components, each counted as often as it occurs."""
        if key in self._totals:
            return self._totals[key]
        if depth > _DEPTH_MAX:
            raise malformed("3mf", f"Object {key[1][:20]!r} contains itself.")
        found = self._object(key)
        if found.role is not None:
            self._left_out[found.role] += 1
            total = 0
        elif found.kind != "model":
            raise unsupported(f"The build holds an object of type {found.kind[:20]!r}.")
        else:
            parts = self._components(key, found, self._left_out)
            total = self._own_facets(key, found) + sum(self._total(part.key, depth + 1) for part in parts)
        self._totals[key] = total
        return total

    def _components(self, key: _Key, found: _Object, left_out: Counter[str]) -> list[_Reference]:
        """Without those that the program which wrote the file does not mean as metal."""
        metal = []
        for component in found.components:
            role = (
                self._roles.components.get((key[1], component.key[1])) if key[0] == self._root.name else None
            )
            if role is None:
                metal.append(component)
            else:
                left_out[role] += 1
        return metal

    def _ranges(self, key: _Key) -> Sequence[FacetRange]:
        return self._roles.ranges.get(key[1], ()) if key[0] == self._root.name else ()

    def remarks(self) -> tuple[MeshWarning, ...]:
        """What is in the file and not in the price."""
        self._left_out["items not to be printed"] += self._root.not_printed
        said = ", ".join(f"{count} {what}" for what, count in sorted(self._left_out.items()) if count)
        return (MeshWarning("parts_left_out", f"No metal, and left out: {said}."),) if said else ()

    def _own_facets(self, key: _Key, found: _Object) -> int:
        ranges = self._ranges(key)
        for part in ranges:
            self._left_out[part.role] += 1
        points, faces = found.mesh(ranges)
        if len(faces) and found.components:
            raise malformed("3mf", "An object has both a mesh and components.")
        check_indices(faces.reshape(-1), len(points), "3mf")
        self._stored += len(faces)
        return len(faces)

    def corners(self) -> Iterator[Points]:
        """The facets of every place an object is built in; those without any lead nowhere."""
        pending = list(self._root.items)
        while pending:
            key, rotation, offset = pending.pop()
            if not self._totals[key]:
                continue
            found = self._object(key)
            points, faces = found.mesh(self._ranges(key))
            if len(faces):
                yield placed(points, faces, rotation, offset)
            with np.errstate(all="ignore"):
                pending += [
                    _Reference(inner.key, inner.rotation @ rotation, inner.offset @ rotation + offset)
                    for inner in self._components(key, found, Counter())
                ]
