"""Facts that a caller supplies: a model as answers show it, as JSON, in place of its mesh."""

import math

import msgspec
from msgspec import UNSET

from pricing.errors import Refused
from pricing.facts import Facts, MeshWarning
from pricing.price.model_view import BodyView, ModelView, VerificationView, model_view

GIVEN_BYTES_MAX = 1 << 20
"""A model's facts are some 500 bytes; a longer document than this is refused unread."""

_REMEDY = (
    'Give {"volume_mm3": ..., "area_mm2": ..., "bbox_mm": [x, y, z]}, or a whole `model` as answers have it.'
)


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ModelView`, of which only the measures are needed; the defaults are those of one sound body."""

    volume_mm3: float | None
    area_mm2: float
    bbox_mm: tuple[float, float, float]
    bodies: int | None = 1
    closed: bool = True
    oriented: bool = True
    repaired: bool = False
    warnings: tuple[MeshWarning, ...] = ()
    sha256: str = ""
    format: str = "facts"
    bytes: int = 0
    facets: int = 0
    metal_mm3: float | None = None
    cavities_mm3: float | None = None
    counted_twice_mm3: float | None = None
    inside_out_mm3: float | None = None
    leaks: float | None = None
    bodies_found: tuple[BodyView, ...] = ()
    verification: VerificationView | None = None


class _Answer(msgspec.Struct, frozen=True):
    """An answer about a model, its price left aside."""

    model: _Given


def given_facts(data: bytes) -> tuple[ModelView, Facts]:
    """The model and its facts in a JSON document: a `model`, alone or with the price it once had.

    Refused `malformed_facts`, which covers numbers that no body has.
    """
    given = _decoded(data)
    volume_mm3 = given.volume_mm3
    if volume_mm3 is None and not (given.closed and given.oriented):
        volume_mm3 = math.prod(given.bbox_mm)  # it has none, and is for a person
    measures = (volume_mm3 or 0.0, given.area_mm2, *given.bbox_mm)
    if not all(math.isfinite(value) and value > 0 for value in measures):
        raise _malformed("Volume, area and the three lengths of the box must be greater than 0.")
    if given.bodies is not None and given.bodies < 1:
        raise _malformed("There must be at least one body.")
    facts = Facts(
        format=given.format,
        facets=given.facets,
        volume=volume_mm3 or 0.0,
        area=given.area_mm2,
        extent=given.bbox_mm,
        bodies=given.bodies,
        closed=given.closed,
        oriented=given.oriented,
        repaired=given.repaired,
        unit="mm",
        warnings=given.warnings,
        metal=given.metal_mm3,
        cavities=given.cavities_mm3 or 0.0,
        counted_twice=given.counted_twice_mm3 or 0.0,
        inside_out=given.inside_out_mm3 or 0.0,
        leaks=given.leaks,
    )
    model = model_view(given.sha256, given.bytes, facts, "mm")
    kept = {"bodies_found": given.bodies_found, "verification": given.verification or UNSET}
    return msgspec.structs.replace(model, **kept), facts


def _decoded(data: bytes) -> _Given:
    if len(data) > GIVEN_BYTES_MAX:
        raise _malformed(f"The document has {len(data)} bytes; at most {GIVEN_BYTES_MAX} are read.")
    try:
        raw = msgspec.json.decode(data)
        if isinstance(raw, dict) and "model" in raw:
            return msgspec.convert(raw, _Answer).model
        return msgspec.convert(raw, _Given)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"{error}.") from None


def _malformed(detail: str) -> Refused:
    return Refused("malformed_facts", detail, _REMEDY)
