"""What is known about a mesh from its bytes alone: the first of the two steps to a price.

Lengths are in the file's own unit. Nothing here depends on the caller's units, the material or the day, so
facts may be kept under the hash of the bytes and `ANALYSER_VERSION`.
"""

import math
from datetime import datetime
from typing import Literal

import msgspec

ANALYSER_VERSION = "4"
"""Part of the key facts are kept under: raise it whenever the same bytes may give other facts."""

FLATNESS = 1e-12
"""A mesh whose volume is below this share of area^1.5 encloses nothing (a cube has 0.068)."""

REPAIRS = frozenset(
    {
        "bodies_overlap",
        "bodies_touch",
        "cracks_closed",
        "degenerate_facets",
        "duplicate_facets",
        "flipped_facets",
        "inverted_bodies",
        "stray_facets",
    }
)
"""Warnings that say the surface was not taken as it is in the file."""


FROM_ARCHIVE = "from_archive"
"""The warning that the file is a ZIP archive of one model."""


class MeshWarning(msgspec.Struct, frozen=True, omit_defaults=True):
    """A stable `code`, and what was seen. `query`: parameters of a request that would mend it."""

    code: str
    detail: str
    query: str = ""


OpinionState = Literal["agreed", "differs", "not_possible"]


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of a person who has looked: whether our facts are right."""

    accepted: bool
    by: str
    at: datetime
    comment: str | None = None


class Opinion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What another program reads in the same bytes, in the file's own unit (see `pricing.second_opinion`).

    `closed` and `bodies` are told, and not judged by. `reason`: why it differs, or why there is none.
    `decided`: what a person has said of a difference.
    """

    state: OpinionState
    by: str
    at: datetime
    volume: float | None = None
    closed: bool | None = None
    bodies: int | None = None
    reason: str | None = None
    decided: Decision | None = None


SECOND_OPINION_DIFFERS = "second_opinion_differs"
"""The warning that another program reads the file differently, and nobody has decided who is right."""


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """One of several bodies, as it is in the file, in the file's own unit. `index`: from 1, in the order of
    their first facets."""

    index: int
    facets: int
    volume: float
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    closed: bool


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of one file, in its own unit.

    `closed` and `oriented` tell of the surface after its repair, and so do `volume` and `area`: the volume
    means something only when both hold. `bodies` is None when there were too many facets to count; `unit`
    is what the file states itself (3MF, GLB), None when the caller must say.

    `cavities`: what is hollow within, no part of the volume. The other four are what columns found (see
    `pricing.mesh.columns`): metal once, metal that the sums have twice, what faces inwards beside metal, and
    the share of columns that found an opening. None in facts of an earlier analyser, or of too many facets.

    `bodies_found`: the bodies as they are in the file, the first of them, where there are several.
    `volume_error`: the share of the volume that mending the surface may have changed, and that the precision
    of its numbers leaves open.
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
    metal: float | None = None
    cavities: float = 0.0
    counted_twice: float = 0.0
    inside_out: float = 0.0
    leaks: float | None = None
    bodies_found: tuple[Body, ...] = ()
    volume_error: float = 0.0


def encloses_nothing(facts: Facts) -> bool:
    """Whether the volume is zero but for rounding."""
    return not facts.volume > FLATNESS * math.pow(facts.area, 1.5)


PREVIEW_VERSION = "1"
"""Part of the name previews are kept under: raise it whenever the same file gives other bytes."""

PREVIEW_MEDIA_TYPE = "model/gltf-binary"
