"""What a customer chose, and what that is in a price list."""

from typing import TypeVar

import msgspec

from pricing.errors import Refused
from pricing.price.price_list import Material, PriceList, Stone, Surface
from pricing.price.stones import StoneCount, check_counts
from pricing.units import AS_IN_THE_FILE, check_declared_unit


class Options(msgspec.Struct, frozen=True):
    """What the customer chose; finish and plating None mean the price list's own defaults; `stones` are those
    of one piece; `leave_out`: bodies of the file that are no metal, of which the facts know already."""

    material: str
    units: str = AS_IN_THE_FILE
    finish: str | None = None
    plating: str | None = None
    quantity: int = 1
    rush: bool = False
    stones: tuple[StoneCount, ...] = ()
    leave_out: tuple[int, ...] = ()


class Choice(msgspec.Struct, frozen=True):
    """Options resolved against the price list."""

    material: Material
    finish: Surface
    plating: Surface
    quantity: int
    rush: bool
    units: str
    stones: tuple[tuple[Stone, int], ...]


_Row = TypeVar("_Row", Material, Surface, Stone)


def _find(kind: str, rows: tuple[_Row, ...], code: str) -> _Row:
    for row in rows:
        if row.code == code:
            return row
    known = f"Use one of: {', '.join(row.code for row in rows)}." if rows else f"It has no {kind}s at all."
    raise Refused(f"unknown_{kind}", f"The price list has no {kind} {code!r}.", known)


def check_options(options: Options, price_list: PriceList) -> None:
    """Refused as by `price`, for all that the model has no say in."""
    resolve(check_declared_unit(options.units), options, price_list)


def resolve(unit: str, options: Options, price_list: PriceList) -> Choice:
    if not 1 <= options.quantity <= price_list.quantity_max:
        raise Refused(
            "quantity_out_of_range",
            f"The quantity is {options.quantity}.",
            f"Ask for 1 to {price_list.quantity_max} pieces.",
        )
    return Choice(
        _find("material", price_list.materials, options.material),
        _find("finish", price_list.finishes, options.finish or price_list.default_finish),
        _find("plating", price_list.platings, options.plating or price_list.default_plating),
        options.quantity,
        options.rush,
        unit,
        _stones(options.stones, price_list),
    )


def _stones(asked: tuple[StoneCount, ...], price_list: PriceList) -> tuple[tuple[Stone, int], ...]:
    check_counts(asked)
    return tuple((_find("stone", price_list.stones, stone.code), stone.count) for stone in asked)
