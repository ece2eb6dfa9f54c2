"""What the readers of text and of indexed meshes share: refusals, lines, numbers, and facets from faces.

Readers hand on corners of shape (n facets, 3 vertices, 3 axes), float64. Whatever a file announces is
compared with what it holds before anything of that size is made.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.readers.corners import FACETS_MAX

FileType = Literal["obj", "off", "ply", "glb", "3mf"]
Points = NDArray[np.float64]
Indices = NDArray[np.int64]

EXPORT_AS_STL = "Export the model again, as binary STL if possible."

PIECE_BYTES = 1 << 20
"""Text split into lines at once."""

LINE_BYTES_MAX = 4 << 20
"""A longer line is no mesh: a face of this length would have half a million corners."""

REPEATED_FACETS_MAX = 2_000_000
"""Facets a file may show by repeating parts. A few hundred bytes can ask for any number of copies, so the
work must not follow what is asked for alone."""

_INDEX_MAX = 1 << 31
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def malformed(file_type: FileType, detail: str) -> Refused:
    """The refusal `malformed_<type>`."""
    return Refused(f"malformed_{file_type}", detail, EXPORT_AS_STL)


def unsupported(detail: str) -> Refused:
    """The refusal for a file that is sound but uses what would change the volume and is not read here."""
    return Refused("unsupported_feature", detail, EXPORT_AS_STL)


def no_facets(detail: str) -> Refused:
    """The refusal for a file that is sound and shows nothing."""
    return Refused("no_facets", detail, "Check that the model was selected when exporting.")


def check_shown(shown: int, stored: int) -> None:
    """Refused `no_facets` or `too_many_facets` for the number of facets a file shows.

    `stored` is how many of them the file spells out; the rest are repetitions.
    """
    if shown == 0:
        raise no_facets("The file shows no faces.")
    bound = FACETS_MAX if shown <= stored else REPEATED_FACETS_MAX
    if shown > bound:
        raise Refused(
            "too_many_facets",
            f"The file shows {shown} facets; at most {bound} are read.",
            "Export it with a coarser tolerance.",
        )


def text_lines(body: memoryview, file_type: FileType) -> Iterator[bytes]:
    """The lines of a text, ended by LF, CRLF or CR, without a byte order mark. Refused `malformed_<type>`."""
    rest = b""
    for start in range(0, len(body), PIECE_BYTES):
        piece = bytes(body[start : start + PIECE_BYTES])
        lines = (rest + (piece if start else piece.removeprefix(BYTE_ORDER_MARK))).splitlines(keepends=True)
        # The last line may continue in the next piece, or be followed by the LF of its CRLF.
        rest = lines.pop() if lines else b""
        if len(rest) > LINE_BYTES_MAX:
            raise malformed(file_type, f"A line has more than {LINE_BYTES_MAX} bytes.")
        yield from lines
    if rest:
        yield rest


def coordinate(word: bytes, file_type: FileType, number: int) -> float:
    """A finite number from text; Refused `not_finite`, `comma_decimal` or `malformed_<type>`, naming the
    line.
    """
    try:
        value = float(word)
    except ValueError:
        raise _no_number(word, file_type, number) from None
    if b"_" in word:  # Python would read 1_0 as ten
        raise _no_number(word, file_type, number)
    if not math.isfinite(value):
        raise Refused(
            "not_finite",
            f"Line {number}: the coordinate {_shown(word)} is not a finite number.",
            "Repair the model and export it again.",
        )
    return value


def _no_number(word: bytes, file_type: FileType, number: int) -> Refused:
    if b"," in word:
        return Refused(
            "comma_decimal",
            f"Line {number}: the coordinate {_shown(word)} has a decimal comma.",
            "Export the model again with a decimal point, or as binary STL.",
        )
    return malformed(file_type, f"Line {number}: the coordinate {_shown(word)} is not a number.")


def _shown(word: bytes) -> str:
    return repr(word[:40].decode("latin-1"))


def whole_number(word: bytes) -> int:
    """A decimal number that fits an index. ValueError; Python alone would also take 1_0 and other scripts."""
    if not word.removeprefix(b"-").isdigit():
        raise ValueError(f"{_shown(word)} is not a whole number")
    value = int(word)
    if not -_INDEX_MAX < value < _INDEX_MAX:
        raise ValueError(f"{_shown(word)} is too large")
    return value


def check_indices(indices: Indices, vertex_count: int, file_type: FileType) -> None:
    """Refused `malformed_<type>` when an index, counted from 0, names no vertex."""
    if len(indices) and not 0 <= indices.min() <= indices.max() < vertex_count:
        wrong = indices[(indices < 0) | (indices >= vertex_count)]
        raise malformed(
            file_type, f"A face refers to vertex {wrong[0]}, counted from 0; there are {vertex_count}."
        )


def in_double_precision(values: NDArray[np.generic]) -> Points:
    """A copy; what is no number, in whichever of its forms, stays so and is refused with the facts."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def placed(points: Points, faces: Indices, rotation: Points, offset: Points) -> Points:
    """Corners of `faces` (n, 3) with every point p moved to p @ rotation + offset.

    ValueError when the transform flattens the part. A mirror turns every facet inside out; glTF and 3MF both
    say the facets turn with it.
    """
    with np.errstate(all="ignore"):
        volume_factor = float(np.linalg.det(rotation))
        moved = points @ rotation + offset
    if volume_factor == 0:
        raise ValueError("a transform flattens a part")
    corners: Points = moved[faces[:, ::-1] if volume_factor < 0 else faces]
    return corners
