"""From the bytes of a file to its facts: what kind of file, its facets, its surface, its bodies."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from pricing.errors import Refused
from pricing.facts import REPAIRS, Body, Facts, MeshWarning
from pricing.mesh.bodies import list_bodies, without_bodies
from pricing.mesh.columns import ACROSS_FINE, COLUMNS_SHARE, MET_MIN, Columns, Turn, measure_columns, turn_of
from pricing.mesh.measures import (
    EXACT,
    SINGLE_PRECISION,
    Grid,
    Measures,
    distance_of,
    edge_residues,
    measure,
)
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
from pricing.readers.formats import check_content_type
from pricing.readers.read import open_model

COORDINATE_MAX = 1e9
"""Largest coordinate accepted, in the file's unit: beyond, single precision says nothing about a ring."""


# Widths of the comparison grid, as shares of the largest extent, from fine to coarse; each is also tried
# half a cell off. They are not round so that the faces of a model, which lie on round numbers, do not fall
# on the border of a cell.
_GRID_SHARES = (1.13e-7, 1.07e-6, 1.09e-5)
_GRID_SHIFTS = (0.381966, 0.881966)

TWICE_ERROR = 5e-3
"""What columns may be wrong by where bodies overlap, as a share of the overlap."""

EDGES_MEET_ERROR = 5e-4
"""What fine columns may be wrong by where they alone say the volume, as a share of it."""

LEAKS_MAX = 1e-4
"""Of the columns that meet the model this share may find an opening: three in a ring."""

SOME_TURN = turn_of(hashlib.sha256(b"").digest())
"""For facets without a file."""


class _Surface(NamedTuple):
    """How the edges of a mesh pair up, and the comparison of positions under which they do."""

    closed: bool
    oriented: bool
    grid: Grid


class _Solid(NamedTuple):
    """What the mesh comes to once its facets share vertices. `corners`: its facets after the repair, `sums`
    their signed volume; `error`: the share of the volume that mending has changed."""

    volume: float
    area: float
    bodies: int | None
    closed: bool
    oriented: bool
    warnings: list[MeshWarning]
    corners: Corners
    sums: float
    cavities: float = 0.0
    bodies_found: tuple[Body, ...] = ()
    error: float = 0.0


def analyse(
    source: bytes | memoryview,
    content_type: str | None = None,
    sha256: str | None = None,
    leave_out: Sequence[int] = (),
) -> Facts:
    """Facts of a model file, or Refused with a code, what is wrong and what to do.

    `source` is only read, in place for binary STL. `content_type`, when it is a `model/*` type, must not
    contradict the content. `sha256` is that of the source, where it is known. `leave_out`: bodies that are no
    metal, as `bodies_found` numbers them; Refused `unknown_body`.
    """
    body = memoryview(source).cast("B").toreadonly()
    opened = open_model(body)
    check_content_type(content_type, opened.format)
    contents = opened.read(opened.body)
    turn = turn_of(bytes.fromhex(sha256) if sha256 else hashlib.sha256(body).digest())
    corners, remarks = contents.corners, (*opened.remarks, *contents.remarks)
    if leave_out:
        corners, remarks = _without(corners, leave_out), (*remarks, _left_out(leave_out))
    facts = facts_of(corners, opened.format, contents.unit, remarks, turn)
    # Numbers of what is left would be other numbers.
    return msgspec.structs.replace(facts, bodies_found=()) if leave_out else facts


def _without(corners: Corners, leave_out: Sequence[int]) -> Corners:
    _check_count(len(corners))
    measures = measure(corners)
    _check_box(measures)
    if len(corners) > WELD_FACETS_MAX:
        said = f"The mesh has {len(corners)} facets; bodies are told apart up to {WELD_FACETS_MAX}."
        raise Refused("unknown_body", said, "Leave the bodies out when exporting.")
    return without_bodies(weld(corners, _surface(corners, measures).grid), corners, leave_out)


def _left_out(leave_out: Sequence[int]) -> MeshWarning:
    bodies = "body" if len(leave_out) == 1 else "bodies"
    said = f"Left out, and no metal: {bodies} {', '.join(map(str, leave_out))}."
    return MeshWarning("bodies_left_out", said)


def facts_of(
    corners: Corners,
    found: str,
    unit: str | None,
    remarks: tuple[MeshWarning, ...] = (),
    turn: Turn = SOME_TURN,
) -> Facts:
    """Facts of triangles already read, shape (n, 3, 3).

    Refused `no_facets`, `too_many_facets`, `not_finite`, `coordinate_limit`.
    """
    _check_count(len(corners))
    measures = measure(corners)
    _check_box(measures)
    solid = _solid(corners, measures, _surface(corners, measures), turn)
    columns = _columns(solid, turn)
    if columns is not None:
        solid, columns = _by_columns(solid, columns, turn)
    warnings = (*remarks, *solid.warnings, *_column_warnings(columns), *_precision_warnings(measures, solid))
    return Facts(
        format=found,
        facets=len(corners),
        volume=solid.volume,
        area=solid.area,
        extent=_extent(measures),
        bodies=solid.bodies,
        closed=solid.closed,
        oriented=solid.oriented,
        repaired=any(warning.code in REPAIRS for warning in warnings),
        unit=unit,
        warnings=warnings,
        metal=None if columns is None else columns.metal_beside(solid.sums),
        cavities=solid.cavities,
        counted_twice=0.0 if columns is None else columns.counted_twice,
        inside_out=0.0 if columns is None else columns.inside_out,
        leaks=None if columns is None else columns.leaks,
        bodies_found=solid.bodies_found,
        volume_error=min(1.0, solid.error + _precision_error(measures, solid)),
    )


def _columns(solid: _Solid, turn: Turn) -> Columns | None:
    columns = measure_columns(solid.corners, turn)
    if columns is None or not (solid.closed and solid.oriented):
        return columns
    beside = max(columns.counted_twice, columns.inside_out)
    if columns.met >= MET_MIN and beside <= COLUMNS_SHARE * columns.metal:
        return columns
    return measure_columns(solid.corners, turn, ACROSS_FINE) or columns


def _column_warnings(columns: Columns | None) -> list[MeshWarning]:
    if columns is not None:
        return []
    said = "There is too much to look at for columns: what passes through itself may count twice."
    return [MeshWarning("metal_unchecked", said)]


def _by_columns(solid: _Solid, columns: Columns, turn: Turn) -> tuple[_Solid, Columns]:
    """Sums and columns agree, or a body passes through itself: then the columns say what metal there is."""
    if not solid.closed:
        return _without_leaks(solid, columns, turn)
    metal = columns.metal_beside(solid.sums)
    error = TWICE_ERROR * (columns.counted_twice + columns.inside_out)
    if not solid.oriented or abs(metal - solid.volume) <= COLUMNS_SHARE * solid.volume + error:
        return solid, columns
    if any(warning.code == "bodies_unchecked" for warning in solid.warnings):
        return solid._replace(volume=metal), columns
    said = (
        f"The surface passes through itself: columns find {metal:.6g} of metal, the sums {solid.volume:.6g}."
        " The area counts what lies inside."
    )
    warnings = [*solid.warnings, MeshWarning("self_crossing", said)]
    return solid._replace(volume=metal, warnings=warnings), columns


def _without_leaks(solid: _Solid, columns: Columns, turn: Turn) -> tuple[_Solid, Columns]:
    """An open surface whose openings no column finds encloses what the columns say it does. They are looked
    for from three sides: a hole that is seen from its edge is none."""
    beside = columns.inside_out + columns.counted_twice
    if columns.leaks > LEAKS_MAX or not columns.metal > 0 or beside > COLUMNS_SHARE * columns.metal:
        return solid, columns
    for side in (1, 2):
        found = measure_columns(solid.corners, np.roll(turn, side, axis=0))
        if found is None or found.leaks > LEAKS_MAX:
            return solid, columns
    # The sums of an open surface depend on the origin: here the columns alone say the volume.
    if (fine := measure_columns(solid.corners, turn, ACROSS_FINE)) is None:
        return solid, columns
    said = "No column finds a way in through the open edges: they are cracks or T-junctions."
    warnings = [*solid.warnings, MeshWarning("edges_meet", said)]
    volume, sums = fine.metal, fine.signed
    solid = solid._replace(volume=volume, sums=sums, closed=True, oriented=True, warnings=warnings)
    solid = solid._replace(error=EDGES_MEET_ERROR)
    return solid, fine


def _precision_warnings(measures: Measures, solid: _Solid) -> list[MeshWarning]:
    """Whether single precision at the model's distance is fine enough for its volume."""
    if _precision_error(measures, solid) <= COLUMNS_SHARE:
        return []
    distance = distance_of(measures)
    said = f"The model lies up to {distance:.3g} from the origin: there its coordinates are too coarse."
    return [MeshWarning("too_far_from_origin", said)]


def _precision_error(measures: Measures, solid: _Solid) -> float:
    """The share of the volume that single precision at the model's distance leaves open."""
    if not solid.volume > 0:
        return 0.0
    return solid.area * distance_of(measures) * SINGLE_PRECISION / 2 / solid.volume


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
    largest = distance_of(measures)
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
    distance = distance_of(measures)
    finest = 4 * SINGLE_PRECISION * distance
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


def _solid(corners: Corners, measures: Measures, surface: _Surface, turn: Turn) -> _Solid:
    if len(corners) > WELD_FACETS_MAX:
        said = f"The mesh has {len(corners)} facets; bodies are counted up to {WELD_FACETS_MAX}."
        return _measured(corners, measures, surface, None, [MeshWarning("bodies_not_counted", said)])
    whole = weld(corners, surface.grid)
    welded, warnings = _with_areas(whole)
    vertices = len(welded.places)
    bodies = bodies_of(welded.faces, vertices).number
    solid = _told(corners, measures, surface, welded, bodies, warnings, turn)
    return solid._replace(bodies_found=list_bodies(whole, corners)) if bodies > 1 else solid


def _told(
    corners: Corners,
    measures: Measures,
    surface: _Surface,
    welded: Welded,
    bodies: int,
    warnings: list[MeshWarning],
    turn: Turn,
) -> _Solid:
    edges = match_edges(welded.faces, len(welded.places))
    if edges.sound:
        return _sound(measures, welded, corners, edges, bodies, warnings, turn)
    mesh = mesh_of(welded, corners)
    if (repaired := repair(mesh, max(_extent(measures)))) is not None:
        return _repaired(repaired, warnings, turn)
    return _measured(corners, measures, surface, bodies, [*warnings, *_edge_warnings(mesh, corners, edges)])


def _with_areas(welded: Welded) -> tuple[Welded, list[MeshWarning]]:
    """Without the facets that have two equal corners: they border nothing."""
    faces = with_areas(welded.faces)
    if not (left_out := len(welded.faces) - len(faces)):
        return welded, []
    said = f"{left_out} facets with two equal corners are left out."
    return Welded(faces, welded.places), [MeshWarning("degenerate_facets", said)]


def _measured(
    corners: Corners,
    measures: Measures,
    surface: _Surface,
    bodies: int | None,
    warnings: list[MeshWarning],
) -> _Solid:
    """The sums of all facets as they are in the file."""
    if surface.oriented and measures.signed_volume < 0:
        warnings = [*warnings, MeshWarning("inverted", INVERTED)]
    volume, (closed, oriented, _) = abs(measures.signed_volume), surface
    return _Solid(volume, measures.area, bodies, closed, oriented, warnings, corners, volume)


def _sound(
    measures: Measures,
    welded: Welded,
    corners: Corners,
    edges: Edges,
    bodies: int,
    warnings: list[MeshWarning],
    turn: Turn,
) -> _Solid:
    """Nothing to repair; but several bodies may overlap."""
    parts = parts_of(welded.faces, edges)
    if parts.number <= 1:
        return _measured(corners, measures, _Surface(True, True, EXACT), bodies, warnings)
    return _sized(size_of(mesh_of(welded, corners), parts, turn), bodies, warnings)


def _repaired(repaired: Repair, warnings: list[MeshWarning], turn: Turn) -> _Solid:
    mesh = repaired.mesh
    bodies = bodies_of(mesh.faces, len(mesh.positions)).number
    solid = _sized(size_of(mesh, repaired.parts, turn), bodies, [*warnings, *repaired.warnings])
    return solid._replace(error=repaired.changed)


def _sized(size: Size, bodies: int, warnings: list[MeshWarning]) -> _Solid:
    warnings = [*warnings, *size.warnings]
    bodies = bodies if size.bodies is None else size.bodies
    corners = size.mesh.positions[size.mesh.faces]
    return _Solid(
        size.volume, size.area, bodies, True, size.oriented, warnings, corners, size.sums, size.cavities
    )


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
