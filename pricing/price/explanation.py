"""A price that can be checked with a pocket calculator: of every line the formula, and each number in it with
its unit and where it comes from.

The formulas are texts of names, numbers, + - * / and `max`; put the variables in and the amounts come out.
Each amount is rounded where it is made, so what is added up afterwards is already what the customer sees.
"""

import decimal
from decimal import Decimal

import msgspec

from pricing.facts import Facts
from pricing.price.firmness import effective_unit
from pricing.price.formula import Explanation, Price, cast_volume, explain, price
from pricing.price.options import Options
from pricing.price.price_list import MetalFix, PriceList
from pricing.units import MILLIMETRES_PER_UNIT


class Variable(msgspec.Struct, frozen=True):
    """A number in a formula. `value` in plain digits; `unit` is empty for what has none; `source` names the
    model, the request, the price list, the metal fix, or the lines it was added up from."""

    name: str
    value: str
    unit: str
    source: str


class Working(msgspec.Struct, frozen=True):
    """One result and what it was made from. `places`: digits behind the point that it was rounded to."""

    code: str
    formula: str
    variables: tuple[Variable, ...]
    result: str
    unit: str
    places: int


class Workings(msgspec.Struct, frozen=True):
    """`quantities`: volume, area and mass of a piece. `lines`: in the order of the price's own. `totals`:
    unit price, net, VAT and gross. `rounding`: the price list's rule for every amount of money."""

    rounding: str
    quantities: tuple[Working, ...]
    lines: tuple[Working, ...]
    totals: tuple[Working, ...]


_FORMULAS = {
    "metal": "mass_g * (1 + loss) * fix_per_oz / grams_per_oz * fineness * (1 + premium)",
    "pattern": "base + amount_cm3 * rate_per_cm3",
    "casting": "base + amount_g * rate_per_g",
    "finish": "area_cm2 * rate_per_cm2",
    "plating": "area_cm2 * rate_per_cm2",
    "bodies": "bodies_after_first * rate_per_body",
    "setup": "setup",
    "quantity_break": "-labour * rate",
    "minimum": "max(minimum - subtotal, 0)",
    "markup": "subtotal * rate",
    "rush": "subtotal * rate",
}
_METAL_BY_WEIGHT = "mass_g * (1 + loss) * price_per_kg / 1000 * (1 + premium)"

_LIST, _FIX, _MODEL, _REQUEST = "price list", "metal fix", "model", "request"

# Unit and source of each name. `{money}` stands for the currency.
_MEANINGS = {
    "mass_g": ("g", "mass_g above"),
    "loss": ("", _LIST),
    "premium": ("", _LIST),
    "fineness": ("", _LIST),
    "price_per_kg": ("{money}/kg", _LIST),
    "fix_per_oz": ("{money}/oz", _FIX),
    "grams_per_oz": ("g/oz", "troy ounce, exact"),
    "base": ("{money}", _LIST),
    "amount_cm3": ("cm3", "volume_mm3 above / 1000"),
    "amount_g": ("g", "mass_g above"),
    "area_cm2": ("cm2", "area_mm2 above / 100"),
    "rate_per_cm3": ("{money}/cm3", _LIST),
    "rate_per_cm2": ("{money}/cm2", _LIST),
    "rate_per_g": ("{money}/g", _LIST),
    "rate_per_body": ("{money}", _LIST),
    "bodies_after_first": ("", _MODEL),
    "each": ("{money}", "the formula, rounded: one piece"),
    "quantity": ("", _REQUEST),
    "setup": ("{money}", _LIST),
    "labour": ("{money}", "sum of the lines pattern, casting and finish"),
    "rate": ("", _LIST),
    "from_quantity": ("", _LIST),
    "minimum": ("{money}", _LIST),
    "subtotal": ("{money}", "sum of the lines above"),
}


def workings(facts: Facts, options: Options, price_list: PriceList, metal_fix: MetalFix) -> Workings:
    """Of `pricing.price.formula.price` for the same arguments; without lines and totals when a person
    prices it.

    Raises Refused as that does.
    """
    priced = price(facts, options, price_list, metal_fix)
    versions = {_LIST: f"{_LIST} {price_list.version}", _FIX: f"{_FIX} {metal_fix.version}"}
    explained = explain(facts, options, price_list, metal_fix)
    return Workings(
        rounding=f"{price_list.rounding}, 2 places",
        quantities=_quantities(facts, options, price_list, priced) if explained else (),
        lines=tuple(_line(line, price_list.currency, versions) for line in explained),
        totals=_totals(priced, explained, price_list) if explained else (),
    )


def _line(line: Explanation, money: str, versions: dict[str, str]) -> Working:
    names = dict(line.variables)
    formula = _FORMULAS.get(line.code) or _per_kind(list(names))
    if line.code == "metal" and "price_per_kg" in names:
        formula = _METAL_BY_WEIGHT
    if "each" in names:
        formula = f"{formula} = each; each * quantity"
    variables = tuple(_variable(name, value, money, versions) for name, value in line.variables)
    return Working(line.code, formula, variables, _text(line.amount), money, 2)


def _per_kind(names: list[str]) -> str:
    """Stones: a number and a rate of every kind."""
    kinds = [name.removesuffix("_count") for name in names if name.endswith("_count")]
    return " + ".join(f"{kind}_count * {kind}_each".replace("-", "_") for kind in kinds)


def _variable(name: str, value: Decimal, money: str, versions: dict[str, str]) -> Variable:
    unit, source = _MEANINGS.get(name) or (("", _REQUEST) if name.endswith("_count") else ("{money}", _LIST))
    return Variable(
        name.replace("-", "_"), _text(value), unit.format(money=money), versions.get(source, source)
    )


def _quantities(facts: Facts, options: Options, price_list: PriceList, priced: Price) -> tuple[Working, ...]:
    """From the file's own numbers to the ones that rates apply to."""
    unit = effective_unit(facts, options.units)
    source = _REQUEST if facts.unit != unit else f"{_MODEL}: the file states its unit"
    scale = Variable("mm_per_unit", _text(MILLIMETRES_PER_UNIT[unit]), f"mm/{unit}", source)
    material = next(row for row in price_list.materials if row.code == priced.material)
    volume = Decimal(str(cast_volume(facts, price_list)))
    area = Decimal(str(facts.area))
    volume_mm3 = _places(volume * MILLIMETRES_PER_UNIT[unit] ** 3, 6)
    area_mm2 = _places(area * MILLIMETRES_PER_UNIT[unit] ** 2, 6)
    assert priced.mass_g is not None
    density = f"{_LIST} {price_list.version}: {material.density_source}"
    return (
        Working(
            "volume_mm3",
            "volume * mm_per_unit * mm_per_unit * mm_per_unit",
            (Variable("volume", _text(volume), f"{unit}3", _MODEL), scale),
            _text(volume_mm3),
            "mm3",
            6,
        ),
        Working(
            "area_mm2",
            "area * mm_per_unit * mm_per_unit",
            (Variable("area", _text(area), f"{unit}2", _MODEL), scale),
            _text(area_mm2),
            "mm2",
            6,
        ),
        Working(
            "mass_g",
            "volume_mm3 / 1000 * density_g_cm3",
            (
                Variable("volume_mm3", _text(volume_mm3), "mm3", "volume_mm3 above"),
                Variable("density_g_cm3", _text(material.density_g_cm3), "g/cm3", density),
            ),
            _text(priced.mass_g),
            "g",
            3,
        ),
    )


def _totals(priced: Price, explained: tuple[Explanation, ...], price_list: PriceList) -> tuple[Working, ...]:
    assert priced.net is not None
    assert priced.vat is not None
    money, version = price_list.currency, f"{_LIST} {price_list.version}"
    net = Variable("net", _text(priced.net), money, "net above")
    pieces = _each(explained, money)
    lines = tuple(Variable(line.code, _text(line.amount), money, f"line {line.code}") for line in explained)
    return (
        _sum("unit_price", pieces, priced.unit_price, money),
        _sum("net", lines, priced.net, money),
        Working(
            "vat",
            "net * vat_rate",
            (net, Variable("vat_rate", _text(price_list.rates.vat), "", version)),
            _text(priced.vat),
            money,
            2,
        ),
        _sum("gross", (net, Variable("vat", _text(priced.vat), money, "vat above")), priced.gross, money),
    )


def _each(explained: tuple[Explanation, ...], money: str) -> tuple[Variable, ...]:
    """What one piece costs, line by line."""
    return tuple(
        Variable(line.code, _text(dict(line.variables)["each"]), money, f"each of line {line.code}")
        for line in explained
        if "each" in dict(line.variables)
    )


def _sum(code: str, variables: tuple[Variable, ...], result: Decimal | None, money: str) -> Working:
    assert result is not None
    return Working(
        code, " + ".join(variable.name for variable in variables), variables, _text(result), money, 2
    )


def _places(value: Decimal, places: int) -> Decimal:
    with decimal.localcontext(prec=80):
        return value.quantize(Decimal(1).scaleb(-places), decimal.ROUND_HALF_UP)


def _text(value: Decimal) -> str:
    return format(value, "f")
