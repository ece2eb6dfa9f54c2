"""Object File Format (Geomview): ASCII, three coordinates per vertex, whatever follows them dropped.

Nearly all programs write a line for each vertex and each face, and colours at their ends. To the format only
blanks count: what is not understood by its lines is read by its words, of which none may be left then.
"""

import re
from array import array
from collections.abc import Iterator

import numpy as np

from pricing.errors import Refused
from pricing.readers.common import (
    Indices,
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
from pricing.readers.corners import Contents
from pricing.readers.triangulate import facet_count, facets_of, polygons_of

_KEYWORD = re.compile(rb"(?:ST)?C?N?(4)?(n)?OFF")
_CORNERS_MIN = 3
_Rows = Iterator[tuple[int, list[bytes]]]
_Mesh = tuple[Points, Indices, Indices]


def read_off(body: memoryview) -> Contents:
    """The faces of an OFF file, as triangles; it states no unit.

    Refused `malformed_off`, `not_finite`, `comma_decimal`, `no_facets`, `too_many_facets` or
    `unsupported_feature`, naming the line.
    """
    try:
        points, indices, counts = _by_lines(_rows(body))
    except Refused as refused:
        if refused.code != "malformed_off" or (found := _by_words(_rows(body))) is None:
            raise
        points, indices, counts = found
    check_indices(indices, len(points), "off")
    check_shown(facet_count(counts), facet_count(counts))
    return Contents(facets_of(points, indices, counts), otherwise=polygons_of(counts))


def _by_lines(rows: _Rows) -> _Mesh:
    vertex_count, face_count = _counts(rows)
    positions, corners, counts = array("d"), array("q"), array("q")
    for index in range(vertex_count):
        positions.extend(_vertex(*_next(rows, "vertices", vertex_count, index)))
    for index in range(face_count):
        indices = _face(*_next(rows, "faces", face_count, index))
        corners.extend(indices)
        counts.append(len(indices))
    if (left := next(rows, None)) is not None:
        raise malformed("off", f"Line {left[0]}: there is more than the announced {face_count} faces.")
    return _mesh(positions, corners, counts)


def _mesh(positions: "array[float]", corners: "array[int]", counts: "array[int]") -> _Mesh:
    points = np.asarray(positions, np.float64).reshape(-1, 3)
    return points, np.asarray(corners, np.int64), np.asarray(counts, np.int64)


def _by_words(rows: _Rows) -> _Mesh | None:
    """The same, wherever the lines end. None when the words are not just as many."""
    words = ((number, word) for number, row in rows for word in row)
    positions, corners, counts = array("d"), array("q"), array("q")
    try:
        vertex_count, face_count, _ = (whole_number(next(words)[1]) for _ in range(3))
        for _ in range(3 * vertex_count):
            number, word = next(words)
            positions.append(coordinate(word, "off", number))
        for _ in range(face_count):
            counts.append(whole_number(next(words)[1]))
            corners.extend(whole_number(next(words)[1]) for _ in range(counts[-1]))
            if counts[-1] < _CORNERS_MIN:
                return None
    except (StopIteration, RuntimeError, ValueError, Refused):
        return None
    return None if next(words, None) else _mesh(positions, corners, counts)


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
    if counts[1] == 0:
        raise no_facets("The file holds no faces.")
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
