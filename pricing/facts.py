"""What is known about a mesh from its bytes alone: the first of the two steps to a price.

Lengths are in the file's own unit. Nothing here depends on the caller's units, the material or the day, so
facts may be kept under the hash of the bytes and `ANALYSER_VERSION`.
"""

import math

import msgspec
import numpy as np

from pricing import formats, stl
from pricing.bodies import BODY_COUNT_FACETS_MAX, count_bodies
from pricing.errors import Refused
from pricing.facets import FACETS_MAX, FacetSource
from pricing.kernel import Grid, Measures, edge_residues, measure

ANALYSER_VERSION = "1"
"""Part of the key facts are kept under: raise it whenever the same bytes may give other facts."""

COORDINATE_MAX = 1e9
"""Largest coordinate accepted, in the file's unit: beyond, single precision says nothing about a ring."""

FLATNESS = 1e-12
"""A mesh whose volume is below this share of area^1.5 encloses nothing (a cube has 0.068)."""

# Widths of the comparison grid, as shares of the largest extent, from fine to coarse; each is also tried
# half a cell off. They are not round so that the faces of a model, which lie on round numbers, do not fall
# on the border of a cell.
_GRID_SHARES = (1.13e-7, 1.07e-6, 1.09e-5)
_GRID_SHIFTS = (0.381966, 0.881966)
_SINGLE_PRECISION = 1.2e-7


class MeshWarning(msgspec.Struct, frozen=True):
    """Something a person should know about a mesh: a stable `code`, and what was seen."""

    code: str
    detail: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of one file, in its own unit.

    `volume` is the absolute value of the signed sum and means something only when `closed` and `oriented`;
    `bodies` is None when there were too many facets to count; `unit` is what the file states itself (3MF,
    GLB), None when the caller must say.
    """

    format: str
    facets: int
    volume: float
    area: float
    extent: tuple[float, float, float]
    bodies: int | None
    closed: bool
    oriented: bool
    repaired: bool
    unit: str | None
    warnings: tuple[MeshWarning, ...]


class _Surface(msgspec.Struct, frozen=True):
    """How the edges of a mesh pair up, and the comparison of positions under which they do."""

    closed: bool
    oriented: bool
    grid: Grid | None


def analyse(source: bytes | memoryview, content_type: str | None = None) -> Facts:
    """Facts of a model file, or Refused with a code, what is wrong and what to do.

    `source` is only read, in place for binary STL. `content_type`, when it is a `model/*` type, must not
    contradict the content.
    """
    body = memoryview(source).cast("B").toreadonly()
    found = formats.detect(bytes(body[: formats.HEAD_BYTES]), len(body))
    formats.check_content_type(content_type, found)
    facets, unit = _read(found, body)
    return facts_of(facets, found, unit)


def _read(found: str, body: memoryview) -> tuple[FacetSource, str | None]:
    """The facets of `body` and the unit it states."""
    if found == "stl-binary":
        return stl.read_binary(body), None
    if found == "stl-ascii":
        return stl.read_ascii(body), None
    # The other readers need trimesh and lxml, which take a second to import.
    from pricing import meshes

    return meshes.read(found, body)


def facts_of(source: FacetSource, found: str, unit: str | None) -> Facts:
    """Facts of triangles already read.

    Refused `no_facets`, `too_many_facets`, `not_finite`, `coordinate_limit`.
    """
    _check_count(source.count)
    measures = measure(source)
    _check_box(measures)
    surface = _surface(source, measures)
    bodies, warnings = _bodies(source, surface)
    if surface.oriented and measures.signed_volume < 0:
        warnings.append(
            MeshWarning("inverted", "All facets face inwards; the volume is taken without its sign.")
        )
    return Facts(
        format=found,
        facets=source.count,
        volume=abs(measures.signed_volume),
        area=measures.area,
        extent=_extent(measures),
        bodies=bodies,
        closed=surface.closed,
        oriented=surface.oriented,
        repaired=False,
        unit=unit,
        warnings=tuple(warnings),
    )


def encloses_nothing(facts: Facts) -> bool:
    """Whether the volume is zero but for rounding."""
    return not facts.volume > FLATNESS * math.pow(facts.area, 1.5)


def _extent(measures: Measures) -> tuple[float, float, float]:
    x, y, z = (float(length) for length in measures.upper - measures.lower)
    return x, y, z


def _check_count(count: int) -> None:
    if count == 0:
        raise Refused(
            "no_facets", "The file holds no facets.", "Check that the model was selected when exporting."
        )
    if count > FACETS_MAX:
        raise Refused(
            "too_many_facets",
            f"The mesh has {count} facets; at most {FACETS_MAX} are read.",
            "Export it with a coarser tolerance.",
        )


def _check_box(measures: Measures) -> None:
    corners = np.concatenate([measures.lower, measures.upper])
    if not np.isfinite(corners).all():
        raise Refused(
            "not_finite",
            "At least one coordinate is not a finite number.",
            "Repair the model and export it again.",
        )
    largest = float(np.abs(corners).max())
    if largest > COORDINATE_MAX:
        raise Refused(
            "coordinate_limit",
            f"A coordinate is {largest:.3g}; at most {COORDINATE_MAX:.0e} is accepted.",
            "Move the model to the origin and check its unit.",
        )


def _grids(measures: Measures) -> list[Grid]:
    """Grids from fine to coarse, none finer than what single precision can tell apart at the mesh's
    distance."""
    size = float((measures.upper - measures.lower).max())
    distance = float(np.abs(np.concatenate([measures.lower, measures.upper])).max())
    finest = 4 * _SINGLE_PRECISION * distance
    steps = {max(share * size, finest) for share in _GRID_SHARES}
    return [Grid(step, shift) for step in sorted(steps) if step > 0 for shift in _GRID_SHIFTS]


def _surface(source: FacetSource, measures: Measures) -> _Surface:
    """Compare positions exactly, then on ever coarser grids, before a mesh is called open.

    Exporters write one position with different last digits: bit for bit, a third of good CAD files look open.
    """
    if measures.edges_cancel:
        return _Surface(True, True, None)
    comparisons: list[Grid | None] = [None, *_grids(measures)]
    closed_by: list[Grid | None] = []
    for grid in comparisons:
        residues = edge_residues(source, grid)
        if residues.directed_cancel:
            return _Surface(True, True, grid)
        if residues.undirected_cancel:
            closed_by.append(grid)
    if closed_by:
        return _Surface(True, False, closed_by[0])
    return _Surface(False, False, comparisons[-1])


def _bodies(source: FacetSource, surface: _Surface) -> tuple[int | None, list[MeshWarning]]:
    """The number of bodies with what the count brought to light."""
    if source.count > BODY_COUNT_FACETS_MAX:
        return None, [
            MeshWarning(
                "bodies_not_counted",
                f"The mesh has {source.count} facets; bodies are counted up to {BODY_COUNT_FACETS_MAX}.",
            )
        ]
    counted = count_bodies(source, surface.grid)
    warnings = []
    if counted.edges_shared:
        warnings.append(
            MeshWarning(
                "edges_shared",
                f"{counted.edges_shared} edges belong to more than two facets: bodies touch or overlap.",
            )
        )
    return counted.bodies, warnings
