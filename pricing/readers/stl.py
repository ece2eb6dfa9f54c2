"""Readers of binary and ASCII STL.

Binary: 80 header bytes, a little-endian facet count, 50 bytes per facet; nothing may be missing or left
over, because a file cut short has a wrong volume and no other sign of it. ASCII: see pricing.ascii_stl.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.readers.ascii_stl import EXPORT_AGAIN, read_corners
from pricing.readers.corners import STL_FACET_BYTES, STL_HEADER_BYTES


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
    if size != expected:
        raise Refused("stl_size_mismatch", _size_mismatch(size, expected, count), EXPORT_AGAIN)
    return int(count)


def _size_mismatch(size: int, expected: int, count: int) -> str:
    stated = f"The header states {count} facets, which is {expected} bytes; the file has {size}."
    if size > expected:
        return f"{stated} There are {size - expected} bytes after the last facet, or the count is wrong."
    return f"{stated} The file is cut short by {expected - size} bytes, or the count is wrong."


def read_binary(body: memoryview) -> NDArray[np.float32]:
    """The facets of a binary STL, left where they are. Refused `stl_size_mismatch`."""
    return packed_corners(body, binary_facet_count(body))


def read_ascii(body: memoryview) -> NDArray[np.float64]:
    """The facets of all solids of an ASCII STL; Refused as by `ascii_stl.read_corners`."""
    return read_corners(body)


_STL_FACET = np.dtype(
    {"names": ["corners"], "formats": [("<f4", (3, 3))], "offsets": [12], "itemsize": STL_FACET_BYTES}
)


def packed_corners(body: memoryview, count: int) -> NDArray[np.float32]:
    """The facets of a binary STL where they are: no copy of the body is made."""
    packed = np.frombuffer(body, dtype=_STL_FACET, count=count, offset=STL_HEADER_BYTES)
    corners: NDArray[np.float32] = packed["corners"]
    return corners
