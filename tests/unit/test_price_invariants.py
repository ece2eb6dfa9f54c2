"""What holds for every price, of whatever list, model and wish: drawn at random."""

import decimal
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pricing.facts import Facts
from pricing.price.formula import Price, explain, price
from pricing.price.options import Options
from pricing.price.price_list import PriceList
from pricing.price.stones import StoneCount
from tests.support.price_lists_drawn import FACTS, FIX, LIST, OPTIONS, PRICE_LISTS, facts

MODES = {"half_up": decimal.ROUND_HALF_UP, "half_even": decimal.ROUND_HALF_EVEN, "up": decimal.ROUND_UP}
many = settings(max_examples=200, deadline=None)


def priced_or_none(model: Facts, options: Options, price_list: PriceList) -> Price | None:
    """None when a person prices it."""
    found = price(model, options, price_list, FIX)
    return None if found.net is None else found


def net(model: Facts, options: Options, price_list: PriceList) -> Decimal:
    found = priced_or_none(model, options, price_list)
    assume(found is not None)
    assert found is not None
    assert found.net is not None
    return found.net


@given(FACTS, OPTIONS, PRICE_LISTS)
@many
def test_lines_sum_to_the_total_in_whole_cents_above_zero(
    model: Facts, options: Options, price_list: PriceList
) -> None:
    found = priced_or_none(model, options, price_list)
    if found is None:
        return
    assert found.net is not None
    assert found.vat is not None
    assert found.gross is not None
    assert sum((line.amount for line in found.lines), Decimal(0)) == found.net > 0
    assert found.gross == found.net + found.vat >= found.net
    amounts = [found.net, found.vat, found.gross, found.unit_price, *(line.amount for line in found.lines)]
    assert all(isinstance(amount, Decimal) and amount.as_tuple().exponent == -2 for amount in amounts)
    assert all(line.amount >= 0 for line in found.lines if line.code != "quantity_break")


@given(FACTS, OPTIONS, PRICE_LISTS)
@many
def test_each_amount_comes_out_of_its_variables_with_a_pocket_calculator(
    model: Facts, options: Options, price_list: PriceList
) -> None:
    for step in explain(model, options, price_list, FIX):
        named = dict(step.variables)
        exact = calculated(step.code, named)
        with decimal.localcontext(prec=80):
            once = exact.quantize(Decimal("0.01"), MODES[price_list.rounding])
            if "each" in named:
                assert named["each"] == once
                once *= named["quantity"]
        assert step.amount == once


def calculated(code: str, named: dict[str, Decimal]) -> Decimal:
    """The formula of a line, written down a second time."""
    with decimal.localcontext(prec=80):
        if code == "metal":
            gram = named["price_per_kg"] / 1000 if "price_per_kg" in named else bullion(named)
            return named["mass_g"] * (1 + named["loss"]) * gram * (1 + named["premium"])
        if code in ("pattern", "casting"):
            unit = "cm3" if code == "pattern" else "g"
            return named["base"] + named[f"amount_{unit}"] * named[f"rate_per_{unit}"]
        if code in ("finish", "plating"):
            return named["area_cm2"] * named["rate_per_cm2"]
        if code in ("stones", "setting"):
            kinds = [name.removesuffix("_count") for name in named if name.endswith("_count")]
            return sum((named[f"{kind}_count"] * named[f"{kind}_each"] for kind in kinds), Decimal(0))
        return order_level(code, named)


def bullion(named: dict[str, Decimal]) -> Decimal:
    return named["fix_per_oz"] / named["grams_per_oz"] * named["fineness"]


def order_level(code: str, named: dict[str, Decimal]) -> Decimal:
    if code == "quantity_break":
        return -named["labour"] * named["rate"]
    if code == "minimum":
        return max(named["minimum"] - named["subtotal"], Decimal(0))
    if code == "setup":
        return named["setup"]
    if code == "bodies":
        return named["bodies_after_first"] * named["rate_per_body"]
    return named["subtotal"] * named["rate"]


@given(FACTS, OPTIONS, PRICE_LISTS)
@many
def test_one_more_piece_never_makes_the_order_cheaper(
    model: Facts, options: Options, price_list: PriceList
) -> None:
    near = {step.from_quantity - 1 for step in price_list.quantity_breaks} | {options.quantity}
    for quantity in near:
        if quantity < price_list.quantity_max:
            fewer, more = (msgspec.structs.replace(options, quantity=quantity + by) for by in (0, 1))
            assert net(model, more, price_list) >= net(model, fewer, price_list)


@given(FACTS, OPTIONS, PRICE_LISTS, st.floats(1, 10), st.floats(1, 10))
@many
def test_more_metal_or_more_surface_never_makes_the_order_cheaper(
    model: Facts, options: Options, price_list: PriceList, heavier: float, wider: float
) -> None:
    more = msgspec.structs.replace(model, volume=model.volume * heavier, area=model.area * wider)
    assume(priced_or_none(more, options, price_list) is not None)
    assert net(more, options, price_list) >= net(model, options, price_list)


@given(FACTS, OPTIONS, PRICE_LISTS, st.sampled_from(["own", "small", "large"]))
@many
def test_one_more_stone_and_a_rush_never_make_the_order_cheaper(
    model: Facts, options: Options, price_list: PriceList, code: str
) -> None:
    counts = {stone.code: stone.count for stone in options.stones}
    counts[code] = counts.get(code, 0) + 1
    stones = tuple(StoneCount(kind, count) for kind, count in sorted(counts.items()))
    cost = net(model, options, price_list)
    assert net(model, msgspec.structs.replace(options, stones=stones), price_list) >= cost
    assert net(model, msgspec.structs.replace(options, rush=True), price_list) >= cost


@given(FACTS, OPTIONS, st.sampled_from(["gold", "silver", "platinum", "palladium"]))
@settings(max_examples=60, deadline=None)
def test_a_dearer_metal_makes_nothing_cheaper_and_other_metals_no_difference(
    model: Facts, options: Options, metal: Any
) -> None:
    options = msgspec.structs.replace(options, stones=())
    dearer = msgspec.structs.replace(FIX, **{f"{metal}_per_oz": FIX.per_oz(metal) * 3})
    before, after = (price(model, options, LIST, fix).net for fix in (FIX, dearer))
    assume(before is not None)
    assert before is not None
    assert after is not None
    material = next(row for row in LIST.materials if row.code == options.material)
    assert after == before if material.metal != metal else after >= before


@given(FACTS, OPTIONS)
@settings(max_examples=60, deadline=None)
def test_a_price_does_not_depend_on_how_decimals_are_set_up_elsewhere(model: Facts, options: Options) -> None:
    options = msgspec.structs.replace(options, stones=())
    expected = price(model, options, LIST, FIX)
    with decimal.localcontext(prec=3, rounding=decimal.ROUND_DOWN):
        assert price(model, options, LIST, FIX) == expected


def test_a_float_of_numpy_is_as_good_as_one_of_python() -> None:
    model = facts(volume=np.float64(241.186049), area=np.float64(1057.768))
    options = Options("gold-585-yellow", quantity=3)
    assert price(model, options, LIST, FIX).gross == Decimal("852.17")


@pytest.mark.parametrize("field", ["markup", "vat", "casting_per_g", "pattern_per_cm3"])
def test_a_rate_that_is_a_float_prices_nothing(field: str) -> None:
    rates = msgspec.structs.replace(LIST.rates, **{field: 0.1})
    broken = msgspec.structs.replace(LIST, rates=rates)
    with pytest.raises((TypeError, decimal.FloatOperation)):
        price(facts(), Options("gold-585-yellow"), broken, FIX)
