"""Binary glTF 2.0 (Khronos, sections 3 and 4.4): triangles of the default scene, with node transforms, in
metres.

Only the node tree, positions and indices are decoded; materials, cameras and names are not even read. What
would change the volume (skins, morph targets, sparse or quantised positions, meshopt) is refused; what Draco
has compressed is decoded by its own library. An extension that the file does not require may be passed over:
so the format has it.
"""

import math
import struct
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pricing.readers.common import (
    Indices,
    Points,
    check_indices,
    check_shown,
    in_double_precision,
    malformed,
    no_facets,
    placed,
    unsupported,
)
from pricing.readers.corners import FACETS_MAX, Contents

_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_JSON_BYTES_MAX = 8 << 20
_NODES_MAX = 20_000
_NODE_DEPTH_MAX = 200
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_FACET_BYTES_MIN = 3
_FLOAT = 5126
_INDEX_TYPES = {5121: "<u1", 5123: "<u2", 5125: "<u4"}
_UNIT_QUATERNION_TOLERANCE = 0.01
_AFFINE_TOLERANCE = 1e-6
# Extensions that change how a surface looks and nothing else.
_HARMLESS = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp")
_DRACO = "KHR_draco_mesh_compression"
# They show a mesh more often than its node, or lay the bytes of others over its own: never passed over.
_NEVER_PASSED_OVER = frozenset(
    {"EXT_mesh_gpu_instancing", "EXT_meshopt_compression", "KHR_meshopt_compression"}
)
# What stands behind the last chunk, or fills one up.
_PADDING = b"\0 \t\r\n"
_PADDING_BYTES_MAX = 64

_Index = Annotated[int, Meta(ge=0, le=1 << 53)]
_Extensions = dict[str, msgspec.Raw]


class _View(msgspec.Struct):
    buffer: _Index
    byteLength: _Index  # noqa: N815 - the names of the format
    byteOffset: _Index = 0  # noqa: N815
    byteStride: _Index | None = None  # noqa: N815
    extensions: _Extensions = {}


class _Accessor(msgspec.Struct):
    componentType: int  # noqa: N815
    count: _Index
    type: str
    bufferView: _Index | None = None  # noqa: N815
    byteOffset: _Index = 0  # noqa: N815
    normalized: bool = False
    sparse: object = None


class _Attributes(msgspec.Struct):
    POSITION: _Index


class _Primitive(msgspec.Struct):
    attributes: _Attributes
    indices: _Index | None = None
    mode: int = _TRIANGLES
    targets: list[msgspec.Raw] = []
    extensions: _Extensions = {}


class _Draco(msgspec.Struct):
    """Where the compressed primitive lies, and the numbers that its attributes have in there."""

    bufferView: _Index  # noqa: N815
    attributes: _Attributes


class _Mesh(msgspec.Struct):
    primitives: list[_Primitive]


class _Node(msgspec.Struct):
    children: list[_Index] = []
    mesh: _Index | None = None
    skin: _Index | None = None
    weights: list[float] = []
    matrix: Annotated[list[float], Meta(min_length=16, max_length=16)] | None = None
    translation: tuple[float, float, float] | None = None
    rotation: tuple[float, float, float, float] | None = None
    scale: tuple[float, float, float] | None = None
    extensions: _Extensions = {}


class _Buffer(msgspec.Struct):
    byteLength: _Index  # noqa: N815
    uri: object = None
    extensions: _Extensions = {}


class _SceneRoots(msgspec.Struct):
    nodes: list[_Index] = []


class _Document(msgspec.Struct):
    scenes: list[_SceneRoots]
    scene: _Index = 0
    nodes: list[_Node] = []
    meshes: list[_Mesh] = []
    accessors: list[_Accessor] = []
    bufferViews: list[_View] = []  # noqa: N815
    buffers: list[_Buffer] = []
    extensionsRequired: list[str] = []  # noqa: N815


class _Instance(NamedTuple):
    """A mesh in the place a node gives it; `matrix` multiplies columns, shape (4, 4)."""

    mesh: int
    matrix: Points


def read_glb(body: memoryview) -> Contents:
    """The triangles of the default scene, in metres.

    Refused `malformed_glb`, `unsupported_feature`, `too_many_facets`, `no_facets`.
    """
    text, binary = _chunks(body)
    try:
        document = msgspec.json.decode(bytes(text).rstrip(_PADDING), type=_Document)
        _check_document(document)
        instances = list(_instances(document))
        _check_amount(document, instances, len(binary))
        return Contents(_Geometry(document, binary).built(instances), "m")
    except (msgspec.DecodeError, ValueError, IndexError, RecursionError) as error:
        raise malformed("glb", f"The content is not understood ({error}).") from error


def _chunks(body: memoryview) -> tuple[memoryview, memoryview]:
    """The JSON and the binary chunk; the stated lengths must fill the file exactly."""
    if len(body) < 20:
        raise malformed("glb", "The file is shorter than its header.")
    _, version, length = struct.unpack_from("<4sII", body, 0)
    behind = bytes(body[length : length + _PADDING_BYTES_MAX + 1])
    if version != 2 or length > len(body) or len(behind) > _PADDING_BYTES_MAX or behind.strip(_PADDING):
        raise malformed(
            "glb", f"The header states version {version} and {length} bytes; the file has {len(body)}."
        )
    chunks: list[tuple[int, memoryview]] = []
    offset = 12
    while offset < length:
        if offset + 8 > length:
            if not bytes(body[offset:length]).strip(_PADDING):
                break
            raise malformed("glb", "The file ends within the header of a chunk.")
        size, kind = struct.unpack_from("<II", body, offset)
        if offset + 8 + size > length:
            raise malformed("glb", "A chunk is longer than the file.")
        # What follows the first two chunks belongs to extensions; the loop checks that it ends with the file.
        if len(chunks) < 2:
            chunks.append((kind, body[offset + 8 : offset + 8 + size]))
        offset += 8 + size
    kind, text = chunks[0]
    if kind != _JSON_CHUNK or len(text) > _JSON_BYTES_MAX:
        raise malformed("glb", f"The first part is no JSON of at most {_JSON_BYTES_MAX} bytes.")
    return text, chunks[1][1] if chunks[1:] and chunks[1][0] == _BINARY_CHUNK else memoryview(b"")


def _check_document(document: _Document) -> None:
    if len(document.nodes) > _NODES_MAX:
        raise unsupported(f"The file has {len(document.nodes)} nodes; at most {_NODES_MAX} are read.")
    strange = [
        name for name in document.extensionsRequired if name != _DRACO and not name.startswith(_HARMLESS)
    ]
    if strange:
        raise unsupported(f"The file requires the extensions {', '.join(strange)[:80]}.")
    if len(document.buffers) > 1 or any(buffer.uri is not None for buffer in document.buffers):
        raise unsupported("The geometry lies outside of the file.")
    for buffer in document.buffers:
        _require_plain(buffer.extensions)
    for view in document.bufferViews:
        _require_plain(view.extensions)


def _require_plain(extensions: _Extensions) -> None:
    for name in extensions.keys() & _NEVER_PASSED_OVER:
        raise unsupported(f"The file uses {name}, which is not read here.")


def _instances(document: _Document) -> Iterator[_Instance]:
    """Every mesh of the default scene with its place in it; the nodes must form a tree."""
    pending = [(root, np.eye(4), 0) for root in document.scenes[document.scene].nodes]
    seen: set[int] = set()
    while pending:
        number, outer, depth = pending.pop()
        if number in seen or depth > _NODE_DEPTH_MAX:
            raise ValueError("the nodes do not form a tree of reasonable depth")
        seen.add(number)
        node = document.nodes[number]
        if node.skin is not None or node.weights:
            raise unsupported("A node is deformed by a skin or by morph targets.")
        _require_plain(node.extensions)
        with np.errstate(all="ignore"):
            matrix = outer @ _matrix(node)
        if node.mesh is not None:
            yield _Instance(node.mesh, matrix)
        pending += [(child, matrix, depth + 1) for child in node.children]


def _matrix(node: _Node) -> Points:
    matrix: Points = np.eye(4)
    if node.matrix is not None:
        if node.translation or node.rotation or node.scale:
            raise ValueError("a node has both a matrix and its parts")
        matrix = np.array(node.matrix, np.float64).reshape(4, 4).T
        if not (np.abs(matrix[3] - (0, 0, 0, 1)) <= _AFFINE_TOLERANCE).all():
            raise ValueError("the matrix of a node is not affine")
        matrix[3] = 0, 0, 0, 1
        return matrix
    matrix[:3, :3] = _rotation(*(node.rotation or (0.0, 0.0, 0.0, 1.0))) * (node.scale or 1.0)
    matrix[:3, 3] = node.translation or 0.0
    return matrix


def _rotation(x: float, y: float, z: float, w: float) -> Points:
    """The rotation of a unit quaternion, shape (3, 3)."""
    length = math.hypot(x, y, z, w)
    if not abs(length - 1) <= _UNIT_QUATERNION_TOLERANCE:
        raise ValueError("the rotation of a node is no unit quaternion")
    x, y, z, w = x / length, y / length, z / length, w / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _check_amount(document: _Document, instances: list[_Instance], binary_bytes: int) -> None:
    """Bound the facets shown before any is read: meshes and nodes may point to the same bytes any number of
    times.
    """
    sizes = [sum(_facet_count(document, part) for part in mesh.primitives) for mesh in document.meshes]
    check_shown(sum(sizes[instance.mesh] for instance in instances), binary_bytes // _FACET_BYTES_MIN)


def _facet_count(document: _Document, part: _Primitive) -> int:
    number = part.attributes.POSITION if part.indices is None else part.indices
    count = document.accessors[number].count
    if part.mode == _TRIANGLES:
        if count % 3:
            raise ValueError("the corners of a mesh are no multiple of three")
        return count // 3
    return max(count - 2, 0)


class _Geometry:
    """Reads meshes out of the binary chunk."""

    def __init__(self, document: _Document, binary: memoryview) -> None:
        self._document = document
        self._binary = binary
        self._parts: dict[int, list[tuple[Points, Indices]]] = {}

    def built(self, instances: list[_Instance]) -> Points:
        """Corners (n, 3, 3) of all instances."""
        corners = [
            placed(points, faces, matrix[:3, :3].T, matrix[:3, 3])
            for mesh, matrix in instances
            for points, faces in self._mesh(mesh)
        ]
        return np.concatenate(corners)

    def _mesh(self, number: int) -> list[tuple[Points, Indices]]:
        """Points and faces of each part of a mesh, read once."""
        if number not in self._parts:
            self._parts[number] = [self._part(part) for part in self._document.meshes[number].primitives]
        return self._parts[number]

    def _part(self, part: _Primitive) -> tuple[Points, Indices]:
        if part.mode not in (_TRIANGLES, _STRIP, _FAN):
            raise unsupported("A mesh is made of points or lines.")
        if part.targets:
            raise unsupported("A mesh has morph targets.")
        _require_plain(part.extensions)
        if _DRACO in part.extensions:
            return self._unpacked(part)
        points = in_double_precision(self._rows(part.attributes.POSITION, "VEC3", {_FLOAT: "<f4"}, 3))
        if part.indices is None:
            corners = np.arange(len(points))
        else:
            corners = self._rows(part.indices, "SCALAR", _INDEX_TYPES, 1).astype(np.int64).reshape(-1)
        check_indices(corners, len(points), "glb")
        return points, _faces(part.mode, corners)

    def _unpacked(self, part: _Primitive) -> tuple[Points, Indices]:
        """What Draco has compressed: as many facets and points as the accessors beside it state."""
        import DracoPy  # few files are compressed

        draco = msgspec.json.decode(part.extensions[_DRACO], type=_Draco)
        view = self._document.bufferViews[draco.bufferView]
        if view.buffer != 0 or view.byteOffset + view.byteLength > len(self._binary):
            raise ValueError("a view reaches beyond the binary part")
        packed = bytes(self._binary[view.byteOffset : view.byteOffset + view.byteLength])
        try:
            mesh = DracoPy.decode(packed)
            points = mesh.get_attribute_by_unique_id(draco.attributes.POSITION)["data"]
            faces = mesh.faces
        except (DracoPy.FileTypeException, AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"a mesh is compressed by Draco and cannot be unpacked: {error}") from None
        stated = self._document.accessors[part.attributes.POSITION].count, _facet_count(self._document, part)
        if part.mode not in (_TRIANGLES, _STRIP) or (len(points), len(faces)) != stated:
            raise ValueError(f"a mesh compressed by Draco holds {len(faces)} facets, not {stated[1]}")
        corners = faces.astype(np.int64)
        check_indices(corners.reshape(-1), len(points), "glb")
        return in_double_precision(points.reshape(-1, 3)), corners

    def _rows(self, number: int, kind: str, types: dict[int, str], columns: int) -> NDArray[np.generic]:
        """An accessor of the expected type, in place, shape (count, columns); it must lie within its view."""
        accessor = self._document.accessors[number]
        if accessor.bufferView is None or accessor.sparse is not None or accessor.normalized:
            raise unsupported("Positions are sparse, quantised or supplied by an extension.")
        if accessor.type != kind or accessor.componentType not in types:
            raise ValueError(f"accessor {number} has type {accessor.type[:10]} {accessor.componentType}")
        view = self._document.bufferViews[accessor.bufferView]
        if view.buffer != 0 or view.byteOffset + view.byteLength > len(self._binary):
            raise ValueError("a view reaches beyond the binary part")
        dtype = np.dtype((types[accessor.componentType], (columns,)))
        row_bytes = dtype.base.itemsize * columns
        stride = row_bytes if view.byteStride is None else view.byteStride
        last = accessor.byteOffset + stride * (accessor.count - 1) + row_bytes
        if stride < row_bytes or last > view.byteLength:
            raise ValueError(f"accessor {number} reaches beyond its view")
        if not 0 < accessor.count <= 3 * FACETS_MAX:
            raise no_facets("A mesh has no corners.")
        return np.ndarray(
            (accessor.count, columns),
            dtype.base,
            self._binary,
            view.byteOffset + accessor.byteOffset,
            (stride, dtype.base.itemsize),
        )


def _faces(mode: int, corners: Indices) -> Indices:
    """Indices (n, 3) of the triangles, each in the direction glTF gives it (section 3.7.2.1)."""
    if mode == _TRIANGLES:
        if len(corners) % 3:
            raise ValueError("the corners of a mesh are no multiple of three")
        return corners.reshape(-1, 3)
    if mode == _FAN:
        return np.stack([np.broadcast_to(corners[:1], corners[2:].shape), corners[1:-1], corners[2:]], axis=1)
    strip = np.stack([corners[:-2], corners[1:-1], corners[2:]], axis=1)
    strip[1::2] = strip[1::2, ::-1]
    return strip
