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


POLYGONS = "polygons"
RELATIVE_INDICES = "relative_indices"
SEVERAL_PARTS = "several_parts"

OTHERWISE = {
    POLYGONS: "Faces of more than three corners may be cut otherwise.",
    RELATIVE_INDICES: "Indices that count back from the last vertex are taken to count back from the end.",
    SEVERAL_PARTS: "Objects in other parts of the file than the first are not found.",
}
"""What other programs are known to read otherwise, in a sentence."""


class Contents(NamedTuple):
    """What a file shows: its facets, the unit it states, and what of it was passed over. `otherwise`: what
    other programs are known to read otherwise, of OTHERWISE."""

    corners: Corners
    unit: str | None = None
    remarks: tuple[MeshWarning, ...] = ()
    otherwise: tuple[str, ...] = ()
