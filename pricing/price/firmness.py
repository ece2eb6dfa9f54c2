"""How firmly a mesh may be priced.

`auto`: a closed surface whose facets agree on what is inside, of a size a piece of jewellery has, bodies
known to be apart. `provisional`: a price can be computed, but a person should look (something was repaired,
bodies may overlap, the unit may be wrong). `manual`: the volume means nothing, a person prices it. Refused
only when there is nothing to cast at all.
"""

from decimal import Decimal
from typing import Literal

import msgspec

from pricing.errors import Refused
from pricing.facts import REPAIRS, SECOND_OPINION_DIFFERS, Facts, MeshWarning, encloses_nothing
from pricing.price.price_list import VOLUME_ERROR_MAX_PCT
from pricing.units import DECLARABLE_UNITS, MILLIMETRES_PER_UNIT, UNIT_NAMES, check_declared_unit

Priceable = Literal["auto", "provisional", "manual"]

EXTENT_MM_MIN = 5.0
"""A largest extent below this is suspicious: studs and jump rings have it, and so has much that was made in
another unit. A ring is 15 to 35 mm across."""

EXTENT_MM_MAX = 150.0
"""A largest extent above this is suspicious, unless the piece is flat and narrow, as chains and bracelets
are laid out: its second extent is at most NARROW_MM_MAX."""

NARROW_MM_MAX = 30.0

PLAUSIBLE_MM = (2.5, 600.0)
"""No piece has a largest extent beyond these: there is no amount. A ring made in metres or centimetres and
declared as millimetres has 0.02 or 2."""

LIKELY_MM = (5.0, 200.0)
"""The unit in which a piece has such an extent is nearly always the right one."""

VOLUME_MM3_MIN = 0.5
"""A smaller volume is suspicious: a jump ring of 5 mm has 3 mm3, and masses are rounded to a milligram."""

PLAUSIBLE_MM3_MIN = 0.06
"""A smaller one has no mass: half a milligram of the lightest alloy."""

_DOUBTFUL = (
    REPAIRS - {"bodies_overlap", "bodies_touch", "cracks_closed", "degenerate_facets", "stray_facets"}
) | {
    "bodies_not_counted",
    "bodies_unchecked",
    "metal_unchecked",
    "older_analysis",
    "self_crossing",
    "too_far_from_origin",
}
"""Warnings of the facts that take away the firmness of a price. A repair that was bound to change the volume
by less than is money does not, nor does an exact union."""


class Firmness(msgspec.Struct, frozen=True):
    """`warnings` are those of the facts, followed by what speaks against a firm price."""

    priceable: Priceable
    warnings: tuple[MeshWarning, ...]


def effective_unit(facts: Facts, units: str) -> str:
    """The unit lengths are in: what the caller declared, else what the file states, else millimetres. Refused
    `unknown_unit`."""
    return check_declared_unit(units) or facts.unit or "mm"


def firmness_of(facts: Facts, units: str, error_max_pct: Decimal = VOLUME_ERROR_MAX_PCT) -> Firmness:
    """Judge `facts` under the declared `units`. A firm price has a volume that is right to within
    `error_max_pct`. Refused `unknown_unit`, `zero_volume`."""
    unit = effective_unit(facts, units)
    if encloses_nothing(facts):
        raise Refused(
            "zero_volume",
            "The mesh encloses no volume.",
            "Give the surface a thickness, or close it, and export it again.",
        )
    obstacles = _obstacles(facts, unit)
    doubts = [] if obstacles else _size_doubts(facts, unit) + _error_doubts(facts, error_max_pct)
    doubtful = doubts or any(warning.code in _DOUBTFUL for warning in facts.warnings)
    disputed = any(warning.code == SECOND_OPINION_DIFFERS for warning in facts.warnings)
    priceable: Priceable = "manual" if obstacles or disputed else "provisional" if doubtful else "auto"
    notes = _notes(facts, unit) + (_hints(facts, unit) if _is_odd(obstacles + doubts) else [])
    return Firmness(priceable, (*facts.warnings, *obstacles, *doubts, *notes))


def _obstacles(facts: Facts, unit: str) -> list[MeshWarning]:
    """Why no price can be computed."""
    if not facts.closed:
        return [MeshWarning("not_closed", "The surface has holes, so it encloses no definite volume.")]
    if not facts.oriented:
        return [MeshWarning("not_oriented", "Some of the surface faces inwards and some outwards.")]
    largest_mm, volume_mm3 = _largest_mm(facts, unit), _volume_mm3(facts, unit)
    if not PLAUSIBLE_MM[0] <= largest_mm <= PLAUSIBLE_MM[1]:
        said = f"In {UNIT_NAMES[unit]} the model is {largest_mm:.6g} mm across: no piece is."
        return [MeshWarning("implausible_size", said)]
    if volume_mm3 < PLAUSIBLE_MM3_MIN:
        said = f"In {UNIT_NAMES[unit]} the model has {volume_mm3:.3g} mm3: it would weigh nothing."
        return [MeshWarning("implausible_size", said)]
    return []


def _largest_mm(facts: Facts, unit: str) -> float:
    return max(facts.extent) * float(MILLIMETRES_PER_UNIT[unit])


def _volume_mm3(facts: Facts, unit: str) -> float:
    return facts.volume * float(MILLIMETRES_PER_UNIT[unit]) ** 3


def _size_doubts(facts: Facts, unit: str) -> list[MeshWarning]:
    largest_mm = _largest_mm(facts, unit)
    if largest_mm < EXTENT_MM_MIN or (largest_mm > EXTENT_MM_MAX and not _is_narrow(facts, unit)):
        bounds = f"{EXTENT_MM_MIN:g} to {EXTENT_MM_MAX:g} mm"
        said = f"In {UNIT_NAMES[unit]} the model is {largest_mm:.6g} mm across; expected {bounds}."
        return [MeshWarning("suspicious_size", said)]
    if (volume_mm3 := _volume_mm3(facts, unit)) < VOLUME_MM3_MIN:
        said = (
            f"In {UNIT_NAMES[unit]} the model has {volume_mm3:.3g} mm3; expected at least {VOLUME_MM3_MIN:g}."
        )
        return [MeshWarning("suspicious_volume", said)]
    return []


def _error_doubts(facts: Facts, error_max_pct: Decimal) -> list[MeshWarning]:
    error_pct = 100 * facts.volume_error
    if error_pct <= error_max_pct:
        return []
    said = f"The volume may be wrong by {error_pct:.2g} %; the price list allows {error_max_pct} %."
    return [MeshWarning("volume_uncertain", said)]


def _is_narrow(facts: Facts, unit: str) -> bool:
    second = sorted(facts.extent)[1]
    return second * float(MILLIMETRES_PER_UNIT[unit]) <= NARROW_MM_MAX


def _is_odd(found: list[MeshWarning]) -> bool:
    return any(warning.code in ("implausible_size", "suspicious_size") for warning in found)


def _hints(facts: Facts, unit: str) -> list[MeshWarning]:
    """The units that would fit, each as a query that is ready to be sent."""
    found = []
    for other in DECLARABLE_UNITS:
        largest_mm = _largest_mm(facts, other)
        if other != unit and LIKELY_MM[0] <= largest_mm <= LIKELY_MM[1]:
            said = f"In {UNIT_NAMES[other]} it would be {largest_mm:.3g} mm across."
            found.append(MeshWarning("unit_hint", said, query=f"units={other}"))
    return found


def _notes(facts: Facts, unit: str) -> list[MeshWarning]:
    if facts.unit is None or unit == facts.unit:
        return []
    said = f"The file states its unit, {facts.unit}; the declared {unit} is used."
    return [MeshWarning("unit_not_of_file", said)]
