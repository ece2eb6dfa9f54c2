"""Small sound meshes of every format, and what chance does to their bytes, words, numbers and parts."""

import json
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from random import Random

import numpy as np

from tests.support import meshes

FAMILIES = ("stl-binary", "stl-ascii", "obj", "ply", "off", "glb", "3mf")

CHANGES = (1, 1, 1, 2, 4)
"""How many changes a mutant gets: most damage is seen best alone."""

PIECE_BYTES_MAX = 64

_NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z_]+")

_NUMBERS = (
    b"0 -0 1 -1 2 3 255 65535 65536 2147483647 2147483648 4294967295 4294967296 9223372036854775808 1e9 1e20"
    b" 1e38 3.5e38 1e308 1e999 1e-30 1e-320 -1e20 nan inf -inf 1,5 1_0 0x10 .5 5. - + 1e 99999999999999999999"
).split()
_BYTES = (
    b"\0",
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\t",
    b"#",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
    b"<",
    b">",
    b'"',
    b"&",
)
_FLOATS = (0.0, -0.0, 1.0, 1e9, -1e20, 3e38, 1e-45, float("nan"), float("inf"), float("-inf"))
_WHOLES = (0, 1, 2, 3, 12, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)

Change = Callable[[Random, bytearray], None]


def seeds(family: str) -> list[bytes]:
    """Sound files to begin with: one body, several, split vertices, and what a format offers besides."""
    ring, cube = meshes.torus(around=6, across=4), meshes.cube()
    both = np.concatenate([cube, meshes.cube(4.0, at=(20, 0, 0))])
    write = meshes.ALL_FORMATS[family]
    found = [write(cube), write(ring), write(both)]
    if family == "ply":
        found += [meshes.binary_ply(cube), meshes.binary_ply(ring, ">")]
        found += [meshes.mixed_ply(order) for order in ("ascii", "<", ">")]
    if family == "obj":
        found.append(b"o cube\ng a\n" + re.sub(rb"/\d+", b"", meshes.obj(cube)))
    if family == "glb":
        found.append(meshes.glb(cube, scale=[0.01, 0.01, -0.01], translation=[1, 2, 3]))
    if family == "3mf":
        found.append(_three_mf_of_parts())
    return found


def _three_mf_of_parts() -> bytes:
    space = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
    group = (
        '<object id="2"><components><component objectid="1" p:path="/3D/a.model"/>'
        '<component objectid="1" transform="1 0 0 0 1 0 0 0 1 20 0 0"/></components></object>'
    )
    root = meshes.three_mf_model(
        meshes.three_mf_object(meshes.cube()) + group, '<item objectid="2"/>', f'xmlns:p="{space}"'
    )
    part = meshes.three_mf_model(meshes.three_mf_object(meshes.cube(4.0)), "")
    return meshes.three_mf_archive(root, parts={"3D/a.model": part})


def mutant(random: Random, family: str, bodies: list[bytes], strangers: list[bytes]) -> bytes:
    """One of `bodies`, changed; sometimes it goes on as one of `strangers`."""
    if random.random() < 0.4:
        with np.errstate(all="ignore"):
            body = meshes.ALL_FORMATS[family](_changed_mesh(random))
        if random.random() < 0.7:
            return body
    else:
        body = random.choice(bodies)
    roll = random.random()
    if roll < 0.02:
        other = random.choice(strangers)
        return body[: random.randrange(len(body))] + other[random.randrange(len(other)) :]
    if family == "3mf" and roll < 0.85:
        return _changed_members(random, body)
    if family == "glb" and roll < 0.6:
        return _changed_chunks(random, body)
    return _changed(random, body)


def _changed_mesh(random: Random) -> meshes.Triangles:
    """Facets that were sound before something was done to some of them."""
    around, across = random.randint(3, 8), random.randint(3, 5)
    ring = meshes.torus(random.uniform(4, 12), random.uniform(0.01, 5), around, across)
    at = (random.uniform(-12, 12), random.choice((0.0, 10.0)), random.choice((0.0, -10.0)))
    bodies = [random.choice((ring, meshes.cube())), meshes.cube(random.uniform(1, 12), at)]
    triangles = np.concatenate(bodies[: random.choice((1, 1, 2))])
    for _ in range(random.choice(CHANGES)):
        triangles = random.choice(_MESH_CHANGES)(random, triangles)
    return triangles * random.choice((1, 1, 1, 1, 0.001, 1000, 1e-7, 1e7, -1)) + random.choice(
        (0, 0, 50, 1e6)
    )


def _some(random: Random, triangles: meshes.Triangles) -> list[int]:
    count = random.choice((1, 1, 2, 5, len(triangles)))
    return [random.randrange(len(triangles)) for _ in range(count)]


def _turn_facets(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    return meshes.flipped(triangles, *set(_some(random, triangles)))


def _drop_facets(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    kept = np.delete(triangles, _some(random, triangles), axis=0)
    return kept if len(kept) else triangles


def _double_facets(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    return np.concatenate([triangles, triangles[_some(random, triangles)][:, :: random.choice((1, -1))]])


def _move_corners(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    """Each by itself: cracks as wide as rounding, or as a facet."""
    moved = triangles.copy()
    width = 10.0 ** random.randint(-9, 2)
    for facet in _some(random, triangles):
        moved[facet, random.randrange(3)] += [random.uniform(-width, width) for _ in range(3)]
    return moved


def _join_corners(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    """Put one position in the place of another, wherever it occurs."""
    positions = triangles.reshape(-1, 3)
    first, second = positions[random.randrange(len(positions))], positions[random.randrange(len(positions))]
    return np.where((triangles == first).all(axis=2)[:, :, None], second, triangles)


def _flatten(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    factors = [1.0, 1.0, 1.0]
    factors[random.randrange(3)] = random.choice((0.0, 1e-12, 1e-6, 1e6))
    return triangles * factors


def _round(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    return np.round(triangles, random.randint(-1, 3))


def _spoil_a_number(random: Random, triangles: meshes.Triangles) -> meshes.Triangles:
    spoilt = triangles.copy()
    place = random.randrange(len(triangles)), random.randrange(3), random.randrange(3)
    spoilt[place] = random.choice(_FLOATS)
    return spoilt


def _changed(random: Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(random.choice(CHANGES)):
        random.choice(_CHANGES)(random, changed)
    return bytes(changed)


def _changed_members(random: Random, body: bytes) -> bytes:
    """An archive in order, around parts that are not."""
    stream = BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(BytesIO(body)) as source, zipfile.ZipFile(stream, "w", method) as archive:
        names = source.namelist()
        chosen = random.choice(names[1:]) if random.random() < 0.9 else names[0]
        for name in names:
            part = source.read(name)
            archive.writestr(name, _changed(random, part) if name == chosen else part)
    return stream.getvalue()


def _changed_chunks(random: Random, body: bytes) -> bytes:
    """A container in order, around a document or numbers that are not."""
    size = int.from_bytes(body[12:16], "little")
    text, binary = body[20 : 20 + size], body[28 + size :]
    if random.random() < 0.7:
        text = _changed_document(random, text)
    else:
        binary = _changed(random, binary)
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    parts = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts) + len(binary)) + parts + binary


def _changed_document(random: Random, text: bytes) -> bytes:
    if random.random() < 0.4:
        return _changed(random, text)
    document = json.loads(text)
    for _ in range(random.randint(1, 2)):
        _change_value(random, document)
    return json.dumps(document).encode()


def _change_value(random: Random, part: dict[str, object] | list[object]) -> None:
    """Put something else in a place that is reached by chance."""
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            return
        key = random.choice(keys)
        inner = part[key]  # type: ignore[call-overload, index]
        if isinstance(inner, dict | list) and inner and random.random() < 0.85:
            part = inner
            continue
        strange: tuple[object, ...] = (
            0,
            1,
            -1,
            3,
            5,
            6,
            5121,
            5126,
            2**31,
            1e30,
            0.5,
            None,
            "VEC3",
            [],
            {},
            [0],
            True,
            [[1]],
        )
        part[key] = random.choice(strange)  # type: ignore[call-overload, index]
        return


def _place(random: Random, body: bytearray) -> int:
    return random.randrange(len(body)) if body else 0


def _piece(random: Random, body: bytearray) -> slice:
    start = _place(random, body)
    return slice(start, start + random.randint(1, PIECE_BYTES_MAX))


def _flip_a_bit(random: Random, body: bytearray) -> None:
    if body:
        body[_place(random, body)] ^= 1 << random.randrange(8)


def _set_bytes(random: Random, body: bytearray) -> None:
    piece = _piece(random, body)
    body[piece] = random.randbytes(len(body[piece]))


def _cut_the_end(random: Random, body: bytearray) -> None:
    del body[_place(random, body) :]


def _take_out(random: Random, body: bytearray) -> None:
    del body[_piece(random, body)]


def _repeat(random: Random, body: bytearray) -> None:
    start = _place(random, body)
    body[start:start] = body[_piece(random, body)] * random.choice((1, 1, 2, 50))


def _put_in(random: Random, body: bytearray) -> None:
    start = _place(random, body)
    body[start:start] = random.choice((*_BYTES, *_NUMBERS, random.randbytes(8)))


def _swap_pieces(random: Random, body: bytearray) -> None:
    first, second = _piece(random, body), _piece(random, body)
    kept = body[first]
    body[first] = body[second]
    body[second] = kept


def _swap_lines(random: Random, body: bytearray) -> None:
    lines = body.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    body[:] = b"\n".join(lines)


def _change_number(random: Random, body: bytearray) -> None:
    """Put an extreme number, or another one of the file, in the place of a number in the text."""
    found = list(_NUMBER.finditer(body))
    if found:
        match, other = random.choice(found), random.choice(found)
        body[match.start() : match.end()] = random.choice((*_NUMBERS, other[0], other[0], other[0]))


def _change_word(random: Random, body: bytearray) -> None:
    found = list(_WORD.finditer(body))
    if found:
        match, other = random.choice(found), random.choice(found)
        body[match.start() : match.end()] = random.choice((other[0], other[0], match[0].upper(), b""))


def _change_float(random: Random, body: bytearray) -> None:
    value = random.choice((*_FLOATS, random.uniform(-20, 20)))
    _overwrite(random, body, struct.pack(random.choice("<>") + "f", value))


def _change_whole(random: Random, body: bytearray) -> None:
    value = random.choice((*_WHOLES, random.randrange(40)))
    _overwrite(random, body, struct.pack(random.choice("<<>") + "I", value))


def _overwrite(random: Random, body: bytearray, packed: bytes) -> None:
    """At a place by chance, or where a binary STL has its numbers."""
    start = _place(random, body)
    if random.random() < 0.5 and len(body) > 134:
        facets = (len(body) - 84) // 50
        start = random.choice((80, 84 + 50 * random.randrange(facets) + 12 + 4 * random.randrange(9)))
    if start + 4 <= len(body):
        body[start : start + 4] = packed


_CHANGES: tuple[Change, ...] = (
    _flip_a_bit,
    _set_bytes,
    _cut_the_end,
    _take_out,
    _repeat,
    _put_in,
    _swap_pieces,
    _swap_lines,
    _change_number,
    _change_number,
    _change_number,
    _change_word,
    _change_float,
    _change_float,
    _change_whole,
)

_MESH_CHANGES: tuple[Callable[[Random, meshes.Triangles], meshes.Triangles], ...] = (
    _turn_facets,
    _drop_facets,
    _double_facets,
    _move_corners,
    _move_corners,
    _join_corners,
    _flatten,
    _round,
    _spoil_a_number,
)
