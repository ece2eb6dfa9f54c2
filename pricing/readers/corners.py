"""What all readers make of a file: the corners of its facets, in file order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pricing.facts import MeshWarning

STL_HEADER_BYTES = 84

STL_FACET_BYTES = 50

FACETS_MAX = 20_000_000
"""More facets than this are refused; a detailed ring has one or two million."""

Corners = NDArray[np.float32] | NDArray[np.float64]
"""Shape (n, 3 vertices, 3 axes), in the precision of the file."""


class Contents(NamedTuple):
    """What a file shows: its facets, the unit it states, and what of it was passed over. `polygons`: whether
    some facets are parts of faces with more corners, which another program may cut otherwise."""

    corners: Corners
    unit: str | None = None
    remarks: tuple[MeshWarning, ...] = ()
    polygons: bool = False
