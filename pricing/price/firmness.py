"""How firmly a mesh may be priced.

`auto`: a closed surface whose facets agree on what is inside, of a size a piece of jewellery has, bodies
known to be apart. `provisional`: a price can be computed, but a person should look (something was repaired,
bodies may overlap, the unit may be wrong). `manual`: the volume means nothing, a person prices it. Refused
only when there is nothing to cast at all.
"""

from typing import Literal

import msgspec

from pricing.errors import Refused
from pricing.facts import REPAIRS, Facts, MeshWarning, encloses_nothing
from pricing.units import MILLIMETRES_PER_UNIT, check_declared_unit

Priceable = Literal["auto", "provisional", "manual"]

EXTENT_MM_MIN = 5.0
"""A largest extent below this is suspicious. A ring is 15-35 mm across: made in centimetres or inches and
declared as millimetres it has 0.6 to 3.5 "mm". The price of the bound: studs and jump rings below it want a
person's look."""

EXTENT_MM_MAX = 150.0
"""A largest extent above this is suspicious. A ring in millimetres declared as centimetres or inches has
150 mm and more; bangles stay below 90. The price of the bound: rigid necklaces want a person's look."""

EXTENT_MM_MANUAL = 1_000_000.0
"""Beyond a kilometre no confusion of units explains the size, and amounts would mean nothing: no price."""

VOLUME_MM3_MIN = 0.5
"""A smaller volume is suspicious: a jump ring of 5 mm has 3 mm3, and masses are rounded to a milligram."""

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
    """The unit lengths are in: what the file states, else what the caller declared. Refused
    `unknown_unit`."""
    return facts.unit or check_declared_unit(units)


def firmness_of(facts: Facts, units: str) -> Firmness:
    """Judge `facts` under the declared `units`. Refused `unknown_unit`, `zero_volume`."""
    unit = effective_unit(facts, units)
    if encloses_nothing(facts):
        raise Refused(
            "zero_volume",
            "The mesh encloses no volume.",
            "Give the surface a thickness, or close it, and export it again.",
        )
    obstacles = _obstacles(facts, unit)
    doubts = _size_doubts(facts, unit)
    doubtful = doubts or any(warning.code in _DOUBTFUL for warning in facts.warnings)
    priceable: Priceable = "manual" if obstacles else "provisional" if doubtful else "auto"
    return Firmness(priceable, (*facts.warnings, *obstacles, *doubts, *_notes(facts, unit, units)))


def _obstacles(facts: Facts, unit: str) -> list[MeshWarning]:
    """Why no price can be computed."""
    if not facts.closed:
        return [MeshWarning("not_closed", "The surface has holes, so it encloses no definite volume.")]
    if not facts.oriented:
        return [MeshWarning("not_oriented", "Some of the surface faces inwards and some outwards.")]
    if _largest_mm(facts, unit) > EXTENT_MM_MANUAL:
        return [
            MeshWarning(
                "oversized", f"In {unit} the model is more than {EXTENT_MM_MANUAL / 1e6:g} km across."
            )
        ]
    return []


def _largest_mm(facts: Facts, unit: str) -> float:
    return max(facts.extent) * float(MILLIMETRES_PER_UNIT[unit])


def _size_doubts(facts: Facts, unit: str) -> list[MeshWarning]:
    largest_mm = _largest_mm(facts, unit)
    volume_mm3 = facts.volume * float(MILLIMETRES_PER_UNIT[unit]) ** 3
    if not EXTENT_MM_MIN <= largest_mm < EXTENT_MM_MAX:
        bounds = f"{EXTENT_MM_MIN:g} to {EXTENT_MM_MAX:g} mm"
        said = f"In {unit} the model is {largest_mm:.6g} mm across; expected {bounds}."
        return [MeshWarning("suspicious_size", said)]
    if volume_mm3 < VOLUME_MM3_MIN:
        said = f"In {unit} the model has {volume_mm3:.3g} mm3; expected at least {VOLUME_MM3_MIN:g}."
        return [MeshWarning("suspicious_volume", said)]
    return []


def _notes(facts: Facts, unit: str, declared: str) -> list[MeshWarning]:
    if unit == declared:
        return []
    return [
        MeshWarning(
            "unit_from_file", f"The file states its unit, {unit}; the declared {declared} is not used."
        )
    ]
