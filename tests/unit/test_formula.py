"""The price: the golden example to the cent, and the rules every price obeys."""

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.errors import Refused
from pricing.facts import Facts, MeshWarning
from pricing.mesh.analysis import analyse
from pricing.price.formula import Price, explain, price
from pricing.price.options import Options, check_options
from pricing.price.price_list import PriceList, default_metal_fix, default_price_list
from tests.support import meshes
from tests.support.price_lists_drawn import facts as ring

LIST, FIX = default_price_list(), default_metal_fix()
MATERIALS = [material.code for material in LIST.materials]
FINISHES = [finish.code for finish in LIST.finishes]
PLATINGS = [plating.code for plating in LIST.platings]
UNITS = ["mm", "cm", "m", "in"]


def amounts(priced: Price) -> dict[str, str]:
    return {line.code: str(line.amount) for line in priced.lines}


def net(facts: Facts, options: Options, price_list: PriceList = LIST) -> Decimal:
    amount = price(facts, options, price_list, FIX).net
    assert amount is not None
    return amount


def with_rates(**rates: str) -> PriceList:
    changed = {name: Decimal(value) for name, value in rates.items()}
    return msgspec.structs.replace(LIST, rates=msgspec.structs.replace(LIST.rates, **changed))


FACTS = st.builds(
    ring,
    volume=st.floats(0.5, 1e6),
    area=st.floats(1, 1e4),
    bodies=st.sampled_from([1, 2, 5]),
    extent=st.sampled_from([(20.0, 20.0, 5.0), (3.0, 3.0, 3.0)]),
)
OPTIONS = st.builds(
    Options,
    material=st.sampled_from(MATERIALS),
    units=st.sampled_from(["", "mm", "cm", "in"]),
    finish=st.sampled_from([None, *FINISHES]),
    plating=st.sampled_from([None, *PLATINGS]),
    quantity=st.integers(1, 10_000),
    rush=st.booleans(),
)


def test_golden_example_to_the_cent() -> None:
    priced = price(ring(), Options("gold-585-yellow", quantity=3), LIST, FIX)
    assert str(priced.mass_g) == "3.152"
    assert str(priced.unit_price) == "186.21"
    assert amounts(priced) == {
        "metal": "448.17",
        "pattern": "20.67",
        "casting": "32.67",
        "finish": "57.12",
        "setup": "15.00",
        "quantity_break": "-5.52",
        "markup": "142.03",
    }
    order = sum(line.amount for line in priced.lines if line.code != "markup")
    assert str(order) == "568.11"
    assert (str(priced.net), str(priced.vat), str(priced.gross)) == ("710.14", "142.03", "852.17")
    assert (priced.priceable, priced.finish, priced.plating, priced.units) == (
        "auto",
        "polished",
        "none",
        "mm",
    )
    assert (priced.price_list, priced.metal_fix, priced.currency) == (LIST.version, FIX.version, "EUR")


def test_each_piece_of_the_golden_example() -> None:
    single = amounts(price(ring(), Options("gold-585-yellow"), LIST, FIX))
    assert [single[code] for code in ("metal", "pattern", "casting", "finish")] == [
        "149.39",
        "6.89",
        "10.89",
        "19.04",
    ]
    assert "quantity_break" not in single


def test_basis_says_what_was_multiplied() -> None:
    metal = price(ring(), Options("gold-585-yellow"), LIST, FIX).lines[0]
    assert metal.basis == "3.152 g x 1.05 loss x 2000 per oz / 31.1034768 g x 0.585 fine x 1.2 premium"


@given(FACTS, OPTIONS)
@settings(max_examples=200, deadline=None)
def test_lines_sum_to_net_and_the_net_with_vat_to_gross(facts: Facts, options: Options) -> None:
    priced = price(facts, options, LIST, FIX)
    assert priced.net is not None
    assert priced.vat is not None
    assert sum((line.amount for line in priced.lines), Decimal(0)) == priced.net
    assert priced.net + priced.vat == priced.gross
    assert all(line.amount.as_tuple().exponent == -2 for line in priced.lines)
    assert priced.net >= LIST.rates.order_minimum
    assert [line.amount for line in priced.lines if line.amount < 0] == [
        line.amount for line in priced.lines if line.code == "quantity_break"
    ]


@given(FACTS, OPTIONS)
@settings(max_examples=100, deadline=None)
def test_explanation_has_the_lines_of_the_price(facts: Facts, options: Options) -> None:
    priced, explained = price(facts, options, LIST, FIX), explain(facts, options, LIST, FIX)
    assert [(line.code, line.amount) for line in priced.lines] == [
        (step.code, step.amount) for step in explained
    ]
    assert all(step.variables for step in explained)


@given(FACTS, OPTIONS)
@settings(max_examples=150, deadline=None)
def test_one_more_piece_never_makes_the_order_cheaper(facts: Facts, options: Options) -> None:
    if options.quantity < LIST.quantity_max:
        more = msgspec.structs.replace(options, quantity=options.quantity + 1)
        assert net(facts, more) >= net(facts, options)


@given(FACTS, OPTIONS, st.floats(1, 10))
@settings(max_examples=150, deadline=None)
def test_more_metal_never_makes_the_order_cheaper(facts: Facts, options: Options, factor: float) -> None:
    assert net(msgspec.structs.replace(facts, volume=facts.volume * factor), options) >= net(facts, options)


@given(FACTS, OPTIONS)
@settings(max_examples=50, deadline=None)
def test_rush_is_dearer_and_the_same_question_has_the_same_answer(facts: Facts, options: Options) -> None:
    calm, hasty = (msgspec.structs.replace(options, rush=rush) for rush in (False, True))
    assert net(facts, hasty) > net(facts, calm)
    assert price(facts, options, LIST, FIX) == price(facts, options, LIST, FIX)


@pytest.mark.parametrize(("units", "factor"), [("cm", 10), ("in", 25.4), ("m", 1000)])
def test_the_unit_scales_volume_by_its_cube_and_area_by_its_square(units: str, factor: float) -> None:
    small = ring(241.186049 / factor**3, 1057.768 / factor**2, extent=(20 / factor, 1 / factor, 1 / factor))
    assert net(small, Options("gold-585-yellow", units=units)) == net(ring(), Options("gold-585-yellow"))


def test_the_unit_asked_for_wins_and_that_of_the_file_is_taken_else() -> None:
    in_metres = ring(241.186049e-9, 1057.768e-6, extent=(0.02, 0.02, 0.005), unit="m")
    priced = price(in_metres, Options("gold-585-yellow"), LIST, FIX)
    assert (priced.units, priced.net) == ("m", net(ring(), Options("gold-585-yellow")))
    said_in_metres = ring(unit="m")
    priced = price(said_in_metres, Options("gold-585-yellow", units="mm"), LIST, FIX)
    assert (priced.units, priced.net) == ("mm", net(ring(), Options("gold-585-yellow")))


def test_closed_cavities_are_filled_where_the_price_list_says_so() -> None:
    hollow, options = msgspec.structs.replace(ring(), cavities=100.0), Options("silver-925")
    filled, kept = (msgspec.structs.replace(LIST, cavities=cavities) for cavities in ("filled", "kept"))
    assert price(hollow, options, kept, FIX).mass_g == price(ring(), options, kept, FIX).mass_g
    whole = ring(341.186049)
    assert price(hollow, options, filled, FIX).mass_g == price(whole, options, filled, FIX).mass_g
    assert default_price_list().cavities == "filled"


@pytest.mark.parametrize("material", LIST.materials, ids=lambda material: material.code)
def test_mass_is_volume_times_density(material: object) -> None:
    from pricing.price.price_list import Material

    assert isinstance(material, Material)
    priced = price(ring(1000.0), Options(material.code), LIST, FIX)
    assert priced.mass_g == material.density_g_cm3


def test_base_metals_are_priced_by_the_kilogram() -> None:
    metal = price(ring(1000.0), Options("brass"), LIST, FIX).lines[0]
    assert metal.amount == Decimal("0.14")  # 8.4 g x 1.05 x 12/kg x 1.3
    dearer = msgspec.structs.replace(FIX, gold_per_oz=FIX.gold_per_oz * 10)
    assert price(ring(), Options("brass"), LIST, dearer).net == net(ring(), Options("brass"))


def test_small_orders_cost_the_minimum_before_markup() -> None:
    lines = amounts(price(ring(0.5, 1.0), Options("brass"), with_rates(order_minimum="100"), FIX))
    before_markup = sum(Decimal(amount) for code, amount in lines.items() if code != "markup")
    assert before_markup == 100
    assert lines["markup"] == "25.00"


def test_more_bodies_are_handled_and_plating_is_charged_by_area() -> None:
    priced = price(ring(bodies=4), Options("silver-925", plating="rhodium", quantity=2), LIST, FIX)
    lines = amounts(priced)
    assert lines["bodies"] == "15.00"
    assert lines["plating"] == "23.28"  # 10.57768 cm2 x 1.10 = 11.64, twice


@pytest.mark.parametrize(("rule", "expected"), [("half_up", "0.13"), ("half_even", "0.12"), ("up", "0.13")])
def test_rounding_is_the_lists(rule: str, expected: str) -> None:
    halves = msgspec.structs.replace(with_rates(pattern_base="0.125", pattern_per_cm3="0"), rounding=rule)
    assert amounts(price(ring(), Options("brass"), halves, FIX))["pattern"] == expected


def test_what_a_person_must_price_has_no_amounts() -> None:
    warning = MeshWarning("inverted", "seen")
    priced = price(ring(closed=False, oriented=False, warnings=(warning,)), Options("silver-925"), LIST, FIX)
    assert priced.priceable == "manual"
    assert priced.lines == ()
    assert {priced.unit_price, priced.net, priced.vat, priced.gross, priced.mass_g} == {None}
    assert [found.code for found in priced.warnings] == ["inverted", "not_closed"]
    assert explain(ring(closed=False), Options("silver-925"), LIST, FIX) == ()


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (Options("gold"), "unknown_material", "gold-585-yellow"),
        (Options("brass", finish="shiny"), "unknown_finish", "polished"),
        (Options("brass", plating="zinc"), "unknown_plating", "rhodium"),
        (Options("brass", units="ft"), "unknown_unit", "mm"),
        (Options("brass", quantity=0), "quantity_out_of_range", "10000"),
        (Options("brass", quantity=-3), "quantity_out_of_range", "10000"),
        (Options("brass", quantity=10_001), "quantity_out_of_range", "10000"),
    ],
)
def test_unknown_options_are_refused_with_what_is_known(options: Options, code: str, named: str) -> None:
    for ask in (lambda: price(ring(), options, LIST, FIX), lambda: check_options(options, LIST)):
        with pytest.raises(Refused) as caught:
            ask()
        assert caught.value.code == code
        assert named in caught.value.remedy


def test_what_has_no_volume_worth_a_number_is_for_a_person() -> None:
    assert price(ring(4e-7, 1e-3), Options("brass"), LIST, FIX).priceable == "manual"


def test_the_largest_price_is_still_exact() -> None:
    facts, options = ring(2.1e8, 2.1e6, extent=(600.0, 600.0, 600.0)), Options("gold-999", quantity=10_000)
    priced = price(facts, options, LIST, FIX)
    assert priced.priceable == "provisional"
    assert priced.net == sum((line.amount for line in priced.lines), Decimal(0))
    assert price(ring(8e18, 6e13, extent=(2e6, 2e6, 2e6)), options, LIST, FIX).priceable == "manual"


def test_a_whole_ring_from_its_file_to_its_price() -> None:
    priced = price(analyse(meshes.binary_stl(meshes.torus())), Options("silver-925"), LIST, FIX)
    assert priced.priceable == "auto"
    assert priced.gross is not None
    assert priced.gross > 0
