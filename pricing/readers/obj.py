"""Wavefront OBJ: positions and faces only.

Normals, texture coordinates, groups and materials split vertices without changing the solid, and `mtllib`
names other files, which are never opened; all of them are passed over. A word that is no statement of the
format ends the reading: whatever follows is not the model that began.
"""

import re
from array import array
from collections.abc import Iterator

import numpy as np

from pricing.readers.common import (
    check_indices,
    check_shown,
    coordinate,
    malformed,
    no_facets,
    text_lines,
    unsupported,
    whole_number,
)
from pricing.readers.corners import RELATIVE_INDICES, Contents
from pricing.readers.triangulate import facet_count, facets_of, polygons_of

_CORNERS_MIN = 3
_RELATIVE = re.compile(rb"^[ \t]*fo?[ \t][^#\r\n]*[ \t]-", re.MULTILINE)
"""A face that counts back from the latest vertex."""
# Statements that put a surface into the file which is not made of faces, or another file, or a program.
_FREE_FORM = frozenset(
    {b"curv", b"curv2", b"surf", b"cstype", b"bzp", b"bsp", b"cdc", b"cdp", b"res", b"call", b"csh"}
)
_PASSED_OVER = frozenset(
    b"mtllib maplib vt vn vp p l g s mg o usemtl usemap bevel c_interp d_interp lod shadow_obj trace_obj"
    b" deg bmat step ctech stech parm trim hole scrv sp end con".split()
)


def read_obj(body: memoryview) -> Contents:
    """The faces of an OBJ file, as triangles; it states no unit.

    Refused `malformed_obj`, `not_finite`, `comma_decimal`, `no_facets`, `too_many_facets` or
    `unsupported_feature`, naming the line.
    """
    positions, corners, counts = array("d"), array("q"), array("q")
    for number, words in _statements(body):
        if words[0] == b"v":
            positions.extend(_vertex(words, number))
        elif words[0] in (b"f", b"fo"):
            indices = _face(words, number, len(positions) // 3)
            corners.extend(indices)
            counts.append(len(indices))
        elif words[0] not in _PASSED_OVER:
            raise _strange(words[0], number)
    if not counts:
        raise no_facets("The file holds no faces.")
    points = np.asarray(positions, np.float64).reshape(-1, 3)
    indices_all, sizes = np.asarray(corners, np.int64), np.asarray(counts, np.int64)
    check_indices(indices_all, len(points), "obj")
    check_shown(facet_count(sizes), facet_count(sizes))
    relative = (RELATIVE_INDICES,) if _RELATIVE.search(body) else ()
    return Contents(facets_of(points, indices_all, sizes), otherwise=(*polygons_of(sizes), *relative))


def _statements(body: memoryview) -> Iterator[tuple[int, list[bytes]]]:
    """The words of every line that holds any, with its number; a backslash continues a line."""
    pending: list[bytes] = []
    for number, raw in enumerate(text_lines(body, "obj"), start=1):
        line = raw.split(b"#", 1)[0].rstrip()
        continued = line.endswith(b"\\")
        pending += line.removesuffix(b"\\").split()
        if pending and not continued:
            yield number, pending
        if not continued:
            pending = []
    if pending:
        raise malformed("obj", "The last line announces a continuation that is missing.")


def _strange(word: bytes, number: int) -> Exception:
    if word in _FREE_FORM:
        return unsupported(f"Line {number}: '{word.decode()}' describes more than faces.")
    return malformed("obj", f"Line {number}: {word[:40].decode('latin-1')!r} is no statement of the format.")


def _vertex(words: list[bytes], number: int) -> list[float]:
    """The position of a `v` line (a weight or a colour may follow in the file)."""
    if len(words) < 4:
        raise malformed("obj", f"Line {number}: a vertex has {len(words) - 1} coordinates.")
    return [coordinate(word, "obj", number) for word in words[1:4]]


def _face(words: list[bytes], number: int, vertices: int) -> list[int]:
    """The vertex numbers of an `f` line, from 0; in the file they count from 1, negative ones back from the
    latest vertex.
    """
    if len(words) - 1 < _CORNERS_MIN:
        raise malformed("obj", f"Line {number}: a face has {len(words) - 1} corners.")
    try:
        given = [whole_number(word.partition(b"/")[0]) for word in words[1:]]
    except ValueError as error:
        raise malformed("obj", f"Line {number}: a face has a corner that is no index: {error}.") from None
    indices = [index - 1 if index > 0 else vertices + index if index else -1 for index in given]
    if min(indices) < 0:
        raise malformed("obj", f"Line {number}: a face refers to vertex {min(given)} of {vertices}.")
    return indices
