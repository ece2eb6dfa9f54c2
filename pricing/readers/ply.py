"""Polygon File Format (Stanford): ASCII and both binary byte orders, vertices and faces.

Everything else a row holds (normals, colours, texture coordinates) is stepped over; rows and bytes must be
exactly as many as the header announces.
"""

import re
import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.readers.common import (
    BYTE_ORDER_MARK,
    Indices,
    Points,
    check_indices,
    check_shown,
    coordinate,
    in_double_precision,
    malformed,
    no_facets,
    text_lines,
    unsupported,
    whole_number,
)
from pricing.readers.corners import Contents
from pricing.readers.triangulate import facet_count, facets_of, polygons_of

_HEADER_BYTES_MAX = 1 << 16
_TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
_STRUCT_CODES = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNER_LISTS = ("vertex_indices", "vertex_index")
_CORNERS_MIN = 3

_Faces = tuple[Indices, Indices]
_Rows = Iterator[list[bytes]]
_Packed = NDArray[np.void]


class _Property(NamedTuple):
    """One column; `count_type` is set for a list."""

    name: str
    value_type: str
    count_type: str | None


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


class _Header(NamedTuple):
    order: str
    elements: list[_Element]
    size: int


def read_ply(body: memoryview) -> Contents:
    """The faces of a PLY file, as triangles; it states no unit.

    Refused `malformed_ply`, `not_finite`, `comma_decimal`, `no_facets`, `too_many_facets` or
    `unsupported_feature`.
    """
    if bytes(body[:3]) == BYTE_ORDER_MARK:
        body = body[3:]
    header = _header(bytes(body[:_HEADER_BYTES_MAX]))
    _check_elements(header)
    content = body[header.size :]
    points, (corners, counts) = _binary(header, content) if header.order else _ascii(header, content)
    if len(counts) and counts.min() < _CORNERS_MIN:
        raise malformed("ply", f"A face has {counts.min()} corners.")
    check_indices(corners, len(points), "ply")
    check_shown(facet_count(counts), facet_count(counts))
    return Contents(facets_of(points, corners, counts), otherwise=polygons_of(counts))


def _header(head: bytes) -> _Header:
    # Where lines end with CR alone, a first row may begin with an LF; elsewhere LF and CRLF may be mixed.
    first = re.match(rb"ply[ \t]*(\r?\n|\r)", head)
    line_end = rb"\r" if first and first[1] == b"\r" else rb"\r?\n"
    if (end := re.search(rb"[\r\n]end_header[ \t]*" + line_end, head)) is None:
        raise malformed("ply", "The header has no end.")
    order: str | None = None
    elements: list[_Element] = []
    # As bytes: comments are in any script, and what is a line end or a blank to Unicode is none here.
    for line in head[: end.end()].splitlines():
        try:
            order = _header_line([word.decode("latin-1") for word in line.split()], elements, order)
        except (IndexError, KeyError, ValueError):
            shown = line[:80].decode("latin-1")
            raise malformed("ply", f"The header line {shown!r} is not understood.") from None
    if order is None:
        raise malformed("ply", "The header does not state the format.")
    return _Header(order, elements, end.end())


def _header_line(words: list[str], elements: list[_Element], order: str | None) -> str | None:
    """Take in one line of the header; returns the byte order known so far."""
    match words:
        case ["format", name, "1.0"] if order is None:
            return _ORDERS[name]
        case ["element", name, count]:
            rows = whole_number(count.encode("latin-1"))
            if rows < 0:
                raise ValueError(count)
            elements.append(_Element(name, rows, []))
        case ["property", "list", count_type, value_type, name]:
            if _TYPES[count_type].startswith("f"):
                raise ValueError(count_type)
            elements[-1].properties.append(_Property(name, _TYPES[value_type], _TYPES[count_type]))
        case ["property", value_type, name]:
            elements[-1].properties.append(_Property(name, _TYPES[value_type], None))
        case ["ply"] | ["end_header"] | ["comment", *_] | ["obj_info", *_] | []:
            pass
        case _:
            raise ValueError(words)
    return order


def _check_elements(header: _Header) -> None:
    names = [element.name for element in header.elements]
    if "tristrips" in names:
        raise unsupported("The faces are strips of triangles.")
    if names.count("vertex") != 1 or names.count("face") != 1:
        raise malformed(
            "ply", f"Expected vertices once and faces once, found {', '.join(names)[:80] or 'nothing'}."
        )
    vertex, face = (header.elements[names.index(name)] for name in ("vertex", "face"))
    scalars = [column.name for column in vertex.properties if column.count_type is None]
    if len(scalars) != len(vertex.properties) or any(scalars.count(axis) != 1 for axis in "xyz"):
        raise malformed("ply", "The vertices do not have the numbers x, y and z once each.")
    lists = [c for c in face.properties if c.count_type and c.name in _CORNER_LISTS]
    if len(lists) != 1 or lists[0].value_type.startswith("f"):
        raise malformed("ply", "The faces do not have one list of vertex_indices in whole numbers.")
    if face.rows == 0:
        raise no_facets("The file holds no faces.")


def _ascii(header: _Header, content: memoryview) -> tuple[Points, _Faces]:
    rows: _Rows = (words for line in text_lines(content, "ply") if (words := line.split()))
    positions, corners, counts = array("d"), array("q"), array("q")
    for element in header.elements:
        axes = [index for axis in "xyz" for index, c in enumerate(element.properties) if c.name == axis]
        for number in range(1, element.rows + 1):
            if (row := next(rows, None)) is None:
                raise malformed("ply", f"The file ends before row {number} of '{element.name}'.")
            if element.name == "vertex":
                positions.extend(_ascii_vertex(element, row, axes, number))
            elif (indices := _ascii_lists(element, row, number)) is not None:
                corners.extend(indices)
                counts.append(len(indices))
    if next(rows, None) is not None:
        raise malformed("ply", "There are more rows than the header announces.")
    points = np.asarray(positions, np.float64).reshape(-1, 3)
    return points, (np.asarray(corners, np.int64), np.asarray(counts, np.int64))


def _ascii_vertex(element: _Element, words: list[bytes], axes: list[int], number: int) -> list[float]:
    if len(words) != len(element.properties):
        raise malformed("ply", f"Row {number}: a vertex has {len(words)} numbers.")
    return [coordinate(words[axis], "ply", number) for axis in axes]


def _ascii_lists(element: _Element, words: list[bytes], number: int) -> list[int] | None:
    """The corners when the row is a face; every row must have the announced form."""
    corners: list[int] | None = None
    position = 0
    try:
        for column in element.properties:
            length = 0
            if column.count_type is not None:
                length = whole_number(words[position])
                if element.name == "face" and column.name in _CORNER_LISTS:
                    corners = [whole_number(word) for word in words[position + 1 : position + 1 + length]]
            if length < 0:
                raise ValueError(f"a list of {length} entries")
            position += 1 + length
    except (ValueError, IndexError) as error:
        raise malformed("ply", f"Row {number} of '{element.name}' is not understood: {error}.") from None
    if position != len(words):
        raise malformed("ply", f"Row {number} of '{element.name}' has {len(words)} words, not {position}.")
    return corners


def _binary(header: _Header, content: memoryview) -> tuple[Points, _Faces]:
    points = np.empty((0, 3))
    faces: _Faces = (np.empty(0, np.int64), np.empty(0, np.int64))
    offset = 0
    for element in (element for element in header.elements if element.rows and element.properties):
        if (rows := _equal_rows(header, element, content, offset)) is None:
            found, offset = _unequal_faces(header, element, content, offset)
        else:
            offset += rows.nbytes
            found = _equal_faces(element, rows) if element.name == "face" else None
            if element.name == "vertex":
                names = [f"value {[c.name for c in element.properties].index(axis)}" for axis in "xyz"]
                points = np.stack([in_double_precision(rows[name]) for name in names], axis=1)
        faces = found if found is not None and element.name == "face" else faces
    if offset != len(content):
        raise malformed("ply", f"There are {len(content) - offset} bytes after the last element.")
    return points, faces


def _equal_rows(header: _Header, element: _Element, content: memoryview, offset: int) -> _Packed | None:
    """The rows of an element in place; None when their lists differ in length."""
    row = _first_row_type(header, element, content, offset)
    fits = (len(content) - offset) // row.itemsize
    rows = np.frombuffer(content, row, min(fits, element.rows), offset)
    for name in row.names or ():
        if name.startswith("count") and (rows[name] != rows[name][:1]).any():
            return None
    if fits < element.rows:
        raise malformed("ply", f"The file ends within the {element.rows} rows of '{element.name}'.")
    return rows


def _first_row_type(
    header: _Header, element: _Element, content: memoryview, offset: int
) -> np.dtype[np.void]:
    """The layout of a row, with lists as long as in the element's first row."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
    size = offset
    for index, column in enumerate(element.properties):
        if column.count_type is not None:
            (length,) = _unpacked(header.order + _STRUCT_CODES[column.count_type], content, size)
            fields.append((f"count {index}", header.order + column.count_type))
            size += np.dtype(column.count_type).itemsize
            size += np.dtype(column.value_type).itemsize * length
            if not (length >= 0 and size <= len(content)):
                raise malformed("ply", f"A list of '{element.name}' announces {length} entries.")
            fields.append((f"list {index}", header.order + column.value_type, (length,)))
        else:
            fields.append((f"value {index}", header.order + column.value_type))
            size += np.dtype(column.value_type).itemsize
    return np.dtype(fields)


def _unpacked(form: str, content: memoryview, offset: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, content, offset)
    except struct.error:
        raise malformed("ply", "The file ends within a row.") from None


def _corner_list(element: _Element) -> int:
    """Which property of a face is its list of corners."""
    return next(i for i, c in enumerate(element.properties) if c.count_type and c.name in _CORNER_LISTS)


def _equal_faces(element: _Element, rows: _Packed) -> _Faces:
    corners = rows[f"list {_corner_list(element)}"].astype(np.int64)
    return corners.reshape(-1), np.full(len(rows), corners.shape[1], np.int64)


def _unequal_faces(
    header: _Header, element: _Element, content: memoryview, offset: int
) -> tuple[_Faces | None, int]:
    """Step through rows whose lists differ in length; returns the faces, when they are faces, and the end."""
    wanted = _corner_list(element) if element.name == "face" else -1
    corners, counts = array("q"), array("q")
    for _ in range(element.rows):
        for index, column in enumerate(element.properties):
            length = 1
            if column.count_type is not None:
                (length,) = _unpacked(header.order + _STRUCT_CODES[column.count_type], content, offset)
                offset += np.dtype(column.count_type).itemsize
            if length < 0:
                raise malformed("ply", f"A list of '{element.name}' announces {length} entries.")
            if index == wanted:
                form = f"{header.order}{length}{_STRUCT_CODES[column.value_type]}"
                corners.extend(_unpacked(form, content, offset))
                counts.append(length)
            offset += length * np.dtype(column.value_type).itemsize
    if offset > len(content):
        raise malformed("ply", f"The file ends within the {element.rows} rows of '{element.name}'.")
    return (np.asarray(corners, np.int64), np.asarray(counts, np.int64)), offset
