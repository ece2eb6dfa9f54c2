"""Files made to hurt whoever reads them: bombs, lies about sizes, impossible numbers, and files that turn
into something else half way.
"""

import copy
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO

import numpy as np

from tests.support import meshes

COUNT = 4_000_000_000
MEGABYTE = 1 << 20


def _bomb(method: int, member_bytes: int, listed: int) -> bytes:
    """A package whose model part is blank for `member_bytes`, and listed that many times."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=9) as archive:
        with zipfile.ZipFile(BytesIO(meshes.three_mf(meshes.cube()))) as source:
            archive.writestr("_rels/.rels", source.read("_rels/.rels"))
        with archive.open("3D/3dmodel.model", "w") as member:
            for _ in range(member_bytes // MEGABYTE):
                member.write(b" " * MEGABYTE)
        for number in range(1, listed):
            again = copy.copy(archive.getinfo("3D/3dmodel.model"))
            again.filename = f"3D/{number}.model"
            archive.filelist.append(again)
    return stream.getvalue()


def bomb_of_300_megabytes() -> bytes:
    """Some 154 KB: two members of 150 MB share one deflated stream."""
    return _bomb(zipfile.ZIP_DEFLATED, 150 * MEGABYTE, 2)


def bomb_that_states_a_small_size() -> bytes:
    """The directory says 1,000 bytes, the stream holds 150 MB."""
    body = _bomb(zipfile.ZIP_DEFLATED, 150 * MEGABYTE, 1)
    return body.replace(struct.pack("<I", 150 * MEGABYTE), struct.pack("<I", 1000))


def nested_entities() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    prolog = f'<!DOCTYPE model [<!ENTITY e0 "10">{entities}]>'
    objects = meshes.three_mf_object(meshes.cube()).replace('x="10.0"', 'x="&e11;"')
    return meshes.three_mf_archive(meshes.three_mf_model(objects, prolog=prolog))


def entity_of_a_file() -> bytes:
    prolog = '<!DOCTYPE model [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    objects = meshes.three_mf_object(meshes.cube()).replace('x="10.0"', 'x="&e;"')
    return meshes.three_mf_archive(meshes.three_mf_model(objects, prolog=prolog))


def members_without_end() -> bytes:
    stream = BytesIO(meshes.three_mf(meshes.cube()))
    with zipfile.ZipFile(stream, "a") as archive:
        for number in range(5000):
            archive.writestr(f"{number}", b"")
    return stream.getvalue()


def components_that_double() -> bytes:
    """A few kilobytes that ask for 2^30 cubes."""
    doubling = "".join(
        f'<object id="{n}"><components>' + f'<component objectid="{n - 1}"/>' * 2 + "</components></object>"
        for n in range(2, 32)
    )
    objects = meshes.three_mf_object(meshes.cube()) + doubling
    return meshes.three_mf_archive(meshes.three_mf_model(objects, '<item objectid="31"/>'))


def tiny_solids(count: int, facets: int = 4) -> bytes:
    """ASCII STL of so many tetrahedra, a solid each; fewer than 4 facets leave them open."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    shape = corners[np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])][:facets]
    places = np.array([(3.0 * (n % 50), 3.0 * (n // 50), 0.0) for n in range(count)])
    return "".join(meshes.ascii_solid(shape + place, f"solid {n}") for n, place in enumerate(places)).encode()


def _stl_with(value: float) -> bytes:
    triangles = meshes.cube()
    triangles[0, 0, 0] = value
    return meshes.binary_stl(triangles)


def _glb_with(value: float) -> bytes:
    triangles = meshes.cube()
    triangles[5, 1, 2] = value
    return meshes.glb(triangles)


def _ply_of(count: int) -> bytes:
    body = meshes.binary_ply(meshes.cube())
    return body.replace(b"element face 12", b"element face %d" % count)


def _half(body: bytes, other: bytes) -> bytes:
    """The first half of a file with another file for the second."""
    return body[: len(body) // 2] + other


def _as_long_as(body: bytes, other: bytes) -> bytes:
    return (body + other * (1 + len(body) // len(other)))[: len(body)]


def _stl_turning_into_text() -> bytes:
    """The header and half of the facets of a binary STL, and its whole size."""
    body = meshes.binary_stl(meshes.torus())
    half = len(body) // 2
    return body[:half] + (b"\nfacet normal 0 0 1 outer loop vertex 0 0 0\n" * 1000)[: len(body) - half]


RING = meshes.torus()
TEXT_STL = meshes.ascii_stl(RING)
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "154 KB that inflate to 300 MB": (bomb_of_300_megabytes, "archive_limit"),
    "150 MB that are said to be 1,000 bytes": (bomb_that_states_a_small_size, "malformed_3mf"),
    "300 MB by bzip2": (lambda: _bomb(zipfile.ZIP_BZIP2, 300 * MEGABYTE, 1), "archive_limit"),
    "5,000 members": (members_without_end, "archive_limit"),
    "nested entities": (nested_entities, "dtd_forbidden"),
    "an entity that names a file": (entity_of_a_file, "dtd_forbidden"),
    "entities outside of any archive": (
        lambda: b'<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "a">]><m>&a;</m>',
        "not_a_mesh",
    ),
    "components that double thirty times": (components_that_double, "too_many_facets"),
    "binary STL of 4 billion facets": (
        lambda: b"\0" * 80 + struct.pack("<I", COUNT) + b"\0" * 500,
        "stl_size_mismatch",
    ),
    "PLY of 4 billion faces": (lambda: _ply_of(COUNT), "malformed_ply"),
    "PLY of 2 billion faces": (lambda: _ply_of(2_000_000_000), "malformed_ply"),
    "OFF of 2 billion vertices": (lambda: b"OFF\n2000000000 2000000000 0\n0 0 0\n", "malformed_off"),
    "coordinates of 1e20 in STL": (lambda: _stl_with(1e20), "coordinate_limit"),
    "coordinates of 3e38 in STL": (lambda: _stl_with(3e38), "coordinate_limit"),
    "coordinates of 1e20 in GLB": (lambda: _glb_with(1e20), "coordinate_limit"),
    "coordinates of 1e200 in OBJ": (
        lambda: meshes.obj(meshes.cube()).replace(b"v 0.0", b"v 1e200"),
        "coordinate_limit",
    ),
    "infinity in GLB": (lambda: _glb_with(float("inf")), "not_finite"),
    "not-a-number in GLB": (lambda: _glb_with(float("nan")), "not_finite"),
    "binary STL that turns into text": (_stl_turning_into_text, "coordinate_limit"),
    "STL header before an archive": (
        lambda: b"solid ring".ljust(84, b"\0") + meshes.three_mf(RING),
        "stl_size_mismatch",
    ),
    "ASCII STL that turns binary": (lambda: _half(TEXT_STL, meshes.binary_stl(RING)), "malformed_stl"),
    "ASCII STL that turns into OBJ": (lambda: _half(TEXT_STL, meshes.obj(RING)), "malformed_stl"),
    "OBJ that turns into a picture": (lambda: _half(meshes.obj(RING), PICTURE), "malformed_obj"),
    "OBJ that turns into STL": (lambda: meshes.obj(RING) + b"\n" + TEXT_STL, "malformed_obj"),
    "OFF that turns binary": (lambda: _half(meshes.off(RING), PICTURE), "malformed_off"),
    "PLY that turns binary": (lambda: _half(meshes.ascii_ply(RING), PICTURE), "malformed_ply"),
    "binary PLY with a mesh behind it": (
        lambda: meshes.binary_ply(RING) + meshes.binary_ply(RING),
        "malformed_ply",
    ),
    "GLB with a mesh behind it": (lambda: meshes.glb(RING) + meshes.glb(RING), "malformed_glb"),
    "GLB that turns into a picture": (lambda: _as_long_as(meshes.glb(RING)[:600], PICTURE), "malformed_glb"),
    "archive that turns into STL": (
        lambda: _half(meshes.three_mf(RING), meshes.binary_stl(RING)),
        "malformed_3mf",
    ),
    "a head of hash signs": (lambda: b"# " * 4000 + b"?", "no_facets"),
}
"""How to make each, and the code it is refused with."""
