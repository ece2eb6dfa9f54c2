"""Compiles what numba compiles, or loads what it kept, by looking at a few small models.

`python -m pricing.mesh.warm` after an installation leaves the machine code on disk. Workers are forked from a
process that has called `warm`, and so have the code from the start.
"""

import numpy as np
from numpy.typing import NDArray

from pricing.mesh.analysis import analyse

Facets = NDArray[np.float32]

_CORNERS = np.array([(0, 0, 0), (10, 0, 0), (0, 10, 0), (0, 0, 10)], np.float32)
_SOUND = _CORNERS[[(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]]
_TURNED = np.concatenate([_SOUND[:3], _SOUND[3:, ::-1]])
_OPEN = _SOUND[:3]


def warm() -> None:
    """Sound and broken surfaces, in single and in double precision: all that compiled functions meet."""
    for facets in (_SOUND, _TURNED, _OPEN):
        analyse(_binary_stl(facets))
        analyse(_ascii_stl(facets))


def _binary_stl(facets: Facets) -> bytes:
    records = b"".join(bytes(12) + facet.tobytes() + bytes(2) for facet in facets)
    return bytes(80) + len(facets).to_bytes(4, "little") + records


def _ascii_stl(facets: Facets) -> bytes:
    lines = ["solid warm"]
    for facet in facets:
        lines += ["facet normal 0 0 0", "outer loop"]
        lines += ["vertex {:.17g} {:.17g} {:.17g}".format(*corner) for corner in facet]
        lines += ["endloop", "endfacet"]
    return "\n".join([*lines, "endsolid warm", ""]).encode()


if __name__ == "__main__":
    warm()
