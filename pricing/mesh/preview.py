"""A mesh small enough for a screen: vertices merged within the cells of a grid, as GLB.

Vertex clustering (Rossignac and Borrel, "Multi-resolution 3D approximations for rendering complex scenes",
1993): every cell keeps the mean of the corners in it, a facet stays when its corners lie in three cells, and
each once. It asks nothing of the mesh: open, crossing and broken ones come out as they look. The grid is
held in arrays, so a pass costs the same for every facet and nothing is sorted but what is left.

GLB, since browsers and phones show it as it is, and it takes a quarter of what STL does for the same facets:
vertices are shared and numbered in two bytes.
"""

import json
import math
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.readers.corners import Corners
from pricing.units import MILLIMETRES_PER_UNIT

PREVIEW_FACETS_MAX = 20_000
"""A ring has no more to show on a screen; below, the mesh is shown as it is."""

GRID_CELLS_MAX = 1 << 21
"""Three cell numbers fit into 63 bits."""

CHUNK_FACETS = 1 << 18

PASSES_MAX = 24

CELL_MIN = 1e-30

COARSER = 1.25
"""By so much the cells grow from one pass to the next, until few enough facets are left."""

Cells = NDArray[np.int64]

Faces = NDArray[np.int64]

_SHADE = {"pbrMetallicRoughness": {"baseColorFactor": [0.83, 0.81, 0.78, 1], "roughnessFactor": 0.45}}

_TRIANGLES, _UINT16, _FLOAT32 = 4, 5123, 5126

_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


class Shape(NamedTuple):
    """Vertices, shape (v, 3) about the middle of the model's box, and faces, shape (f, 3)."""

    vertices: NDArray[np.float64]
    faces: Faces


def preview(source: bytes | memoryview) -> bytes:
    """The GLB of a model file: at most PREVIEW_FACETS_MAX facets, in metres as glTF wants it, the model's own
    z axis up. A file that states no unit is taken for millimetres. Refused as by
    `pricing.mesh.analysis.analyse`.
    """
    body = memoryview(source).cast("B").toreadonly()
    # Only workers need it, and it takes a second to import.
    from pricing.readers.read import read_model

    found, contents = read_model(body)
    corners, unit = contents.corners, contents.unit
    if len(corners) == 0:
        raise Refused("no_facets", "The file holds no facets.", "Check what was selected when exporting.")
    metres = float(MILLIMETRES_PER_UNIT[unit or "mm"]) / 1000
    # Only glTF itself says which way is up; all others are made by programs where that is z.
    return _glb(decimated(corners), metres, z_up=found != "glb")


def decimated(corners: Corners) -> Shape:
    """At most PREVIEW_FACETS_MAX facets that look like these, shape (n, 3 vertices, 3 axes)."""
    lower, upper = _box(corners)
    middle = (lower + upper) / 2
    if len(corners) <= PREVIEW_FACETS_MAX:
        return _shared(corners - middle)
    cell = _first_cell(corners, lower, upper)
    for _ in range(PASSES_MAX):
        shape = _clustered(corners, lower, upper, cell)
        if shape is not None and len(shape.faces):
            return Shape(shape.vertices - middle, shape.faces)
        cell *= COARSER
    # Facets as large as the box, all through each other: no grid makes them fewer. Some of them, then.
    some = np.linspace(0, len(corners) - 1, PREVIEW_FACETS_MAX).astype(np.int64)
    return _shared(corners[some] - middle)


def _box(corners: Corners) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    for start in range(0, len(corners), CHUNK_FACETS):
        points = corners[start : start + CHUNK_FACETS].reshape(-1, 3)
        lower, upper = np.minimum(lower, points.min(axis=0)), np.maximum(upper, points.max(axis=0))
    if not np.isfinite(lower).all() or not np.isfinite(upper).all():
        raise Refused("not_finite", "A coordinate is not a finite number.", "Repair the model.")
    return lower, upper


def _first_cell(corners: Corners, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> float:
    """The width at which a smooth surface of this area leaves about as many facets as there may be: some
    three to a cell that it crosses."""
    area = 0.0
    for start in range(0, len(corners), CHUNK_FACETS):
        part = corners[start : start + CHUNK_FACETS].astype(np.float64)
        sides = np.cross(part[:, 1] - part[:, 0], part[:, 2] - part[:, 0])
        area += float(np.sqrt(np.einsum("ij,ij->i", sides, sides)).sum()) / 2
    extent = upper - lower
    cell = max(math.sqrt(3 * area / PREVIEW_FACETS_MAX), float(extent.max()) * 1e-6, CELL_MIN)
    while _cell_count(extent, cell) > GRID_CELLS_MAX:
        cell *= COARSER
    return cell


def _cell_count(extent: NDArray[np.float64], cell: float) -> int:
    # As Python numbers, which do not overflow.
    x, y, z = (int(length / cell) + 1 for length in extent.tolist())
    return x * y * z


def _clustered(
    corners: Corners, lower: NDArray[np.float64], upper: NDArray[np.float64], cell: float
) -> Shape | None:
    """None when more facets are left than there may be."""
    across = np.floor((upper - lower) / cell).astype(np.int64) + 1
    count = int(across.prod())
    members = np.zeros(count)
    sums = np.zeros((3, count))
    keys = np.empty(0, np.uint64)
    for start in range(0, len(corners), CHUNK_FACETS):
        part = corners[start : start + CHUNK_FACETS]
        cells = _cells(part, lower, across, cell)
        flat, points = cells.reshape(-1), part.reshape(-1, 3)
        members += np.bincount(flat, minlength=count)
        for axis in range(3):
            sums[axis] += np.bincount(flat, weights=points[:, axis], minlength=count)
        keys = np.union1d(keys, _keys(cells, count))
        if len(keys) > PREVIEW_FACETS_MAX:
            return None
    used, numbered = np.unique(_faces(keys, count), return_inverse=True)
    return Shape((sums[:, used] / members[used]).T, numbered.reshape(-1, 3))


def _cells(part: Corners, lower: NDArray[np.float64], across: NDArray[np.int64], cell: float) -> Cells:
    """The cell of every corner, shape (n, 3)."""
    places = np.floor((part - lower) / cell).astype(np.int64)
    np.clip(places, 0, across - 1, out=places)
    cells: Cells = (places[..., 0] * across[1] + places[..., 1]) * across[2] + places[..., 2]
    return cells


def _keys(cells: Cells, count: int) -> NDArray[np.uint64]:
    """One number for each facet with three cells of its own, the smallest first: the way it turns is kept."""
    a, b, c = cells.T
    cells = cells[(a != b) & (b != c) & (c != a)]
    first = cells.argmin(axis=1)[:, None]
    a, b, c = np.take_along_axis(cells, (first + np.arange(3)) % 3, axis=1).T.astype(np.uint64)
    width = np.uint64(count)
    keys: NDArray[np.uint64] = np.unique((a * width + b) * width + c)
    return keys


def _faces(keys: NDArray[np.uint64], count: int) -> Faces:
    width = np.uint64(count)
    rest, c = np.divmod(keys, width)
    a, b = np.divmod(rest, width)
    return np.stack([a, b, c], axis=1).astype(np.int64)


def _shared(corners: Corners) -> Shape:
    """The facets as they are, equal corners as one vertex."""
    vertices, faces = np.unique(
        corners.reshape(-1, 3).astype(np.float32) + np.float32(0), axis=0, return_inverse=True
    )
    return Shape(vertices.astype(np.float64), faces.reshape(-1, 3))


def _glb(shape: Shape, metres: float, *, z_up: bool) -> bytes:
    """https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html: without normals, facets are shown flat."""
    positions = np.ascontiguousarray(shape.vertices, "<f4")
    indices = np.ascontiguousarray(shape.faces, "<u2").tobytes()
    points, faces = positions.tobytes(), _padded(indices, b"\0")
    turned = [1, 0, 0, 0, 0, 0, -1, 0, 0, 1, 0, 0] if z_up else [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    document = {
        "asset": {"version": "2.0", "generator": "Facet"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": [*(metres * value for value in turned), 0, 0, 0, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": 0}]}],
        "materials": [{**_SHADE, "doubleSided": True}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _FLOAT32,
                "count": len(positions),
                "type": "VEC3",
                "min": [float(value) for value in positions.min(axis=0)],
                "max": [float(value) for value in positions.max(axis=0)],
            },
            {"bufferView": 1, "componentType": _UINT16, "count": shape.faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(points), "target": _ARRAY_BUFFER},
            {"buffer": 0, "byteOffset": len(points), "byteLength": len(indices), "target": _ELEMENT_BUFFER},
        ],
        "buffers": [{"byteLength": len(points) + len(faces)}],
    }
    text = _padded(json.dumps(document, separators=(",", ":")).encode(), b" ")
    binary = points + faces
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0")
    return head + chunks + binary


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)
