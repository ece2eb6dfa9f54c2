"""A model as callers see it: facts in millimetres."""

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from pricing.facts import Body, Decision, Facts, MeshWarning, Opinion
from pricing.price.firmness import effective_unit
from pricing.units import MILLIMETRES_PER_UNIT

VerificationState = Literal["pending", "agreed", "differs", "not_possible"]


class VerificationView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What another program reads in the same bytes. `closed` and `bodies` are told, not judged by; `reason`:
    why it differs, or why there is no opinion; `decided`: by a person, where they differ."""

    state: VerificationState
    by: str | None = None
    volume_mm3: float | None = None
    closed: bool | None = None
    bodies: int | None = None
    at: datetime | None = None
    reason: str | None = None
    decided: Decision | None = None


class BodyView(msgspec.Struct, frozen=True, kw_only=True):
    """One of several bodies, as it is in the file: where it lies, and its number for `leave_out`."""

    index: int
    facets: int
    volume_mm3: float | None
    lower_mm: tuple[float, float, float]
    upper_mm: tuple[float, float, float]
    closed: bool


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one file in mm, mm2 and mm3; numbers carry twelve significant digits. `volume_mm3`: solids
    less cavities, shared metal once; None where the surface encloses no definite volume. `metal_mm3`: the
    same as columns find it. `leaks`: the share of columns that found an opening."""

    sha256: str
    format: str
    bytes: int
    facets: int
    volume_mm3: float | None
    area_mm2: float
    bbox_mm: tuple[float, float, float]
    bodies: int | None
    closed: bool
    oriented: bool
    repaired: bool
    warnings: tuple[MeshWarning, ...]
    metal_mm3: float | None = None
    cavities_mm3: float | None = None
    counted_twice_mm3: float | None = None
    inside_out_mm3: float | None = None
    leaks: float | None = None
    bodies_found: tuple[BodyView, ...] = ()
    verification: VerificationView | UnsetType = UNSET


def model_view(
    sha256: str, byte_count: int, facts: Facts, units: str, opinion: Opinion | UnsetType | None = UNSET
) -> ModelView:
    """The view of `facts` under the declared `units`, else the file's own. `opinion`: None while it is
    pending, UNSET where none is asked for. Refused `unknown_unit`."""
    scale_mm = float(MILLIMETRES_PER_UNIT[effective_unit(facts, units)])
    volume, metal, cavities, twice, inside_out = (
        None if amount is None else _rounded(amount * scale_mm**3)
        for amount in (facts.volume, facts.metal, facts.cavities, facts.counted_twice, facts.inside_out)
    )
    width, depth, height = (_rounded(length * scale_mm) for length in facts.extent)
    return ModelView(
        sha256=sha256,
        format=facts.format,
        bytes=byte_count,
        facets=facts.facets,
        volume_mm3=volume if facts.closed and facts.oriented else None,
        area_mm2=_rounded(facts.area * scale_mm**2),
        bbox_mm=(width, depth, height),
        bodies=facts.bodies,
        closed=facts.closed,
        oriented=facts.oriented,
        repaired=facts.repaired,
        warnings=facts.warnings,
        metal_mm3=metal if facts.closed and facts.oriented else None,
        cavities_mm3=cavities,
        counted_twice_mm3=twice,
        inside_out_mm3=inside_out,
        leaks=facts.leaks,
        bodies_found=tuple(_body_view(body, scale_mm) for body in facts.bodies_found),
        verification=_verification_view(opinion, scale_mm),
    )


def _body_view(body: Body, scale_mm: float) -> BodyView:
    def placed(point: tuple[float, float, float]) -> tuple[float, float, float]:
        x, y, z = point
        return _rounded(x * scale_mm), _rounded(y * scale_mm), _rounded(z * scale_mm)

    return BodyView(
        index=body.index,
        facets=body.facets,
        volume_mm3=_rounded(body.volume * scale_mm**3) if body.closed else None,
        lower_mm=placed(body.lower),
        upper_mm=placed(body.upper),
        closed=body.closed,
    )


def _verification_view(opinion: Opinion | UnsetType | None, scale_mm: float) -> VerificationView | UnsetType:
    if opinion is UNSET:
        return UNSET
    if opinion is None:
        return VerificationView(state="pending")
    return VerificationView(
        state=opinion.state,
        by=opinion.by,
        volume_mm3=None if opinion.volume is None else _rounded(opinion.volume * scale_mm**3),
        closed=opinion.closed,
        bodies=opinion.bodies,
        at=opinion.at,
        reason=opinion.reason,
        decided=opinion.decided,
    )


def _rounded(value: float) -> float:
    # Sums of a million facets carry some twelve true digits; more would change with the order of the facets.
    return float(f"{value:.12g}")
