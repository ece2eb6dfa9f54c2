"""Readers of binary and ASCII STL.

Binary: 80 header bytes, a little-endian facet count, 50 bytes per facet; nothing may be missing or left
over but blanks, because a file cut short has a wrong volume and no other sign of it. ASCII: see
`pricing.readers.ascii_stl`.
"""

import struct

import numpy as np

from pricing.errors import Refused
from pricing.facts import MeshWarning
from pricing.readers.ascii_stl import EXPORT_AGAIN, read_corners
from pricing.readers.corners import STL_FACET_BYTES, STL_HEADER_BYTES, Contents, Corners

BLANK_BYTES_MAX = 64 << 10
"""So many blank bytes may follow the last facet: some programs end every file with a line end, or pad it."""

_BLANKS = b"\t\n\r\x1a "


def binary_facet_count(body: memoryview) -> int:
    """The facet count of a binary STL whose size agrees with it; otherwise Refused `stl_size_mismatch`."""
    size = len(body)
    if size < STL_HEADER_BYTES:
        raise Refused(
            "stl_size_mismatch",
            f"The file has {size} bytes; the header of a binary STL alone has {STL_HEADER_BYTES}.",
            EXPORT_AGAIN,
        )
    (count,) = struct.unpack_from("<I", body, STL_HEADER_BYTES - 4)
    expected = STL_HEADER_BYTES + STL_FACET_BYTES * count
    behind = size - expected
    if behind and not (0 < behind <= BLANK_BYTES_MAX and not bytes(body[expected:]).strip(_BLANKS)):
        raise Refused("stl_size_mismatch", _size_mismatch(size, expected, count), EXPORT_AGAIN)
    return int(count)


def _size_mismatch(size: int, expected: int, count: int) -> str:
    stated = f"The header states {count} facets, which is {expected} bytes; the file has {size}."
    if size > expected:
        return f"{stated} There are {size - expected} bytes after the last facet, or the count is wrong."
    return f"{stated} The file is cut short by {expected - size} bytes, or the count is wrong."


def read_binary(body: memoryview) -> Contents:
    """The facets of a binary STL, left where they are. Refused `stl_size_mismatch`."""
    count = binary_facet_count(body)
    behind = len(body) - STL_HEADER_BYTES - STL_FACET_BYTES * count
    said = f"{behind} blank bytes behind the last facet are passed over."
    remarks = (MeshWarning("blank_bytes", said),) if behind else ()
    return Contents(packed_corners(body, count), None, remarks)


def read_ascii(body: memoryview) -> Contents:
    """The facets of all solids of an ASCII STL; Refused as by `ascii_stl.read_corners`."""
    return Contents(read_corners(body))


_STL_FACET = np.dtype(
    {"names": ["corners"], "formats": [("<f4", (3, 3))], "offsets": [12], "itemsize": STL_FACET_BYTES}
)


def packed_corners(body: memoryview, count: int) -> Corners:
    """The facets of a binary STL where they are: no copy of the body is made."""
    packed = np.frombuffer(body, dtype=_STL_FACET, count=count, offset=STL_HEADER_BYTES)
    corners: Corners = packed["corners"]
    # A single one would be an array of another layout, for which all machine code were compiled again.
    return corners if count != 1 else corners.astype(np.float64)
