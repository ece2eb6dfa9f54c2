"""Readers of binary and ASCII STL.

Binary: 80 header bytes, a little-endian facet count, 50 bytes per facet; nothing may be missing or left
over, because a file cut short has a wrong volume and no other sign of it. ASCII: a tokeniser over bounded
pieces whose work is linear in the size of the file, however many solids it holds.
"""

import re
import struct
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.facets import STL_FACET_BYTES, STL_HEADER_BYTES, ArrayFacets, PackedFacets

ASCII_PIECE_BYTES = 1 << 20
"""Text tokenised at once; bounds the memory of the token lists to a few tens of megabytes."""

ASCII_FACET_BYTES_MAX = 1 << 16
"""No facet's text is longer than this; a piece without a complete facet is not STL."""

_EXPORT_AGAIN = "Export the model again as binary STL."

# `facet normal n n n outer loop vertex x y z vertex x y z vertex x y z endloop endfacet`
_FACET_TOKENS = 21
_FACET_WORDS = {
    0: b"facet",
    1: b"normal",
    5: b"outer",
    6: b"loop",
    7: b"vertex",
    11: b"vertex",
    15: b"vertex",
    19: b"endloop",
    20: b"endfacet",
}
_COORDINATE_TOKENS = (8, 9, 10, 12, 13, 14, 16, 17, 18)

# A line that opens or closes a solid, with the name that may hold any words and bytes. Line ends may be CR,
# LF or CRLF.
_SOLID_LINE = re.compile(rb"(?:\A|(?<=[\r\n]))[ \t]*(solid|endsolid)(?![^\s])[^\r\n]*", re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER_BYTES = b"0123456789+-.eE"


def binary_facet_count(body: memoryview) -> int:
    """The facet count of a binary STL whose size agrees with it; otherwise Refused `stl_size_mismatch`."""
    size = len(body)
    if size < STL_HEADER_BYTES:
        raise Refused(
            "stl_size_mismatch",
            f"The file has {size} bytes; the header of a binary STL alone has {STL_HEADER_BYTES}.",
            _EXPORT_AGAIN,
        )
    (count,) = struct.unpack_from("<I", body, STL_HEADER_BYTES - 4)
    expected = STL_HEADER_BYTES + STL_FACET_BYTES * count
    if size != expected:
        raise Refused("stl_size_mismatch", _size_mismatch(size, expected, count), _EXPORT_AGAIN)
    return int(count)


def _size_mismatch(size: int, expected: int, count: int) -> str:
    stated = f"The header states {count} facets, which is {expected} bytes; the file has {size}."
    if size > expected:
        return f"{stated} There are {size - expected} bytes after the last facet, or the count is wrong."
    return f"{stated} The file is cut short by {expected - size} bytes, or the count is wrong."


def read_binary(body: memoryview) -> PackedFacets:
    """The facets of a binary STL, left where they are. Refused `stl_size_mismatch`."""
    return PackedFacets(body, binary_facet_count(body))


def read_ascii(body: memoryview) -> ArrayFacets:
    """The facets of all solids of an ASCII STL.

    Refused `malformed_stl`, `comma_decimal` or `not_finite`, naming the facet. Peak memory beyond the body:
    72 bytes per facet twice, and the tokens of one piece.
    """
    if bytes(body[:3]) == _BYTE_ORDER_MARK:
        body = body[3:]
    pieces: list[NDArray[np.float64]] = []
    facets_before = 0
    for section in _solid_sections(body):
        for tokens in _facet_tokens(body, section):
            triangles = _triangles(tokens, facets_before)
            facets_before += len(triangles)
            pieces.append(triangles)
    if not pieces:
        return ArrayFacets(np.empty((0, 3, 3)))
    return ArrayFacets(np.concatenate(pieces))


def _malformed(detail: str) -> Refused:
    return Refused("malformed_stl", detail, _EXPORT_AGAIN)


def _solid_sections(body: memoryview) -> Iterator[tuple[int, int]]:
    """The byte ranges between each `solid` line and its `endsolid` line."""
    start: int | None = None
    previous_end = 0
    for line in _SOLID_LINE.finditer(body):
        opens = line.group(1).lower() == b"solid"
        if opens == (start is not None):
            word = "solid" if opens else "endsolid"
            raise _malformed(f"'{word}' at byte {line.start()} does not follow its counterpart.")
        if start is not None:
            yield start, line.start()
            start = None
        else:
            _expect_blank(body, previous_end, line.start())
            start = line.end()
        previous_end = line.end()
    if start is not None:
        raise _malformed("The last solid has no 'endsolid': the file is cut short.")
    _expect_blank(body, previous_end, len(body))


def _expect_blank(body: memoryview, start: int, stop: int) -> None:
    for offset in range(start, stop, ASCII_PIECE_BYTES):
        between = bytes(body[offset : min(stop, offset + ASCII_PIECE_BYTES)])
        if between.strip(b" \t\r\n\0\x1a"):
            raise _malformed(f"There is text outside of any solid after byte {start}.")


def _facet_tokens(body: memoryview, section: tuple[int, int]) -> Iterator[list[bytes]]:
    """The lower-case tokens of whole facets, piece by piece."""
    offset, stop = section
    while offset < stop:
        piece = bytes(body[offset : min(stop, offset + ASCII_PIECE_BYTES)]).lower()
        if offset + len(piece) < stop:
            cut = piece.rfind(b"endfacet")
            if cut < 0 or len(piece) - cut > ASCII_FACET_BYTES_MAX:
                raise _malformed(f"No facet ends within {ASCII_FACET_BYTES_MAX} bytes of byte {offset}.")
            piece = piece[: cut + len(b"endfacet")]
        offset += len(piece)
        if tokens := piece.split():
            yield tokens


def _triangles(tokens: list[bytes], facets_before: int) -> NDArray[np.float64]:
    """Corners of shape (n, 3, 3) from the tokens of n facets."""
    count = -(-len(tokens) // _FACET_TOKENS)
    for position, word in _FACET_WORDS.items():
        column = tokens[position::_FACET_TOKENS]
        if column.count(word) != count:
            raise _misplaced_word(column, word, count, facets_before)
    columns = [tokens[position::_FACET_TOKENS] for position in _COORDINATE_TOKENS]
    numbers = list(chain.from_iterable(zip(*columns, strict=True)))
    if b"".join(numbers).translate(None, _NUMBER_BYTES):
        raise _bad_number(numbers, facets_before)
    try:
        values = np.fromiter(map(float, numbers), np.float64, len(numbers))
    except ValueError:
        raise _bad_number(numbers, facets_before) from None
    return values.reshape(count, 3, 3)


def _misplaced_word(column: list[bytes], word: bytes, count: int, facets_before: int) -> Refused:
    index = next((i for i, token in enumerate(column) if token != word), min(len(column), count - 1))
    found = repr(column[index][:40].decode("latin-1")) if index < len(column) else "the end of the solid"
    return _malformed(f"Facet {facets_before + index + 1}: expected '{word.decode()}', found {found}.")


def _bad_number(numbers: list[bytes], facets_before: int) -> Refused:
    """The refusal for the first token that is no finite decimal number."""
    index = next(i for i, token in enumerate(numbers) if not _is_decimal(token))
    token = numbers[index][:40].decode("latin-1")
    where = f"Facet {facets_before + index // 9 + 1}: the coordinate {token!r}"
    if re.fullmatch(r"[+-]?\d*,\d+(e[+-]?\d+)?", token):
        return Refused(
            "comma_decimal",
            f"{where} has a decimal comma.",
            "Export the model again with a decimal point, or as binary STL.",
        )
    if re.fullmatch(r"[+-]?(nan|inf|infinity|1\.#[a-z]+\d*)(\(.*\))?", token):
        return Refused(
            "not_finite", f"{where} is not a finite number.", "Repair the model and export it again."
        )
    return _malformed(f"{where} is not a number.")


def _is_decimal(token: bytes) -> bool:
    if token.translate(None, _NUMBER_BYTES):
        return False
    try:
        float(token)
    except ValueError:
        return False
    return True
