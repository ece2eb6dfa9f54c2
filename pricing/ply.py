"""Polygon File Format (Stanford): ASCII and both binary byte orders, vertices and faces.

trimesh takes the number of corners of all binary faces from the first one, and leaves off at the first bad
word of an ASCII line; both are checked here against the announced counts before it reads the file.
"""

import re
from typing import NamedTuple

import numpy as np

from pricing.errors import Refused
from pricing.facets import ArrayFacets
from pricing.loading import load_triangles, malformed
from pricing.obj import coordinate

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
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_CORNERS_MIN = 3


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


def read_ply(body: memoryview) -> tuple[ArrayFacets, None]:
    """The faces of a PLY file, as triangles; it states no unit. Refused `malformed_ply`, `not_finite`,
    `no_facets`."""
    header = _header(bytes(body[:_HEADER_BYTES_MAX]))
    _check_elements(header)
    content = body[header.size :]
    triangles = (
        _ascii_triangles(header, bytes(content)) if not header.order else _binary_triangles(header, content)
    )
    return load_triangles(bytes(body), "ply", triangles), None


def _header(head: bytes) -> _Header:
    end = re.search(rb"(?:\A|[\r\n])end_header[ \t]*(?:\r\n|\n|\r)", head)
    if end is None:
        raise malformed("ply", "The header has no end.")
    lines = [line.split() for line in head[: end.end()].decode("latin-1").splitlines()]
    order: str | None = None
    elements: list[_Element] = []
    for words in lines:
        try:
            order = _header_line(words, elements, order)
        except (IndexError, KeyError, ValueError):
            raise malformed("ply", f"The header line {' '.join(words)[:80]!r} is not understood.") from None
    if order is None:
        raise malformed("ply", "The header does not state the format.")
    return _Header(order, elements, end.end())


def _header_line(words: list[str], elements: list[_Element], order: str | None) -> str | None:
    """Take in one line of the header; returns the byte order known so far."""
    match words:
        case ["format", name, "1.0"]:
            return _ORDERS[name]
        case ["element", name, count]:
            if int(count) < 0:
                raise ValueError(count)
            elements.append(_Element(name, int(count), []))
        case ["property", "list", count_type, value_type, name]:
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
    if names[:1] != ["vertex"] or names.count("vertex") != 1 or names.count("face") != 1:
        raise malformed(
            "ply", f"Expected vertices first and faces once, found {', '.join(names) or 'nothing'}."
        )
    vertex = header.elements[0]
    scalars = [column.name for column in vertex.properties if column.count_type is None]
    if len(scalars) != len(vertex.properties) or any(scalars.count(axis) != 1 for axis in "xyz"):
        raise malformed("ply", "The vertices do not have the numbers x, y and z once each.")
    face = header.elements[names.index("face")]
    lists = [column.name for column in face.properties if column.count_type]
    if lists[:1] not in (["vertex_indices"], ["vertex_index"]) or face.properties[0].name != lists[0]:
        raise malformed("ply", "The faces do not begin with a list of vertex_indices.")
    if face.rows == 0:
        raise Refused(
            "no_facets", "The file holds no faces.", "Check that the model was selected when exporting."
        )


def _ascii_triangles(header: _Header, content: bytes) -> int:
    """How many triangles the faces give; every row must have the announced form."""
    rows = [line.split() for line in content.splitlines() if line.strip()]
    announced = sum(element.rows for element in header.elements)
    if len(rows) != announced:
        raise malformed("ply", f"The header announces {announced} rows, the file has {len(rows)}.")
    vertex_count = header.elements[0].rows
    triangles = start = 0
    for element in header.elements:
        for number, row in enumerate(rows[start : start + element.rows], start=start + 1):
            if element.name == "vertex":
                _check_vertex_row(element, row, number)
            elif element.name == "face":
                triangles += _check_face_row(row, number, vertex_count) - 2
        start += element.rows
    return triangles


def _check_vertex_row(element: _Element, row: list[bytes], number: int) -> None:
    if len(row) != len(element.properties):
        raise malformed("ply", f"Row {number}: a vertex has {len(row)} numbers.")
    for word in row:
        coordinate(word, "ply", number)


def _check_face_row(row: list[bytes], number: int, vertex_count: int) -> int:
    """The number of corners of a face row."""
    try:
        corners = int(row[0])
        indices = [int(word) for word in row[1 : corners + 1]]
    except ValueError:
        raise malformed("ply", f"Row {number}: a face is not made of whole numbers.") from None
    if corners < _CORNERS_MIN or len(indices) != corners:
        raise malformed("ply", f"Row {number}: a face announces {corners} corners and has {len(indices)}.")
    if not 0 <= min(indices) <= max(indices) < vertex_count:
        raise malformed("ply", f"Row {number}: a face refers to a vertex that does not exist.")
    return corners


def _binary_triangles(header: _Header, content: memoryview) -> int:
    """How many triangles the faces give; the content must have exactly the announced size."""
    offset = triangles = 0
    for element in (element for element in header.elements if element.rows):
        row = _row_type(header, element, content, offset)
        stop = offset + row.itemsize * element.rows
        if stop > len(content):
            raise malformed("ply", f"The file ends within the {element.rows} rows of '{element.name}'.")
        rows = np.frombuffer(content, row, element.rows, offset)
        _check_list_sizes(element, rows)
        if element.name == "face":
            triangles = element.rows * (int(rows["count 0"][0]) - 2)
        offset = stop
    if offset != len(content):
        raise malformed("ply", f"There are {len(content) - offset} bytes after the last element.")
    return triangles


def _row_type(header: _Header, element: _Element, content: memoryview, offset: int) -> np.dtype[np.void]:
    """The layout of a row, with lists as long as in the element's first row."""
    fields: list[tuple[str, str] | tuple[str, str, int]] = []
    for index, column in enumerate(element.properties):
        if column.count_type is not None:
            count = np.dtype(header.order + column.count_type)
            start = offset + np.dtype(fields).itemsize
            if start + count.itemsize > len(content):
                raise malformed("ply", f"The file ends before the first row of '{element.name}'.")
            length = int(np.frombuffer(content, count, 1, start)[0])
            if not 0 <= length * np.dtype(column.value_type).itemsize <= len(content):
                raise malformed("ply", f"A list of '{element.name}' announces {length} entries.")
            fields.append((f"count {index}", count.str))
            fields.append((f"list {index}", header.order + column.value_type, length))
        else:
            fields.append((f"value {index}", header.order + column.value_type))
    return np.dtype(fields)


def _check_list_sizes(element: _Element, rows: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
    for name in rows.dtype.names or ():
        if name.startswith("count") and len(rows) and (rows[name] != rows[name][0]).any():
            raise malformed(
                "ply", f"The rows of '{element.name}' have lists of different lengths; triangulate first."
            )
    if element.name == "face" and int(rows["count 0"][0]) < _CORNERS_MIN:
        raise malformed("ply", f"A face has {int(rows['count 0'][0])} corners.")
