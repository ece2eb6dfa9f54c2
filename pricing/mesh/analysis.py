"""From the bytes of a file to its facts: what kind of file, its facets, its surface, its bodies."""

from typing import NamedTuple

import numpy as np

from pricing.errors import Refused
from pricing.facts import REPAIRS, Facts, MeshWarning
from pricing.mesh.measures import EXACT, Grid, Measures, edge_residues, measure
from pricing.mesh.overlaps import INVERTED, Size, size_of
from pricing.mesh.repair import Repair, repair
from pricing.mesh.topology import (
    FREE,
    WELD_FACETS_MAX,
    Edges,
    Mesh,
    Welded,
    bodies_of,
    match_edges,
    mesh_of,
    parts_of,
    weld,
    with_areas,
)
from pricing.readers.corners import FACETS_MAX, Corners
from pricing.readers.read import read_model

COORDINATE_MAX = 1e9
"""Largest coordinate accepted, in the file's unit: beyond, single precision says nothing about a ring."""


# Widths of the comparison grid, as shares of the largest extent, from fine to coarse; each is also tried
# half a cell off. They are not round so that the faces of a model, which lie on round numbers, do not fall
# on the border of a cell.
_GRID_SHARES = (1.13e-7, 1.07e-6, 1.09e-5)
_GRID_SHIFTS = (0.381966, 0.881966)
_SINGLE_PRECISION = 1.2e-7


class _Surface(NamedTuple):
    """How the edges of a mesh pair up, and the comparison of positions under which they do."""

    closed: bool
    oriented: bool
    grid: Grid


class _Solid(NamedTuple):
    """What the mesh comes to once its facets share vertices."""

    volume: float
    area: float
    bodies: int | None
    closed: bool
    oriented: bool
    warnings: list[MeshWarning]


def analyse(source: bytes | memoryview, content_type: str | None = None) -> Facts:
    """Facts of a model file, or Refused with a code, what is wrong and what to do.

    `source` is only read, in place for binary STL. `content_type`, when it is a `model/*` type, must not
    contradict the content.
    """
    body = memoryview(source).cast("B").toreadonly()
    found, contents = read_model(body, content_type)
    return facts_of(contents.corners, found, contents.unit, contents.remarks)


def facts_of(corners: Corners, found: str, unit: str | None, remarks: tuple[MeshWarning, ...] = ()) -> Facts:
    """Facts of triangles already read, shape (n, 3, 3).

    Refused `no_facets`, `too_many_facets`, `not_finite`, `coordinate_limit`.
    """
    _check_count(len(corners))
    measures = measure(corners)
    _check_box(measures)
    solid = _solid(corners, measures, _surface(corners, measures))
    return Facts(
        format=found,
        facets=len(corners),
        volume=solid.volume,
        area=solid.area,
        extent=_extent(measures),
        bodies=solid.bodies,
        closed=solid.closed,
        oriented=solid.oriented,
        repaired=any(warning.code in REPAIRS for warning in solid.warnings),
        unit=unit,
        warnings=(*remarks, *solid.warnings),
    )


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
    if not measures.finite:
        raise Refused(
            "not_finite",
            "At least one coordinate is not a finite number.",
            "Repair the model and export it again.",
        )
    largest = float(np.abs(np.concatenate([measures.lower, measures.upper])).max())
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


def _surface(corners: Corners, measures: Measures) -> _Surface:
    """Compare positions exactly, then on ever coarser grids, before a mesh is called open.

    Exporters write one position with different last digits: bit for bit, a third of good CAD files look open.
    """
    if measures.edges_cancel:
        return _Surface(True, True, EXACT)
    grids = _grids(measures)
    closed_by: list[Grid] = []
    for grid in (EXACT, *grids):
        residues = edge_residues(corners, grid)
        if residues.directed_cancel:
            return _Surface(True, True, grid)
        if residues.undirected_cancel:
            closed_by.append(grid)
    if closed_by:
        return _Surface(True, False, closed_by[0])
    return _Surface(False, False, grids[len(grids) // 2] if grids else EXACT)


def _solid(corners: Corners, measures: Measures, surface: _Surface) -> _Solid:
    if len(corners) > WELD_FACETS_MAX:
        said = f"The mesh has {len(corners)} facets; bodies are counted up to {WELD_FACETS_MAX}."
        return _measured(measures, surface, None, [MeshWarning("bodies_not_counted", said)])
    welded, warnings = _with_areas(weld(corners, surface.grid))
    vertices = len(welded.places)
    edges = match_edges(welded.faces, vertices)
    bodies = bodies_of(welded.faces, vertices)
    if edges.sound:
        return _sound(measures, welded, corners, edges, bodies, warnings)
    mesh = mesh_of(welded, corners)
    if (repaired := repair(mesh, max(_extent(measures)))) is not None:
        return _repaired(repaired, warnings)
    return _measured(measures, surface, bodies, [*warnings, *_edge_warnings(mesh, corners, edges)])


def _with_areas(welded: Welded) -> tuple[Welded, list[MeshWarning]]:
    """Without the facets that have two equal corners: they border nothing."""
    faces = with_areas(welded.faces)
    if not (left_out := len(welded.faces) - len(faces)):
        return welded, []
    said = f"{left_out} facets with two equal corners are left out."
    return Welded(faces, welded.places), [MeshWarning("degenerate_facets", said)]


def _measured(
    measures: Measures, surface: _Surface, bodies: int | None, warnings: list[MeshWarning]
) -> _Solid:
    """The sums of all facets as they are in the file."""
    if surface.oriented and measures.signed_volume < 0:
        warnings = [*warnings, MeshWarning("inverted", INVERTED)]
    volume, (closed, oriented, _) = abs(measures.signed_volume), surface
    return _Solid(volume, measures.area, bodies, closed, oriented, warnings)


def _sound(
    measures: Measures,
    welded: Welded,
    corners: Corners,
    edges: Edges,
    bodies: int,
    warnings: list[MeshWarning],
) -> _Solid:
    """Nothing to repair; but several bodies may overlap."""
    parts = parts_of(welded.faces, edges)
    if parts.number <= 1:
        return _measured(measures, _Surface(True, True, EXACT), bodies, warnings)
    return _sized(size_of(mesh_of(welded, corners), parts), bodies, warnings)


def _repaired(repaired: Repair, warnings: list[MeshWarning]) -> _Solid:
    mesh = repaired.mesh
    bodies = bodies_of(mesh.faces, len(mesh.positions))
    return _sized(size_of(mesh, repaired.parts), bodies, [*warnings, *repaired.warnings])


def _sized(size: Size, bodies: int, warnings: list[MeshWarning]) -> _Solid:
    warnings = [*warnings, *size.warnings]
    bodies = bodies if size.bodies is None else size.bodies
    return _Solid(size.volume, size.area, bodies, True, size.oriented, warnings)


def _edge_warnings(mesh: Mesh, corners: Corners, edges: Edges) -> list[MeshWarning]:
    """Why a person has to look."""
    warnings = []
    if edges.free:
        facet, corner = (int(at[0]) for at in np.nonzero(edges.partners == FREE))
        x, y, z = mesh.positions[mesh.faces[facet, corner]] + corners[0, 0]
        said = f"{edges.free} edges belong to one facet only; the first is at ({x:.6g}, {y:.6g}, {z:.6g})."
        warnings.append(MeshWarning("open_edges", said))
    if edges.shared:
        said = f"{edges.shared} edges belong to more than two facets: bodies touch or overlap."
        warnings.append(MeshWarning("edges_shared", said))
    return warnings
