"""The price of a model: Decimal from end to end, a pure function of facts, options, price list and metal fix.

    volume  = |volume| * unit^3, to 1e-6 mm3            mass = volume / 1000 * density, to 0.001 g
              (with closed cavities, where the list fills them)
    metal   = mass * (1 + loss) * price per gram * fineness * (1 + premium)
    pattern = base + volume / 1000 * rate               casting = base + mass * rate
    finish, plating = area in cm2 * rate                bodies = (bodies - 1) * handling
    stones  = count * price each                        setting = count * rate each, by kind of stone
    order   = unit lines * quantity + setup - quantity break on labour, at least the minimum
              -> markup -> rush = net -> VAT = gross

Every line is rounded by the list's rule when it is made and the totals are sums of lines, so what a
customer adds up by hand agrees. Labour is pattern, casting and finish.
"""

import decimal
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Literal

import msgspec

from pricing.facts import Facts, MeshWarning
from pricing.price.firmness import Firmness, Priceable, effective_unit, firmness_of
from pricing.price.options import Choice, Options, resolve
from pricing.price.price_list import Material, MetalFix, PriceList, QuantityBreak, Stone, Surface
from pricing.price.stones import StoneCount
from pricing.units import MILLIMETRES_PER_UNIT

GRAMS_PER_OZ = Decimal("31.1034768")
"""Troy ounce, exact (International Yard and Pound Agreement, 1959)."""

_LABOUR = ("pattern", "casting", "finish")

_CENT = Decimal("0.01")

_ZERO = Decimal("0.00")

_ROUNDING = {"half_up": decimal.ROUND_HALF_UP, "half_even": decimal.ROUND_HALF_EVEN, "up": decimal.ROUND_UP}

# The largest mesh accepted has some 1e37 mm3: with six places behind the point and the factors to come, 80
# digits always do.
_CONTEXT = decimal.Context(
    prec=80,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow, decimal.FloatOperation],
)

_Versions = tuple[PriceList, MetalFix]

LineCode = Literal[
    "metal",
    "pattern",
    "casting",
    "finish",
    "plating",
    "bodies",
    "stones",
    "setting",
    "setup",
    "quantity_break",
    "minimum",
    "markup",
    "rush",
]


class Line(msgspec.Struct, frozen=True):
    """`amount` for the whole order; `basis` is what was multiplied, to be read by people."""

    code: LineCode
    basis: str
    amount: Decimal


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """A price with its lines, which sum to `net`. For `manual` there are no lines and no amounts.

    `unit_price` is one piece before order-level lines (setup, break, minimum, markup, rush); all amounts
    are in `currency` with two places and without VAT, except `gross`.
    """

    priceable: Priceable
    material: str
    finish: str
    plating: str
    quantity: int
    units: str
    rush: bool
    stones: tuple[StoneCount, ...]
    currency: str
    lines: tuple[Line, ...]
    unit_price: Decimal | None
    net: Decimal | None
    vat: Decimal | None
    gross: Decimal | None
    mass_g: Decimal | None
    mass_tolerance_pct: Decimal
    price_list: str
    metal_fix: str
    warnings: tuple[MeshWarning, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The numbers that went into one line, by name, in the order of the formula."""

    code: LineCode
    variables: tuple[tuple[str, Decimal], ...]
    amount: Decimal


class _Step(msgspec.Struct, frozen=True):
    """A line in the making: for one piece, or for the order."""

    code: LineCode
    basis: str
    variables: tuple[tuple[str, Decimal], ...]
    exact: Decimal


class _Piece(msgspec.Struct, frozen=True):
    """The quantities of one piece the rates apply to."""

    volume_cm3: Decimal
    area_cm2: Decimal
    mass_g: Decimal
    bodies: int


def price(facts: Facts, options: Options, price_list: PriceList, metal_fix: MetalFix) -> Price:
    """Price `options.quantity` pieces of a model.

    Refused `unknown_material`, `unknown_finish`, `unknown_plating`, `unknown_stone`, `unknown_unit`,
    `quantity_out_of_range`, `stones_out_of_range`, `zero_volume` (of what encloses nothing).
    """
    choice = resolve(effective_unit(facts, options.units), options, price_list)
    firmness = firmness_of(facts, options.units, price_list.volume_error_max_pct)
    with decimal.localcontext(_CONTEXT):
        if firmness.priceable == "manual":
            return _unpriced(choice, firmness, (price_list, metal_fix))
        piece = _piece(facts, choice, price_list)
        steps = tuple(_order_steps(piece, choice, price_list, metal_fix))
        return _answer(choice, firmness, (price_list, metal_fix), piece, steps)


def explain(
    facts: Facts, options: Options, price_list: PriceList, metal_fix: MetalFix
) -> tuple[Explanation, ...]:
    """The variables of every line of `price` for the same arguments; empty for `manual`."""
    choice = resolve(effective_unit(facts, options.units), options, price_list)
    if firmness_of(facts, options.units).priceable == "manual":
        return ()
    with decimal.localcontext(_CONTEXT):
        steps = _order_steps(_piece(facts, choice, price_list), choice, price_list, metal_fix)
        return tuple(Explanation(step.code, step.variables, step.exact) for step in steps)


def _exact(value: float) -> Decimal:
    # The shortest text that reads back as this float: the one place where a float becomes a Decimal. `str`,
    # for numpy's own floats have a `repr` that is no number.
    return Decimal(str(value))


def cast_volume(facts: Facts, price_list: PriceList) -> float:
    """What is cast, in the file's own unit: plaster never reaches a closed cavity."""
    return facts.volume + (facts.cavities if price_list.cavities == "filled" else 0.0)


def _piece(facts: Facts, choice: Choice, price_list: PriceList) -> _Piece:
    scale_mm = MILLIMETRES_PER_UNIT[choice.units]
    volume = _exact(cast_volume(facts, price_list))
    volume_mm3 = (volume * scale_mm**3).quantize(Decimal("1e-6"), decimal.ROUND_HALF_UP)
    area_mm2 = (_exact(facts.area) * scale_mm**2).quantize(Decimal("1e-6"), decimal.ROUND_HALF_UP)
    mass_g = (volume_mm3 / 1000 * choice.material.density_g_cm3).quantize(
        Decimal("0.001"), decimal.ROUND_HALF_UP
    )
    return _Piece(volume_mm3 / 1000, area_mm2 / 100, mass_g, facts.bodies or 1)


def round_amount(value: Decimal, price_list: PriceList) -> Decimal:
    """To the cent, by the rule of the price list."""
    return value.quantize(_CENT, _ROUNDING[price_list.rounding])


def _rounded(step: _Step, price_list: PriceList) -> _Step:
    return msgspec.structs.replace(step, exact=round_amount(step.exact, price_list))


def _text(value: Decimal) -> str:
    """Digits without an exponent and without trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _metal(piece: _Piece, material: Material, metal_fix: MetalFix) -> _Step:
    variables = [("mass_g", piece.mass_g), ("loss", material.loss), ("premium", material.premium)]
    if material.metal is None or material.fineness is None:
        assert material.price_per_kg is not None
        per_gram, fineness = material.price_per_kg / 1000, Decimal(1)
        source = f"{_text(material.price_per_kg)} per kg"
        variables.append(("price_per_kg", material.price_per_kg))
    else:
        per_oz, fineness = metal_fix.per_oz(material.metal), material.fineness
        per_gram = per_oz / GRAMS_PER_OZ
        source = f"{_text(per_oz)} per oz / {GRAMS_PER_OZ} g x {_text(fineness)} fine"
        variables += [("fix_per_oz", per_oz), ("grams_per_oz", GRAMS_PER_OZ), ("fineness", fineness)]
    gross_g, markup = 1 + material.loss, 1 + material.premium
    basis = f"{piece.mass_g} g x {_text(gross_g)} loss x {source} x {_text(markup)} premium"
    return _Step("metal", basis, tuple(variables), piece.mass_g * gross_g * per_gram * fineness * markup)


def _based(code: LineCode, base: Decimal, amount: Decimal, rate: Decimal, unit: str) -> _Step:
    """A base charge plus a rate."""
    variables = (("base", base), (f"amount_{unit}", amount), (f"rate_per_{unit}", rate))
    return _Step(
        code, f"{_text(base)} + {_text(amount)} {unit} x {_text(rate)}", variables, base + amount * rate
    )


def _covering(code: LineCode, piece: _Piece, surface: Surface) -> _Step:
    """A rate by area."""
    variables = (("area_cm2", piece.area_cm2), ("rate_per_cm2", surface.rate_per_cm2))
    basis = f"{surface.name}: {_text(piece.area_cm2)} cm2 x {_text(surface.rate_per_cm2)}"
    return _Step(code, basis, variables, piece.area_cm2 * surface.rate_per_cm2)


def _piece_steps(
    piece: _Piece, choice: Choice, price_list: PriceList, metal_fix: MetalFix
) -> Iterator[_Step]:
    """The lines of one piece, not yet rounded; lines that cost nothing are left out."""
    rates = price_list.rates
    yield _metal(piece, choice.material, metal_fix)
    yield _based("pattern", rates.pattern_base, piece.volume_cm3, rates.pattern_per_cm3, "cm3")
    yield _based("casting", rates.casting_base, piece.mass_g, rates.casting_per_g, "g")
    yield _covering("finish", piece, choice.finish)
    if choice.plating.rate_per_cm2:
        yield _covering("plating", piece, choice.plating)
    if piece.bodies > 1:
        further, rate = Decimal(piece.bodies - 1), rates.handling_per_body
        variables = (("bodies_after_first", further), ("rate_per_body", rate))
        yield _Step("bodies", f"{further} further bodies x {_text(rate)}", variables, further * rate)
    yield from _stone_steps(choice.stones)


def _stone_steps(stones: tuple[tuple[Stone, int], ...]) -> Iterator[_Step]:
    """The stones themselves, free when they are the customer's own, and the work of setting them."""
    prices = tuple((stone.code, Decimal(count), stone.price_each) for stone, count in stones)
    rates = tuple((stone.code, Decimal(count), stone.setting_each) for stone, count in stones)
    for line in (_counted("stones", prices), _counted("setting", rates)):
        if line.exact:
            yield line


def _counted(code: LineCode, kinds: tuple[tuple[str, Decimal, Decimal], ...]) -> _Step:
    """A number of things of each kind at the rate of the kind; kinds that cost nothing are left out."""
    charged = tuple(kind for kind in kinds if kind[2])
    basis = " + ".join(f"{count} {kind} x {_text(each)}" for kind, count, each in charged)
    variables = tuple(
        variable
        for kind, count, each in charged
        for variable in ((f"{kind}_count", count), (f"{kind}_each", each))
    )
    return _Step(code, basis, variables, sum((count * each for _, count, each in charged), _ZERO))


def _unit_steps(
    piece: _Piece, choice: Choice, price_list: PriceList, metal_fix: MetalFix
) -> tuple[_Step, ...]:
    return tuple(_rounded(step, price_list) for step in _piece_steps(piece, choice, price_list, metal_fix))


def _times(step: _Step, quantity: int) -> _Step:
    """The line of one piece, for the order."""
    basis = step.basis if quantity == 1 else f"({step.basis} = {step.exact}) x {quantity}"
    variables = (*step.variables, ("each", step.exact), ("quantity", Decimal(quantity)))
    return _Step(step.code, basis, variables, step.exact * quantity)


def _order_steps(
    piece: _Piece, choice: Choice, price_list: PriceList, metal_fix: MetalFix
) -> Iterator[_Step]:
    """All lines of the order, rounded; each order-level line is taken from the sum of those before it."""
    subtotal = labour = _ZERO
    for unit_step in _unit_steps(piece, choice, price_list, metal_fix):
        step = _times(unit_step, choice.quantity)
        subtotal += step.exact
        labour += step.exact if step.code in _LABOUR else _ZERO
        yield step
    yield from _adjustments(subtotal, labour, choice, price_list)


def _adjustments(
    subtotal: Decimal, labour: Decimal, choice: Choice, price_list: PriceList
) -> Iterator[_Step]:
    rates = price_list.rates
    steps: tuple[Callable[[Decimal], _Step], ...] = (
        lambda _: _setup_step(rates.setup_per_order),
        lambda _: _break_step(labour, _break_for(choice.quantity, price_list)),
        lambda total: _minimum_step(total, rates.order_minimum),
        lambda total: _share_step("markup", total, rates.markup),
        lambda total: _share_step("rush", total, rates.rush if choice.rush else _ZERO),
    )
    for make in steps:
        step = _rounded(make(subtotal), price_list)
        subtotal += step.exact
        if step.exact:
            yield step


def _setup_step(setup: Decimal) -> _Step:
    return _Step("setup", "once per order", (("setup", setup),), setup)


def _break_for(quantity: int, price_list: PriceList) -> QuantityBreak | None:
    return next(
        (step for step in reversed(price_list.quantity_breaks) if quantity >= step.from_quantity), None
    )


def _break_step(labour: Decimal, step: QuantityBreak | None) -> _Step:
    rate = step.rate if step else _ZERO
    start = step.from_quantity if step else 1
    variables = (("labour", labour), ("rate", rate), ("from_quantity", Decimal(start)))
    return _Step(
        "quantity_break", f"from {start} pieces: labour {labour} x -{_text(rate)}", variables, -labour * rate
    )


def _minimum_step(subtotal: Decimal, minimum: Decimal) -> _Step:
    variables = (("minimum", minimum), ("subtotal", subtotal))
    return _Step(
        "minimum", f"minimum order {_text(minimum)} - {subtotal}", variables, max(minimum - subtotal, _ZERO)
    )


def _share_step(code: LineCode, subtotal: Decimal, rate: Decimal) -> _Step:
    return _Step(
        code, f"{subtotal} x {_text(rate)}", (("subtotal", subtotal), ("rate", rate)), subtotal * rate
    )


def _answer(
    choice: Choice, firmness: Firmness, versions: _Versions, piece: _Piece, steps: tuple[_Step, ...]
) -> Price:
    price_list, _ = versions
    net = sum((step.exact for step in steps), _ZERO)
    vat = round_amount(net * price_list.rates.vat, price_list)
    return msgspec.structs.replace(
        _unpriced(choice, firmness, versions),
        lines=tuple(Line(step.code, step.basis, step.exact) for step in steps),
        unit_price=_unit_price(steps),
        net=net,
        vat=vat,
        gross=net + vat,
        mass_g=piece.mass_g,
    )


def _unpriced(choice: Choice, firmness: Firmness, versions: _Versions) -> Price:
    """The answer without amounts, as it stays for `manual`."""
    price_list, metal_fix = versions
    return Price(
        priceable=firmness.priceable,
        material=choice.material.code,
        finish=choice.finish.code,
        plating=choice.plating.code,
        quantity=choice.quantity,
        units=choice.units,
        rush=choice.rush,
        stones=tuple(StoneCount(stone.code, count) for stone, count in choice.stones),
        currency=price_list.currency,
        lines=(),
        unit_price=None,
        net=None,
        vat=None,
        gross=None,
        mass_g=None,
        mass_tolerance_pct=price_list.mass_tolerance_pct,
        price_list=price_list.version,
        metal_fix=metal_fix.version,
        warnings=firmness.warnings,
    )


def _unit_price(steps: tuple[_Step, ...]) -> Decimal:
    return sum((value for step in steps for name, value in step.variables if name == "each"), _ZERO)
