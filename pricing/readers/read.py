"""Any model file to the corners of its facets: which format it has, by its content (its name and the stated
content type are never trusted), and that format's reader."""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from pricing.errors import Refused
from pricing.facts import FROM_ARCHIVE, MeshWarning
from pricing.readers import stl
from pricing.readers.common import BYTE_ORDER_MARK
from pricing.readers.corners import STL_FACET_BYTES, STL_HEADER_BYTES, Contents
from pricing.readers.formats import check_content_type
from pricing.readers.glb import read_glb
from pricing.readers.obj import read_obj
from pricing.readers.off import read_off
from pricing.readers.ply import read_ply
from pricing.readers.three_mf import read_three_mf
from pricing.readers.zip_package import only_model

HEAD_BYTES = 4096
"""How much of a file's beginning `detect` looks at."""

_USE_ONE_OF = "Send STL (binary is best), OBJ, PLY, OFF, GLB or 3MF."

# What jewellers also send, by its first bytes: a refusal that names it helps more than "unknown".
_KNOWN_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"3D Geometry File Format", "a Rhino 3DM file"),
    (b"ISO-10303-21", "a STEP file"),
    (b"Kaydara FBX", "an FBX file"),
    (b"BLENDER", "a Blender file"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"solidworks", "a SolidWorks file"),
)

# Without repetition inside of repetition: a head of blanks must not take longer than one of letters.
_TEXT_OFF = re.compile(rb"(?:ST)?C?N?4?n?OFF")

_TEXT_OBJ = re.compile(rb"(?:v|vn|vt|vp|f|o|g|s|mtllib|usemtl)[ \t\r\n]")

_TEXT_PLY = re.compile(rb"ply[ \t]*[\r\n]")

_LINE = re.compile(rb"[^\r\n]*")

_FACETS_PLAUSIBLE_MAX = 50_000_000


_UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""Texts of this encoding begin with one of these."""


class Opened(NamedTuple):
    """A model out of its archive, and as text in an encoding that readers know. `read`: its format's reader,
    Refused as that does."""

    format: str
    body: memoryview
    read: Callable[[memoryview], Contents]
    remarks: tuple[MeshWarning, ...] = ()


def read_model(body: memoryview, content_type: str | None = None) -> tuple[str, Contents]:
    """Which of FORMATS a model file has, and what it shows. Refused with a code, what is wrong and what to
    do."""
    opened = open_model(body)
    check_content_type(content_type, opened.format)
    contents = opened.read(opened.body)
    return opened.format, contents._replace(remarks=(*opened.remarks, *contents.remarks))


def open_model(body: memoryview) -> Opened:
    """Refused as `detect` does, and for an archive that is not of one model."""
    head, size = bytes(body[:HEAD_BYTES]), len(body)
    if head[:2] in _UTF_16 and not _is_binary_stl(head, size):
        return open_model(_from_utf_16(body, _UTF_16[head[:2]]))
    if head.startswith(b"PK\x03\x04") and (member := only_model(body)) is not None:
        opened = open_model(member)
        remark = MeshWarning(FROM_ARCHIVE, "The model is the one file in a ZIP archive.")
        return opened._replace(remarks=(remark, *opened.remarks))
    found = detect(head, size)
    return Opened(found, body, _READERS[found])


def _from_utf_16(body: memoryview, encoding: str) -> memoryview:
    try:
        return memoryview(bytes(body[2:]).decode(encoding).encode())
    except UnicodeError:
        raise Refused("not_a_mesh", "The content is no mesh in a known format.", _USE_ONE_OF) from None


def detect(head: bytes, size: int) -> str:
    """One of FORMATS from the first HEAD_BYTES of a file of `size` bytes.

    Refused `empty_file`, `unsupported_format`, `not_a_mesh`, or `stl_size_mismatch` when the bytes can only
    be a binary STL that was cut or padded. A file whose size agrees with binary STL is binary STL even when
    its header begins with "solid", as many exporters write.
    """
    if size == 0:
        raise Refused("empty_file", "The file has no bytes.", "Check the export and send the file again.")
    head = bytes(head[:HEAD_BYTES])
    if _is_binary_stl(head, size):
        return "stl-binary"
    return _by_signature(head) or _by_text(head) or _refuse(head, size)


_READERS: dict[str, Callable[[memoryview], Contents]] = {
    "stl-binary": stl.read_binary,
    "stl-ascii": stl.read_ascii,
    "obj": read_obj,
    "off": read_off,
    "ply": read_ply,
    "glb": read_glb,
    "3mf": read_three_mf,
}


def _stated_facets(head: bytes) -> int:
    return int(struct.unpack_from("<I", head, STL_HEADER_BYTES - 4)[0])


def _is_binary_stl(head: bytes, size: int) -> bool:
    return size >= STL_HEADER_BYTES and size == STL_HEADER_BYTES + STL_FACET_BYTES * _stated_facets(head)


def _by_signature(head: bytes) -> str | None:
    if head.startswith(b"glTF"):
        return "glb"
    if head.startswith(b"PK\x03\x04"):
        return "3mf"
    if _TEXT_PLY.match(head.removeprefix(BYTE_ORDER_MARK)):
        return "ply"
    return None


def _is_text(head: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]", head)


def _by_text(head: bytes) -> str | None:
    if not _is_text(head):
        # Only OFF has a binary variant with a readable head; it is not read here.
        return None
    text = head.removeprefix(BYTE_ORDER_MARK)
    if re.match(rb"\s*solid(?![^\s])", text, re.IGNORECASE):
        return "stl-ascii"
    first = _after_comments(text)
    if _TEXT_OFF.match(first):
        return "off"
    if _TEXT_OBJ.match(first) or (not first and len(head) == HEAD_BYTES and text.strip()):
        return "obj"
    return None


def _after_comments(text: bytes) -> bytes:
    """What follows the blank lines and the lines that begin with #."""
    position = 0
    while position < len(text):
        if text[position : position + 1] == b"#":
            position = _LINE.match(text, position).end()  # type: ignore[union-attr]
        elif text[position : position + 1].isspace():
            position += 1
        else:
            break
    return text[position:]


def _refuse(head: bytes, size: int) -> str:
    for signature, name in _KNOWN_STRANGERS:
        if head.startswith(signature):
            raise Refused("unsupported_format", f"This is {name}, which is not read here.", _USE_ONE_OF)
    if not _is_text(head) and len(head) >= STL_HEADER_BYTES:
        plausible = _stated_facets(head) <= _FACETS_PLAUSIBLE_MAX
        whole_facets = (size - STL_HEADER_BYTES) % STL_FACET_BYTES == 0
        if head[:5].lower() == b"solid" or plausible or whole_facets:
            # Falls through to the reader, which says by how many bytes size and count disagree.
            return "stl-binary"
    raise Refused("not_a_mesh", "The content is no mesh in a known format.", _USE_ONE_OF)
