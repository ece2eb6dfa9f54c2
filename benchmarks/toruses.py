"""Rings of any number of facets, as files."""

import numpy as np

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])
_HEADER_BYTES = 84


def torus_stl(facets: int, ring_mm: float = 10.0, tube_mm: float = 2.0) -> bytes:
    """A closed torus as binary STL, with two facets per cell of a grid round both circles."""
    cells_round = 2 * int((facets / 4) ** 0.5)
    cells_across = facets // 2 // cells_round
    around = np.linspace(0, 2 * np.pi, cells_round, endpoint=False)[:, None]
    across = np.linspace(0, 2 * np.pi, cells_across, endpoint=False)[None, :]
    distance = ring_mm + tube_mm * np.cos(across)
    points = np.stack(
        [distance * np.cos(around), distance * np.sin(around), tube_mm * np.sin(across) + 0 * around], axis=-1
    )
    right, up = np.roll(points, -1, axis=0), np.roll(points, -1, axis=1)
    both = np.roll(right, -1, axis=1)
    corners = np.concatenate([np.stack([points, right, both], 2), np.stack([points, both, up], 2)])
    records = np.zeros(corners.shape[0] * corners.shape[1], _FACET)
    records["corners"] = corners.reshape(-1, 3, 3)
    return b"benchmark".ljust(80) + len(records).to_bytes(4, "little") + records.tobytes()


def torus_ascii_stl(facets: int) -> bytes:
    """The same as text, as CAD programs write it."""
    lines = ["solid benchmark"]
    for facet in np.frombuffer(torus_stl(facets), _FACET, offset=_HEADER_BYTES)["corners"]:
        lines += ["  facet normal 0.0 0.0 0.0", "    outer loop"]
        lines += ["      vertex {:.6e} {:.6e} {:.6e}".format(*corner) for corner in facet]
        lines += ["    endloop", "  endfacet"]
    return "\n".join([*lines, "endsolid benchmark", ""]).encode()
