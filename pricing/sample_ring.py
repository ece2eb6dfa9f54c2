"""Rings for the demonstration: closed meshes of plausible size, as binary STL."""

import numpy as np
from numpy.typing import NDArray


def ring_stl(
    inner_radius_mm: float, band_mm: float, waves: int, wave_mm: float, around: int = 180, across: int = 24
) -> bytes:
    """A band around the finger whose thickness may wave. `around` x `across` x 2 facets, outward."""
    turn = np.linspace(0.0, 2.0 * np.pi, around, endpoint=False)[:, None]
    section = np.linspace(0.0, 2.0 * np.pi, across, endpoint=False)[None, :]
    thick = band_mm / 2 + wave_mm * (1.0 + np.sin(waves * turn)) / 2
    radius = inner_radius_mm + thick + thick * np.cos(section)
    points = np.stack(
        [
            radius * np.cos(turn),
            radius * np.sin(turn),
            np.broadcast_to(thick * np.sin(section), radius.shape),
        ],
        axis=-1,
    )
    return _stl(_facets(points))


def _facets(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two facets for each square of a closed grid: (2 n m, 3, 3) from (n, m, 3)."""
    right, up = np.roll(points, -1, axis=0), np.roll(points, -1, axis=1)
    diagonal = np.roll(right, -1, axis=1)
    first = np.stack([points, right, diagonal], axis=2)
    second = np.stack([points, diagonal, up], axis=2)
    return np.concatenate([first, second]).reshape(-1, 3, 3)


def _stl(facets: NDArray[np.float64]) -> bytes:
    record = np.zeros(len(facets), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
    record["corners"] = facets
    return b"Facet demonstration ring".ljust(80) + len(facets).to_bytes(4, "little") + record.tobytes()
