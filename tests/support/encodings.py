"""One ring in every way a program may write it down: order, precision, unit, format, and everything a format
leaves open.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.support import meshes

MILLIMETRES_PER_INCH = 25.4

EXACT = 1e-9
"""The same numbers in another order: only the sums differ, in their last digits."""

SINGLE = 2e-6
"""Each coordinate rounded once more to single precision, by 2^-24 of up to 10.5 mm; the tube, of 1.5 mm, has
seven times that share, three times over in the volume."""


class Encoding(NamedTuple):
    """`body` is the ring when lengths are taken in `units`, to within `tolerance` (a share)."""

    body: bytes
    units: str = ""
    tolerance: float = EXACT


def ring() -> meshes.Triangles:
    """Facets of a ring 21 mm across whose coordinates are single precision numbers."""
    return meshes.torus(around=48, across=24).astype(np.float32).astype(np.float64)


def shuffled(triangles: meshes.Triangles) -> meshes.Triangles:
    return np.random.default_rng(4).permutation(triangles)


def rolled(triangles: meshes.Triangles) -> meshes.Triangles:
    """Every facet begins with another of its corners."""
    return np.stack([np.roll(facet, number % 3, axis=0) for number, facet in enumerate(triangles)])


def _rewritten(triangles: meshes.Triangles, write: Callable[[float], str]) -> bytes:
    lines = ["solid ring"]
    for facet in triangles:
        lines += ["  facet normal 0 0 1", "    outer loop"]
        lines += ["      vertex  " + "\t".join(write(value) for value in corner) for corner in facet.tolist()]
        lines += ["    endloop", "  endfacet"]
    return "\n".join([*lines, "endsolid"]).encode()


def _several_solids(triangles: meshes.Triangles) -> bytes:
    parts = np.array_split(triangles, 5)
    return "".join(meshes.ascii_solid(part, f"solid facet {n}") for n, part in enumerate(parts)).encode()


def _obj_backwards(triangles: meshes.Triangles) -> bytes:
    """Each facet behind its own three vertices, which it counts back to."""
    corners = "v {} {} {}\nv {} {} {}\nv {} {} {}\nf -3 -2 -1\n"
    return "".join(corners.format(*map(repr, facet.reshape(-1).tolist())) for facet in triangles).encode()


def _obj_of_quads(triangles: meshes.Triangles) -> bytes:
    """The two triangles of every square of the ring's surface as one face."""
    half = len(triangles) // 2
    points = np.concatenate([triangles[:half], triangles[half:, 2:]], axis=1).reshape(-1, 3)
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in points.tolist()]
    lines += [f"f {n + 1}/1 {n + 2}/1 {n + 3}/1 {n + 4}/1" for n in range(0, len(points), 4)]
    return "\n".join(["o ring", "vt 0 0", *lines]).encode()


def _obj_plain(triangles: meshes.Triangles) -> bytes:
    vertices, faces = meshes.indexed(triangles)
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist()]
    return "\r\n".join([*lines, *(f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()), ""]).encode()


def _three_mf(triangles: meshes.Triangles, unit: str, item: str = "", objects: str = "") -> bytes:
    model = meshes.three_mf_model(
        meshes.three_mf_object(triangles) + objects, item or '<item objectid="1"/>'
    ).replace("millimeter", unit)
    return meshes.three_mf_archive(model)


def _three_mf_of_parts(triangles: meshes.Triangles) -> bytes:
    """The ring in a part of its own, turned about by a component and back by the build."""
    space = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
    turn = "0 1 0 -1 0 0 0 0 1 7 0 0"
    back = "0 -1 0 1 0 0 0 0 1 0 7 0"
    component = f'<component objectid="1" p:path="/3D/ring.model" transform="{turn}"/>'
    root = meshes.three_mf_model(
        f'<object id="1"><components>{component}</components></object>',
        f'<item objectid="1" transform="{back}"/>',
        f'xmlns:p="{space}" requiredextensions="p"',
    )
    part = meshes.three_mf_model(meshes.three_mf_object(triangles), "")
    return meshes.three_mf_archive(root, parts={"3D/ring.model": part})


def _of_stl(triangles: meshes.Triangles) -> dict[str, Encoding]:
    text = meshes.ascii_stl(triangles)
    inches, centimetres = triangles / MILLIMETRES_PER_INCH, triangles / 10
    return {
        "binary STL": Encoding(meshes.binary_stl(triangles)),
        "binary STL, header 'solid'": Encoding(meshes.binary_stl(triangles, b"solid by a CAD program")),
        "binary STL, facets shuffled": Encoding(meshes.binary_stl(shuffled(triangles))),
        "binary STL, corners rolled": Encoding(meshes.binary_stl(rolled(triangles))),
        "binary STL, shuffled and rolled": Encoding(
            meshes.binary_stl(rolled(shuffled(triangles)), b"\xff" * 80)
        ),
        "binary STL in inches": Encoding(meshes.binary_stl(inches), "in", SINGLE),
        "binary STL in centimetres": Encoding(meshes.binary_stl(centimetres), "cm", SINGLE),
        "ASCII STL": Encoding(text),
        "ASCII STL, CR": Encoding(meshes.ascii_stl(triangles, end="\r")),
        "ASCII STL, CRLF": Encoding(meshes.ascii_stl(triangles, end="\r\n")),
        "ASCII STL, upper case": Encoding(text.upper()),
        "ASCII STL, exponents": Encoding(_rewritten(triangles, "{:.8E}".format)),
        "ASCII STL, signs and short numbers": Encoding(_rewritten(triangles, "{:+.9g}".format)),
        "ASCII STL, several solids": Encoding(_several_solids(triangles)),
        "ASCII STL, blank lines around": Encoding(b"\n\n" + text + b"\r\n \n\0"),
        "ASCII STL in inches": Encoding(meshes.ascii_stl(inches), "in"),
    }


def _of_indexed(triangles: meshes.Triangles) -> dict[str, Encoding]:
    return {
        "OBJ": Encoding(_obj_plain(triangles)),
        "OBJ, normals and textures": Encoding(meshes.obj(triangles)),
        "OBJ, negative indices": Encoding(_obj_backwards(triangles)),
        "OBJ, quads": Encoding(_obj_of_quads(triangles)),
        "PLY, ASCII": Encoding(meshes.ascii_ply(triangles)),
        "PLY, ASCII, CRLF": Encoding(meshes.ascii_ply(triangles).replace(b"\n", b"\r\n")),
        "PLY, little endian": Encoding(meshes.binary_ply(triangles)),
        "PLY, big endian": Encoding(meshes.binary_ply(triangles, ">")),
        "OFF": Encoding(meshes.off(triangles)),
        "OFF, shuffled": Encoding(meshes.off(shuffled(triangles))),
    }


def _of_scenes(triangles: meshes.Triangles) -> dict[str, Encoding]:
    metres = triangles / 1000
    placed = f'<item objectid="1" transform="{"2 0 0 0 2 0 0 0 2 30 40 50"}"/>'
    return {
        "GLB": Encoding(meshes.glb(metres), "m", SINGLE),
        "GLB, scaled by its node": Encoding(meshes.glb(triangles, scale=[0.001] * 3)),
        "GLB, mirrored": Encoding(meshes.glb(metres, scale=[1, -1, 1]), "", SINGLE),
        "3MF": Encoding(meshes.three_mf(triangles)),
        "3MF in inches": Encoding(_three_mf(triangles / MILLIMETRES_PER_INCH, "inch")),
        "3MF in microns": Encoding(_three_mf(triangles * 1000, "micron")),
        "3MF, placed by its build item": Encoding(_three_mf(triangles / 2, "millimeter", placed)),
        "3MF, production parts": Encoding(_three_mf_of_parts(triangles)),
        "3MF with a support": Encoding(
            _three_mf(
                triangles,
                "millimeter",
                '<item objectid="1"/><item objectid="2"/>',
                meshes.three_mf_object(meshes.cube(at=(30, 0, 0)), 2, "support"),
            )
        ),
    }


def encodings() -> dict[str, Encoding]:
    """By name; the first is what the others are compared with."""
    triangles = ring()
    return {**_of_stl(triangles), **_of_indexed(triangles), **_of_scenes(triangles)}
