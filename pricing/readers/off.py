"""Object File Format (Geomview): ASCII, three coordinates per vertex, whatever follows them dropped."""

import re
from array import array
from collections.abc import Iterator

import numpy as np

from pricing.readers.common import (
    Points,
    check_indices,
    check_shown,
    coordinate,
    malformed,
    no_facets,
    text_lines,
    unsupported,
    whole_number,
)
from pricing.readers.triangulate import facet_count, facets_of

_KEYWORD = re.compile(rb"(?:ST)?C?N?(4)?(n)?OFF")
_CORNERS_MIN = 3
_Rows = Iterator[tuple[int, list[bytes]]]


def read_off(body: memoryview) -> tuple[Points, None]:
    """The faces of an OFF file, as triangles; it states no unit.

    Refused `malformed_off`, `not_finite`, `comma_decimal`, `no_facets`, `too_many_facets` or
    `unsupported_feature`, naming the line.
    """
    rows = _rows(body)
    vertex_count, face_count = _counts(rows)
    if face_count == 0:
        raise no_facets("The file holds no faces.")
    positions, corners, counts = array("d"), array("q"), array("q")
    for index in range(vertex_count):
        positions.extend(_vertex(*_next(rows, "vertices", vertex_count, index)))
    for index in range(face_count):
        indices = _face(*_next(rows, "faces", face_count, index))
        corners.extend(indices)
        counts.append(len(indices))
    if (left := next(rows, None)) is not None:
        raise malformed("off", f"Line {left[0]}: there is more than the announced {face_count} faces.")
    indices_all, sizes = np.asarray(corners, np.int64), np.asarray(counts, np.int64)
    check_indices(indices_all, vertex_count, "off")
    check_shown(facet_count(sizes), facet_count(sizes))
    return facets_of(np.asarray(positions, np.float64).reshape(-1, 3), indices_all, sizes), None


def _rows(body: memoryview) -> _Rows:
    """The words of each line that holds any, with its number; the keyword is taken off the first."""
    begun = False
    for number, line in enumerate(text_lines(body, "off"), start=1):
        words = line.split(b"#", 1)[0].split()
        if words and not begun:
            words = _without_keyword(words)
            begun = True
        if words:
            yield number, words


def _without_keyword(words: list[bytes]) -> list[bytes]:
    if (keyword := _KEYWORD.match(words[0])) is None:
        raise malformed("off", "The file does not begin with OFF.")
    if keyword[1] or keyword[2]:
        raise unsupported("The vertices do not have three coordinates.")
    # Some programs write the first count without a space behind the keyword.
    attached = words[0][keyword.end() :]
    return [attached, *words[1:]] if attached else words[1:]


def _next(rows: _Rows, what: str, announced: int, index: int) -> tuple[int, list[bytes]]:
    if (row := next(rows, None)) is None:
        raise malformed("off", f"The file announces {announced} {what} and ends after {index}.")
    return row


def _counts(rows: _Rows) -> tuple[int, int]:
    number, words = _next(rows, "counts", 1, 0)
    if words[0].upper() == b"BINARY":
        raise unsupported("Binary OFF is not read here.")
    try:
        counts = [whole_number(word) for word in words[:3]]
    except ValueError:
        counts = []
    if len(counts) < 2 or min(counts) < 0:
        raise malformed("off", f"Line {number}: expected the numbers of vertices, faces and edges.")
    return counts[0], counts[1]


def _vertex(number: int, words: list[bytes]) -> list[float]:
    if len(words) < 3:
        raise malformed("off", f"Line {number}: a vertex has {len(words)} coordinates.")
    return [coordinate(word, "off", number) for word in words[:3]]


def _face(number: int, words: list[bytes]) -> list[int]:
    """The vertices of a face row, without its colour."""
    try:
        corners = whole_number(words[0])
        indices = [whole_number(word) for word in words[1 : max(corners, 0) + 1]]
    except ValueError as error:
        raise malformed("off", f"Line {number}: a face is not made of whole numbers: {error}.") from None
    if corners < _CORNERS_MIN or len(indices) != corners:
        raise malformed("off", f"Line {number}: a face announces {corners} corners and has {len(indices)}.")
    return indices
