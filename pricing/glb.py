"""Binary glTF 2.0 (Khronos, sections 3 and 4.4): triangles of the default scene, with node transforms, in
metres.

The JSON part is rebuilt from what was checked: the node tree, positions and indices. Materials, cameras,
names and everything an extension may hide do not reach trimesh; what would change the volume (skins, morph
targets, sparse or quantised positions, compressed buffers) is refused.
"""

import json
import math
import struct
from typing import Any

from pricing.errors import Refused
from pricing.facets import FACETS_MAX, ArrayFacets
from pricing.loading import load_triangles, malformed, unsupported

_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_JSON_BYTES_MAX = 32 << 20
_NODE_DEPTH_MAX = 200
_TRIANGLES = 4
_FLOAT = 5126
_INDEX_BYTES = {5121: 1, 5123: 2, 5125: 4}
# Extensions that change how a surface looks and nothing else.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp")

_Json = dict[str, Any]


def read_glb(body: memoryview) -> tuple[ArrayFacets, str]:
    """The triangles of the default scene, in metres. Refused `malformed_glb`, `unsupported_feature`,
    `no_facets`."""
    text, binary = _chunks(body)
    try:
        document = json.loads(text)
        scene = _Scene(document, len(binary))
        reduced, triangles = scene.reduced(), scene.triangles
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise malformed(
            "glb", f"The JSON part is not understood ({type(error).__name__}: {error})."
        ) from error
    if triangles == 0:
        raise Refused(
            "no_facets", "The default scene shows no triangles.", "Check what was selected when exporting."
        )
    return load_triangles(_packed(reduced, binary), "glb", triangles), "m"


def _chunks(body: memoryview) -> tuple[bytes, bytes]:
    """The JSON and the binary chunk; the stated lengths must fill the file exactly."""
    if len(body) < 20:
        raise malformed("glb", "The file is shorter than its header.")
    _, version, length = struct.unpack_from("<4sII", body, 0)
    if version != 2 or length != len(body):
        raise malformed(
            "glb", f"The header states version {version} and {length} bytes; the file has {len(body)}."
        )
    chunks: dict[int, bytes] = {}
    offset = 12
    while offset < length:
        if offset + 8 > length:
            raise malformed("glb", "The file ends within the header of a chunk.")
        size, kind = struct.unpack_from("<II", body, offset)
        if offset + 8 + size > length:
            raise malformed("glb", "A chunk is longer than the file.")
        chunks.setdefault(kind, bytes(body[offset + 8 : offset + 8 + size]))
        offset += 8 + size
    text = chunks.get(_JSON_CHUNK, b"")
    if not 0 < len(text) <= _JSON_BYTES_MAX:
        raise malformed("glb", f"The JSON part has {len(text)} bytes.")
    return text, chunks.get(_BINARY_CHUNK, b"")


def _packed(document: _Json, binary: bytes) -> bytes:
    """A GLB file of one JSON and one binary chunk."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sIIII", b"glTF", 2, size, len(text), _JSON_CHUNK)
    return head + text + struct.pack("<II", len(binary), _BINARY_CHUNK) + binary


class _Scene:
    """The checked parts of a document. KeyError, ValueError and the like mean it is malformed."""

    def __init__(self, document: _Json, binary_bytes: int) -> None:
        self._document = document
        self._binary_bytes = binary_bytes
        self._seen: set[int] = set()
        self._checked: set[int] = set()
        self.triangles = 0
        strange = [name for name in document.get("extensionsRequired", []) if not name.startswith(_HARMLESS)]
        if strange:
            raise unsupported(f"The file requires the extensions {', '.join(strange)}.")
        if "scenes" not in document:
            raise ValueError("there is no scene")
        self._roots: list[int] = document["scenes"][_index(document.get("scene", 0))].get("nodes", [])

    def reduced(self) -> _Json:
        """A document of the default scene with positions and indices alone."""
        buffers = self._document.get("buffers", [])
        if len(buffers) > 1 or any("uri" in buffer for buffer in buffers):
            raise unsupported("The geometry lies outside of the file.")
        nodes = list(self._document.get("nodes", []))
        reduced_nodes: list[_Json] = [{} for _ in nodes]
        pending = [(_index(root), 0) for root in self._roots]
        while pending:
            number, depth = pending.pop()
            self._enter(number, depth)
            reduced_nodes[number] = self._node(nodes[number])
            pending += [(_index(child), depth + 1) for child in nodes[number].get("children", [])]
        meshes = [self._mesh(mesh) for mesh in self._document.get("meshes", [])]
        return {
            "asset": {"version": "2.0"},
            "scene": 0,
            "scenes": [{"nodes": self._roots}],
            "nodes": reduced_nodes,
            "meshes": meshes,
            "accessors": self._accessors(),
            "bufferViews": [self._view(view) for view in self._document.get("bufferViews", [])],
            "buffers": [{"byteLength": self._binary_bytes}],
        }

    def _enter(self, number: int, depth: int) -> None:
        # The nodes must form a tree: a node met twice is a cycle, or an instance trimesh would lose.
        if number in self._seen or depth > _NODE_DEPTH_MAX:
            raise ValueError("the nodes do not form a tree of reasonable depth")
        self._seen.add(number)

    def _node(self, node: _Json) -> _Json:
        if "skin" in node or "weights" in node or _strange_extensions(node):
            raise unsupported("A node is deformed by a skin, morph targets or an extension.")
        kept: _Json = {name: node[name] for name in ("children", "mesh", "matrix") if name in node}
        for name, size in (("translation", 3), ("rotation", 4), ("scale", 3), ("matrix", 16)):
            if name in node:
                kept[name] = _numbers(node[name], size)
        if "matrix" in node and kept.keys() & {"translation", "rotation", "scale"}:
            raise ValueError("a node has both a matrix and its parts")
        if "mesh" in node:
            self.triangles += self._mesh_triangles(_index(node["mesh"]))
            if self.triangles > FACETS_MAX:
                raise Refused(
                    "too_many_facets",
                    f"The scene shows more than {FACETS_MAX} triangles.",
                    "Export it with a coarser tolerance.",
                )
        return kept

    def _mesh_triangles(self, number: int) -> int:
        total = 0
        for part in self._document["meshes"][number]["primitives"]:
            corners = part["indices"] if "indices" in part else part["attributes"]["POSITION"]
            count = _index(self._accessor(corners)["count"])
            if count % 3:
                raise ValueError("the corners of a mesh are no multiple of three")
            total += count // 3
        return total

    def _mesh(self, mesh: _Json) -> _Json:
        return {"primitives": [self._primitive(part) for part in mesh["primitives"]]}

    def _primitive(self, part: _Json) -> _Json:
        if part.get("mode", _TRIANGLES) != _TRIANGLES:
            raise unsupported("A mesh is made of points, lines, strips or fans.")
        if part.get("targets") or _strange_extensions(part):
            raise unsupported("A mesh has morph targets or is compressed.")
        position = _index(part["attributes"]["POSITION"])
        self._check_accessor(position, "VEC3", {_FLOAT: 4}, 3)
        reduced: _Json = {"attributes": {"POSITION": position}, "mode": _TRIANGLES}
        if "indices" in part:
            reduced["indices"] = _index(part["indices"])
            self._check_accessor(reduced["indices"], "SCALAR", _INDEX_BYTES, 1)
        return reduced

    def _accessor(self, number: object) -> _Json:
        accessor: _Json = self._document["accessors"][_index(number)]
        return accessor

    def _check_accessor(self, number: int, kind: str, widths: dict[int, int], columns: int) -> None:
        """An accessor of the expected type whose rows lie within its view."""
        accessor = self._accessor(number)
        if "sparse" in accessor or "bufferView" not in accessor or accessor.get("normalized"):
            raise unsupported("Positions are sparse, quantised or supplied by an extension.")
        if accessor["type"] != kind or accessor["componentType"] not in widths:
            raise ValueError(f"accessor {number} has type {accessor['type']} {accessor['componentType']}")
        view = self._document["bufferViews"][_index(accessor["bufferView"])]
        row_bytes = widths[accessor["componentType"]] * columns
        stride = _index(view.get("byteStride", row_bytes))
        last = _index(accessor.get("byteOffset", 0)) + stride * (_index(accessor["count"]) - 1) + row_bytes
        if stride < row_bytes or last > view["byteLength"]:
            raise ValueError(f"accessor {number} reaches beyond its view")
        self._checked.add(number)

    def _accessors(self) -> list[_Json]:
        """The accessors in use; the others, which nobody checked, are replaced by empty ones."""
        empty = {"componentType": _FLOAT, "count": 0, "type": "SCALAR"}
        names = ("bufferView", "byteOffset", "componentType", "count", "type")
        return [
            {name: accessor[name] for name in names if name in accessor} if number in self._checked else empty
            for number, accessor in enumerate(self._document.get("accessors", []))
        ]

    def _view(self, view: _Json) -> _Json:
        kept: _Json = {
            name: _index(view[name]) for name in ("byteOffset", "byteLength", "byteStride") if name in view
        }
        if _index(view["buffer"]) != 0 or kept.get("byteOffset", 0) + kept["byteLength"] > self._binary_bytes:
            raise ValueError("a view reaches beyond the binary part")
        return {"buffer": 0, **kept}


def _strange_extensions(part: _Json) -> bool:
    return any(not name.startswith(_HARMLESS) for name in part.get("extensions", {}))


def _index(value: object) -> int:
    """A whole number from 0; Python would take a negative one from the end of a list, and True as 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0")
    return value


def _numbers(values: list[float], size: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != size or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"expected {size} finite numbers")
    return numbers
