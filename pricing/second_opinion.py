"""What trimesh says of the same bytes: an opinion that shares no code with ours.

Its volume, area and box are held against our sums of the facets as they are in the file, before any repair or
union: there the two must be equal but for rounding. What it says of closedness and bodies is told and not
judged by, since it mends and unites nothing.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from pricing.facts import Facts, Opinion, OpinionState
from pricing.mesh.measures import SINGLE_PRECISION, Measures, distance_of, first_vertex, measure
from pricing.mesh.topology import WELD_FACETS_MAX
from pricing.readers.corners import OTHERWISE, Contents
from pricing.readers.read import Opened, open_model

if TYPE_CHECKING:
    from trimesh import Trimesh

AGREEMENT = 1e-6
"""Volumes, areas and extents are equal when they differ by no more than this share, and what single precision
leaves open at the model's distance."""

BY = f"trimesh {version('trimesh')}"

_TEXTS = frozenset({"stl-ascii", "obj", "off"})
_BARE_RETURN = re.compile(rb"\r(?!\n)")
_INDENTED = re.compile(rb"^[ \t]+[fv][ \t]", re.MULTILINE)

_FILE_TYPES = {"stl-binary": "stl", "stl-ascii": "stl_ascii"}
"""Where trimesh calls a format otherwise."""


def second_opinion(source: bytes | memoryview, facts: Facts) -> Opinion:
    """Of a file with these facts. Refused as `pricing.mesh.analysis.analyse` does."""
    opened = open_model(memoryview(source).cast("B").toreadonly())
    contents = opened.read(opened.body)
    ours = measure(contents.corners)  # a fault of ours is not what trimesh cannot do
    with _silenced():
        try:
            mesh = _read_by_trimesh(opened)
            if not len(mesh.faces):
                return _opinion("not_possible", "trimesh finds no facets in it.")
            return _compared(mesh, ours, opened, contents, facts)
        except MemoryError:
            raise
        except Exception as error:  # whatever a library says of a file that it cannot read
            said = f"trimesh does not read it: {type(error).__name__}: {error}"
            return _opinion("not_possible", said[:200])


def import_trimesh() -> None:
    """A second, which a process that asks often spends before."""
    import trimesh  # noqa: F401


def _opinion(state: OpinionState, reason: str | None, mesh: "Trimesh | None" = None) -> Opinion:
    now = datetime.now(UTC)
    if mesh is None:
        return Opinion(state=state, by=BY, at=now, reason=reason)
    volume, closed, bodies = float(mesh.volume), bool(mesh.is_watertight), int(mesh.body_count)
    return Opinion(state=state, by=BY, at=now, reason=reason, volume=volume, closed=closed, bodies=bodies)


def _known_otherwise(opened: Opened, contents: Contents) -> str:
    """Why trimesh is known to read such a file otherwise, in sentences; the columns decide alone then."""
    known = [OTHERWISE[code] for code in contents.otherwise]
    if any(warning.code == "parts_left_out" for warning in contents.remarks):
        known.append("What is left out here is taken for metal.")
    if opened.format in _TEXTS and _BARE_RETURN.search(opened.body):
        known.append("A carriage return alone is not taken for the end of a line.")
    if opened.format == "off" and not _has_one_a_line(opened.body):
        known.append("Vertices and facets are taken to stand on a line each.")
    if opened.format == "obj" and _INDENTED.search(opened.body):
        known.append("Lines that begin with blanks are passed over.")
    return " ".join(known)


def _has_one_a_line(off: bytes | memoryview) -> bool:
    """Whether an OFF has each vertex and each facet on a line of its own, as programs write it."""
    lines = [words for line in bytes(off).splitlines() if (words := line.partition(b"#")[0].split())]
    try:
        vertices, facets = int(lines[1][0]), int(lines[1][1])
        points, sides = lines[2 : 2 + vertices], lines[2 + vertices :]
        whole = all(len(words) == int(words[0]) + 1 for words in sides[:facets])
    except (IndexError, ValueError):
        return False
    return len(lines[0]) == 1 and len(sides) == facets and {len(words) for words in points} == {3} and whole


def _read_by_trimesh(opened: Opened) -> "Trimesh":
    """The facets as they are in the file, nothing merged. Its own reader; the format is the one we found.
    Materials are passed over: they are pictures, and other files."""
    import trimesh

    kind = _FILE_TYPES.get(opened.format, opened.format)
    file = io.BytesIO(opened.body)
    mesh = trimesh.load_scene(file, file_type=kind, process=False, skip_materials=True).to_mesh()
    if not isinstance(mesh, trimesh.Trimesh):
        raise TypeError(f"it is a {type(mesh).__name__}")
    return mesh


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """What a library says of a broken file is for nobody's log."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _compared(mesh: "Trimesh", ours: Measures, opened: Opened, contents: Contents, facts: Facts) -> Opinion:
    # About the point that ours is taken about: the sums of an open surface depend on it.
    mesh.apply_translation(-first_vertex(contents.corners))
    found = " ".join(_differences(mesh, ours, facts))
    if len(mesh.faces) <= WELD_FACETS_MAX:
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
    if found and (known := _known_otherwise(opened, contents)):
        return _opinion("not_possible", f"trimesh is known to read this otherwise. {known} {found}", mesh)
    return _opinion("differs" if found else "agreed", found or None, mesh)


def _differences(mesh: "Trimesh", ours: Measures, facts: Facts) -> Iterator[str]:
    blur = SINGLE_PRECISION * distance_of(ours)
    volume = float(mesh.volume) if ours.edges_cancel else _tetrahedra(mesh)
    if not _equal(volume, ours.signed_volume, blur * ours.area):
        yield f"The volume is {volume:.9g}, not {ours.signed_volume:.9g}."
    # A corner that is moved changes a facet's area by the length of the edges there, however thin it is.
    area = float(mesh.area)
    if not (_equal(area, ours.area, 0.0) or _equal(area, ours.area, blur * _edge_lengths(mesh))):
        yield f"The area is {area:.9g}, not {ours.area:.9g}."
    for axis, theirs, own in zip("xyz", mesh.extents, ours.upper - ours.lower, strict=True):
        if not _equal(float(theirs), float(own), 2 * blur):
            yield f"The extent in {axis} is {theirs:.9g}, not {own:.9g}."
    plain = facts.closed and facts.oriented and not facts.warnings and not facts.cavities
    mended = facts.volume_error * facts.volume
    if plain and not _equal(facts.volume, abs(ours.signed_volume), mended):
        yield f"The facts say {facts.volume:.9g}, the facets of the file {abs(ours.signed_volume):.9g}."


def _tetrahedra(mesh: "Trimesh") -> float:
    """Of trimesh's facets, as ours are summed: where a surface is open, or turns, its own formula gives
    another sum."""
    one, two, three = np.moveaxis(np.asarray(mesh.triangles, np.float64), 1, 0)
    return float(np.einsum("ij,ij->", one, np.cross(two, three))) / 6


def _edge_lengths(mesh: "Trimesh") -> float:
    """Of all facets together, each edge as often as it is in one."""
    corners = np.asarray(mesh.triangles, np.float64)
    edges = corners - np.roll(corners, 1, axis=1)
    return float(np.sqrt(np.einsum("fij,fij->fi", edges, edges)).sum())


def _equal(one: float, other: float, blur: float) -> bool:
    return abs(one - other) <= AGREEMENT * max(abs(one), abs(other)) + blur
