"""Meshes made for the tests, as triangles and as files of every format, and the folder of real ones."""

import csv
import json
import os
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Triangles = NDArray[np.float64]

_STL_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])


def cube(size: float = 10.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Triangles:
    """Twelve facets, all facing outwards."""
    corner = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float) * size + at
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return np.array([corner[list(t)] for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def torus(ring: float = 9.0, tube: float = 1.5, around: int = 24, across: int = 12) -> Triangles:
    """A ring as jewellers mean it, lying in the x-y plane; 2 * around * across facets facing outwards."""
    u = np.linspace(0, 2 * np.pi, around, endpoint=False)[:, None]
    v = np.linspace(0, 2 * np.pi, across, endpoint=False)[None, :]
    distance = ring + tube * np.cos(v)
    points = np.stack([distance * np.cos(u), distance * np.sin(u), tube * np.sin(v) + 0 * u], axis=-1)
    right, up = np.roll(points, -1, axis=0), np.roll(points, -1, axis=1)
    both = np.roll(right, -1, axis=1)
    facets = np.concatenate([np.stack([points, right, both], 2), np.stack([points, both, up], 2)])
    return np.ascontiguousarray(facets.reshape(-1, 3, 3))


def flipped(triangles: Triangles, *facets: int) -> Triangles:
    """A copy with some facets (all, when none is named) facing the other way."""
    copy = triangles.copy()
    chosen = list(facets) or list(range(len(copy)))
    copy[chosen] = copy[chosen][:, ::-1]
    return copy


def indexed(triangles: Triangles) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct vertices, shape (v, 3), and faces, shape (n, 3)."""
    vertices, faces = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    return vertices, faces.reshape(-1, 3)


def binary_stl(triangles: Triangles, header: bytes = b"made for a test") -> bytes:
    records = np.zeros(len(triangles), _STL_FACET)
    records["corners"] = triangles
    return header.ljust(80) + struct.pack("<I", len(triangles)) + records.tobytes()


def ascii_solid(triangles: Triangles, name: str = "ring", end: str = "\n") -> str:
    lines = [f"solid {name}"]
    for facet in triangles:
        lines += ["facet normal 0 0 0", "outer loop"]
        lines += ["vertex " + " ".join(repr(float(value)) for value in corner) for corner in facet]
        lines += ["endloop", "endfacet"]
    return end.join([*lines, f"endsolid {name}", ""])


def ascii_stl(triangles: Triangles, name: str = "ring", end: str = "\n") -> bytes:
    return ascii_solid(triangles, name, end).encode()


def obj(triangles: Triangles) -> bytes:
    """With a normal and a texture coordinate per corner, which splits every vertex."""
    vertices, faces = indexed(triangles)
    lines = ["mtllib surface.mtl", *(f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist())]
    for number, face in enumerate(faces + 1, start=1):
        lines += [f"vn 0 0 {number}", f"vt {number / len(faces):.6f} 0"]
        lines.append("f " + " ".join(f"{index}/{number}/{number}" for index in face))
    return "\n".join(lines).encode()


def off(triangles: Triangles) -> bytes:
    vertices, faces = indexed(triangles)
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0"]
    lines += [f"{x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces]
    return "\n".join(lines).encode()


def ply_header(order: str, vertices: int, faces: int, extra: str = "") -> bytes:
    return (
        f"ply\nformat {order} 1.0\ncomment made for a test\nelement vertex {vertices}\n"
        f"property float x\nproperty float y\nproperty float z\n{extra}"
        f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


def ascii_ply(triangles: Triangles) -> bytes:
    vertices, faces = indexed(triangles)
    rows = [" ".join(map(repr, row)) for row in vertices.tolist()]
    rows += [f"3 {a} {b} {c}" for a, b, c in faces]
    return ply_header("ascii", len(vertices), len(faces)) + "\n".join(rows).encode() + b"\n"


def binary_ply(triangles: Triangles, order: str = "<") -> bytes:
    """Every corner a vertex of its own, with a normal and a texture coordinate, as engines for games write
    it.
    """
    corners = triangles.reshape(-1, 3)
    rows = np.zeros(len(corners), np.dtype([("at", order + "f4", 3), ("rest", order + "f4", 5)]))
    rows["at"] = corners
    rows["rest"] = np.arange(len(corners))[:, None]
    faces = np.zeros(len(triangles), np.dtype([("n", "u1"), ("corners", order + "i4", 3)]))
    faces["n"], faces["corners"] = 3, np.arange(len(corners)).reshape(-1, 3)
    extra = "".join(f"property float {name}\n" for name in ("nx", "ny", "nz", "s", "t"))
    name = {"<": "binary_little_endian", ">": "binary_big_endian"}[order]
    return ply_header(name, len(corners), len(triangles), extra) + rows.tobytes() + faces.tobytes()


def mixed_ply(order: str) -> bytes:
    """A cube of 10 out of quads and triangles, with columns around the lists; `order` is ascii, < or >."""
    corner = cube().reshape(-1, 3)
    quads = [[0, 1, 2, 5], [6, 7, 8, 11], [12, 13, 14, 17], [18, 19, 20, 23]]
    faces = [*quads, [24, 25, 26], [27, 28, 29], [30, 31, 32], [33, 34, 35]]
    name = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    header = (
        f"ply\nformat {name} 1.0\nelement face {len(faces)}\nproperty uchar flags\n"
        "property list uchar int vertex_index\nproperty list ushort float texcoord\nelement vertex 36\n"
        "property double z\nproperty double y\nproperty double x\nproperty float quality\n"
        "element edge 1\nproperty int vertex1\nend_header\n"
    ).encode()
    if order == "ascii":
        rows = [f"7 {len(face)} {' '.join(map(str, face))} 2 0.5 0.5" for face in faces]
        rows += [f"{z!r} {y!r} {x!r} nan" for x, y, z in corner.tolist()]
        return header + "\n".join([*rows, "3", ""]).encode()
    body = b"".join(
        struct.pack(f"{order}BB{len(face)}iHff", 7, len(face), *face, 2, 0.5, 0.5) for face in faces
    )
    body += b"".join(struct.pack(f"{order}dddf", z, y, x, float("nan")) for x, y, z in corner)
    return header + body + struct.pack(f"{order}i", 3)


def glb_of(document: dict[str, object], binary: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = (
        struct.pack("<II", len(text), 0x4E4F534A)
        + text
        + struct.pack("<II", len(binary), 0x004E4942)
        + binary
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def glb_document(triangles: Triangles, **node: object) -> tuple[dict[str, object], bytes]:
    """One mesh whose corners are all vertices of their own, shown by one node with the properties given."""
    positions = triangles.reshape(-1, 3).astype("<f4").tobytes()
    indices = np.arange(3 * len(triangles), dtype="<u4").tobytes()
    document: dict[str, object] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, **node}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3 * len(triangles), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5125, "count": 3 * len(triangles), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": len(positions)},
            {"buffer": 0, "byteOffset": len(positions), "byteLength": len(indices)},
        ],
        "buffers": [{"byteLength": len(positions) + len(indices)}],
    }
    return document, positions + indices


def glb(triangles: Triangles, **node: object) -> bytes:
    return glb_of(*glb_document(triangles, **node))


MODEL_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"


def three_mf_object(triangles: Triangles, identity: int = 1, kind: str = "model") -> str:
    vertices, faces = indexed(triangles)
    points = "".join(f'<vertex x="{x!r}" y="{y!r}" z="{z!r}"/>' for x, y, z in vertices.tolist())
    corners = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in faces)
    mesh = f"<mesh><vertices>{points}</vertices><triangles>{corners}</triangles></mesh>"
    return f'<object id="{identity}" type="{kind}">{mesh}</object>'


def three_mf_model(
    objects: str, items: str = '<item objectid="1"/>', attributes: str = "", prolog: str = ""
) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{prolog}<model unit="millimeter" xmlns="{CORE}" {attributes}>'
        f"<resources>{objects}</resources><build>{items}</build></model>"
    )


def three_mf_archive(
    model: str | bytes, target: str = "/3D/3dmodel.model", parts: dict[str, str] | None = None
) -> bytes:
    """A package of the model part and further ones by name."""
    relation = f'<Relationship Target="{target}" Id="rel0" Type="{MODEL_TYPE}"/>'
    space = "http://schemas.openxmlformats.org/package/2006/relationships"
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{space}">{relation}</Relationships>')
        archive.writestr("3D/3dmodel.model", model)
        for name, part in (parts or {}).items():
            archive.writestr(name, part)
    return stream.getvalue()


def three_mf(triangles: Triangles) -> bytes:
    return three_mf_archive(three_mf_model(three_mf_object(triangles)))


ALL_FORMATS: dict[str, Callable[[Triangles], bytes]] = {
    "stl-binary": binary_stl,
    "stl-ascii": ascii_stl,
    "obj": obj,
    "off": off,
    "ply": ascii_ply,
    "glb": glb,
    "3mf": three_mf,
}


def real_models() -> dict[str, tuple[Path, dict[str, str]]]:
    """The real files by name with their row of INDEX.tsv, when FACET_TEST_MODELS names their folder; else
    none.
    """
    folder = os.environ.get("FACET_TEST_MODELS")
    if not folder:
        return {}
    with (Path(folder) / "INDEX.tsv").open(encoding="utf-8", newline="") as index:
        rows = csv.DictReader(index, delimiter="\t")
        return {row["file"]: (Path(folder) / row["file"], row) for row in rows}
