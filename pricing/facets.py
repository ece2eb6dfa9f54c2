"""One view of a mesh's triangles for the kernel, whatever the file was.

A source hands out blocks of facets as arrays indexed [vertex, axis, facet], so that each arithmetic step
below runs over contiguous numbers. A source never holds more than it was given: binary STL stays in the
caller's bytes.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

STL_HEADER_BYTES = 84
STL_FACET_BYTES = 50

FACETS_MAX = 20_000_000
"""More facets than this are refused; a detailed ring has one or two million."""

FloatArray = NDArray[np.float32] | NDArray[np.float64]

_STL_FACET = np.dtype(
    {"names": ["corners"], "formats": [("<f4", (3, 3))], "offsets": [12], "itemsize": STL_FACET_BYTES}
)


class FacetSource(Protocol):
    """Triangles in file order; `dtype` is the precision the file stores."""

    @property
    def count(self) -> int:
        """How many facets there are."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """float32 or float64."""

    def block(self, start: int, stop: int, out: FloatArray) -> None:
        """Fill `out`, shape (3 vertices, 3 axes, stop - start), with facets start..stop."""


class PackedFacets:
    """The facets of a binary STL body, read in place (no copy of the body is made)."""

    dtype: np.dtype[np.floating] = np.dtype(np.float32)

    def __init__(self, body: memoryview, count: int) -> None:
        self.count = count
        packed = np.frombuffer(body, dtype=_STL_FACET, count=count, offset=STL_HEADER_BYTES)
        self._corners = packed["corners"].transpose(1, 2, 0)

    def block(self, start: int, stop: int, out: FloatArray) -> None:
        np.copyto(out, self._corners[:, :, start:stop])


class ArrayFacets:
    """Facets already parsed into one array of shape (n, 3 vertices, 3 axes), float64."""

    dtype: np.dtype[np.floating] = np.dtype(np.float64)

    def __init__(self, triangles: NDArray[np.float64]) -> None:
        self.count = len(triangles)
        self._corners = triangles.transpose(1, 2, 0)

    def block(self, start: int, stop: int, out: FloatArray) -> None:
        np.copyto(out, self._corners[:, :, start:stop])
