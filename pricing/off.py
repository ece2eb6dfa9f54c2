"""Object File Format (Geomview): ASCII, three coordinates per vertex, whatever follows them dropped."""

import re
from collections.abc import Iterator

from pricing.errors import Refused
from pricing.facets import ArrayFacets
from pricing.loading import load_triangles, malformed, unsupported
from pricing.obj import coordinate

_KEYWORD = re.compile(rb"\A\s*(ST)?(C)?(N)?(4)?(n)?OFF")
_CORNERS_MIN = 3
_Rows = Iterator[tuple[int, list[bytes]]]


def read_off(body: memoryview) -> tuple[ArrayFacets, None]:
    """The faces of an OFF file, as triangles; it states no unit.

    Refused `malformed_off`, `not_finite`, `comma_decimal`, `no_facets` or `unsupported_feature`, naming the
    line.
    """
    rows = _rows(bytes(body))
    vertex_count, face_count = _counts(rows)
    if face_count == 0:
        raise Refused(
            "no_facets", "The file holds no faces.", "Check that the model was selected when exporting."
        )
    vertices = [_vertex(*_next(rows, "vertices", vertex_count, index)) for index in range(vertex_count)]
    faces = [_face(*_next(rows, "faces", face_count, index), vertex_count) for index in range(face_count)]
    if (left := next(rows, None)) is not None:
        raise malformed("off", f"Line {left[0]}: there is more than the announced {face_count} faces.")
    text = b"\n".join([b"OFF", b"%d %d 0" % (vertex_count, face_count), *vertices, *faces, b""])
    # Each face row starts with its number of corners.
    return load_triangles(text, "off", sum(int(face.split(b" ", 1)[0]) - 2 for face in faces)), None


def _rows(text: bytes) -> _Rows:
    """The words of each line that holds any, with its number; the keyword is taken off."""
    plain = re.sub(rb"#[^\r\n]*", b"", text.removeprefix(b"\xef\xbb\xbf"))
    keyword = _KEYWORD.match(plain)
    if keyword is None:
        raise malformed("off", "The file does not begin with OFF.")
    if keyword[4] or keyword[5]:
        raise unsupported("The vertices do not have three coordinates.")
    skipped = len(plain[: keyword.end()].splitlines()) - 1
    for number, line in enumerate(plain[keyword.end() :].splitlines(), start=skipped + 1):
        if words := line.split():
            yield number, words


def _next(rows: _Rows, what: str, announced: int, index: int) -> tuple[int, list[bytes]]:
    row = next(rows, None)
    if row is None:
        raise malformed("off", f"The file announces {announced} {what} and ends after {index}.")
    return row


def _counts(rows: _Rows) -> tuple[int, int]:
    number, words = _next(rows, "counts", 1, 0)
    if words[0].upper() == b"BINARY":
        raise unsupported("Binary OFF is not read here.")
    try:
        counts = [int(word) for word in words[:3]]
    except ValueError:
        counts = []
    if len(counts) < 2 or min(counts) < 0:
        raise malformed("off", f"Line {number}: expected the numbers of vertices, faces and edges.")
    return counts[0], counts[1]


def _vertex(number: int, words: list[bytes]) -> bytes:
    if len(words) < 3:
        raise malformed("off", f"Line {number}: a vertex has {len(words)} coordinates.")
    for word in words[:3]:
        coordinate(word, "off", number)
    return b" ".join(words[:3])


def _face(number: int, words: list[bytes], vertex_count: int) -> bytes:
    """A face row without its colour."""
    try:
        corners = int(words[0])
        indices = [int(word) for word in words[1 : corners + 1]]
    except ValueError:
        raise malformed("off", f"Line {number}: a face is not made of whole numbers.") from None
    if corners < _CORNERS_MIN or len(indices) != corners:
        raise malformed("off", f"Line {number}: a face announces {corners} corners and has {len(indices)}.")
    if not 0 <= min(indices) <= max(indices) < vertex_count:
        raise malformed("off", f"Line {number}: a face refers to a vertex that does not exist.")
    return b" ".join(words[: corners + 1])
