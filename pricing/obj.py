"""Wavefront OBJ: positions and faces only.

Normals, texture coordinates, groups and materials split vertices without changing the solid, and `mtllib`
names other files; all of them are dropped before trimesh sees the text.
"""

import math
from collections.abc import Iterable

from pricing.errors import Refused
from pricing.facets import ArrayFacets
from pricing.loading import load_triangles, malformed, unsupported

_CORNERS_MIN = 3
# Statements that put a surface into the file which is not made of faces.
_FREE_FORM = frozenset({b"curv", b"curv2", b"surf", b"cstype", b"bzp", b"bsp", b"call"})


def read_obj(body: memoryview) -> tuple[ArrayFacets, None]:
    """The faces of an OBJ file, as triangles; it states no unit.

    Refused `malformed_obj`, `not_finite`, `comma_decimal`, `no_facets` or `unsupported_feature`, naming the
    line.
    """
    vertices: list[bytes] = []
    faces: list[bytes] = []
    triangles = 0
    for number, words in _statements(bytes(body)):
        if words[0] == b"v":
            vertices.append(_vertex(words, number))
        elif words[0] == b"f":
            indices = _face(words, number, len(vertices))
            triangles += len(indices) - 2
            faces.append(b"f " + b" ".join(b"%d" % index for index in indices))
        elif words[0] in _FREE_FORM:
            raise unsupported(f"Line {number}: '{words[0].decode()}' describes a free-form surface.")
    if not faces:
        raise Refused(
            "no_facets", "The file holds no faces.", "Check that the model was selected when exporting."
        )
    return load_triangles(b"\n".join([*vertices, *faces, b""]), "obj", triangles), None


def _statements(text: bytes) -> Iterable[tuple[int, list[bytes]]]:
    """The words of every line that holds any, with its number; a backslash continues a line."""
    pending: list[bytes] = []
    for number, raw in enumerate(text.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        line = raw.split(b"#", 1)[0].rstrip()
        continued = line.endswith(b"\\")
        pending += line.removesuffix(b"\\").split()
        if pending and not continued:
            yield number, pending
        if not continued:
            pending = []
    if pending:
        raise malformed("obj", "The last line announces a continuation that is missing.")


def _vertex(words: list[bytes], number: int) -> bytes:
    """A `v` line with its position alone (a weight or a colour may follow in the file)."""
    for word in words[1:4]:
        coordinate(word, "obj", number)
    if len(words) < 4:
        raise malformed("obj", f"Line {number}: a vertex has {len(words) - 1} coordinates.")
    return b" ".join(words[:4])


def coordinate(word: bytes, file_type: str, number: int) -> float:
    """A finite number from text; Refused `not_finite`, `comma_decimal` or `malformed_<type>`, naming the
    line."""
    shown = word[:40].decode("latin-1")
    if b"," in word:
        raise Refused(
            "comma_decimal",
            f"Line {number}: the coordinate {shown!r} has a decimal comma.",
            "Export the model again with a decimal point, or as binary STL.",
        )
    try:
        value = float(word.replace(b"_", b"?"))  # Python would read 1_0 as ten
    except ValueError:
        raise Refused(
            f"malformed_{file_type}",
            f"Line {number}: the coordinate {shown!r} is not a number.",
            "Export the model again, as binary STL if possible.",
        ) from None
    if not math.isfinite(value):
        raise Refused(
            "not_finite",
            f"Line {number}: the coordinate {shown!r} is not a finite number.",
            "Repair the model and export it again.",
        )
    return value


def _face(words: list[bytes], number: int, vertices: int) -> list[int]:
    """The vertex numbers of an `f` line, from 1; negative ones count back from the latest vertex."""
    if len(words) - 1 < _CORNERS_MIN:
        raise malformed("obj", f"Line {number}: a face has {len(words) - 1} corners.")
    try:
        indices = [int(word.split(b"/", 1)[0]) for word in words[1:]]
    except ValueError:
        raise malformed("obj", f"Line {number}: a face has an index that is no number.") from None
    absolute = [vertices + 1 + index if index < 0 else index for index in indices]
    for index, given in zip(absolute, indices, strict=True):
        if not 1 <= index <= vertices:
            raise malformed("obj", f"Line {number}: a face refers to vertex {given} of {vertices}.")
    return absolute
