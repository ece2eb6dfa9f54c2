"""Length units, as exact factors to millimetres.

Factors are Decimal because a price is computed from them; `MILLIMETRES_PER_UNIT` holds every unit a file
may state itself (the six of the 3MF core specification, section 3.4), `DECLARABLE_UNITS` those a caller may
declare.
"""

from decimal import Decimal

from pricing.errors import Refused

MILLIMETRES_PER_UNIT: dict[str, Decimal] = {
    "um": Decimal("0.001"),
    "mm": Decimal("1"),
    "cm": Decimal("10"),
    "m": Decimal("1000"),
    "in": Decimal("25.4"),
    "ft": Decimal("304.8"),
}

UNIT_NAMES = {
    "um": "micrometres",
    "mm": "millimetres",
    "cm": "centimetres",
    "m": "metres",
    "in": "inches",
    "ft": "feet",
}

DECLARABLE_UNITS = ("mm", "cm", "m", "in")

AS_IN_THE_FILE = ""
"""Declared by those who leave the unit to the file; a file that states none is in millimetres."""


def check_declared_unit(unit: str) -> str:
    """Return `unit` when a caller may declare it; otherwise Refused `unknown_unit`."""
    if unit not in DECLARABLE_UNITS and unit != AS_IN_THE_FILE:
        raise Refused(
            "unknown_unit",
            f"{unit!r} is not a unit of length known here.",
            f"Use one of {', '.join(DECLARABLE_UNITS)}.",
        )
    return unit
