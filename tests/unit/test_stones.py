"""Stones: how they are written, and what they and their setting cost."""

from decimal import Decimal

import msgspec
import pytest

from pricing.errors import Refused
from pricing.price.formula import explain, price
from pricing.price.options import Options, check_options
from pricing.price.stones import STONE_KINDS_MAX, STONES_PER_KIND_MAX, StoneCount, parse_stones
from tests.support.price_lists_drawn import FIX, LIST, facts

ASKED = parse_stones("zirconia-large:1,own-small:12")


def amounts(options: Options) -> dict[str, Decimal]:
    return {line.code: line.amount for line in price(facts(), options, LIST, FIX).lines}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("  ", ()),
        ("a:1", (StoneCount("a", 1),)),
        ("b:2, a:0010", (StoneCount("a", 10), StoneCount("b", 2))),
    ],
)
def test_equal_wishes_are_equal_however_they_are_written(text: str, expected: tuple[StoneCount, ...]) -> None:
    assert parse_stones(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("own-small", "malformed_stones"),
        ("own-small:", "malformed_stones"),
        ("own-small:-1", "malformed_stones"),
        ("own-small:1.5", "malformed_stones"),
        ("own-small:1e3", "malformed_stones"),
        ("own-small:١", "malformed_stones"),
        (":3", "malformed_stones"),
        ("a:1,", "malformed_stones"),
        ("a:1,a:2", "malformed_stones"),
        ("a:1:2", "malformed_stones"),
        ("a:" + "9" * 5_000, "malformed_stones"),
        ("own-small:0", "stones_out_of_range"),
        (f"own-small:{STONES_PER_KIND_MAX + 1}", "stones_out_of_range"),
        (",".join(f"a{kind}:1" for kind in range(STONE_KINDS_MAX + 1)), "stones_out_of_range"),
    ],
)
def test_what_is_no_list_of_stones_is_refused(text: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_stones(text)
    assert caught.value.code == code
    assert caught.value.remedy


def test_a_kind_that_the_list_does_not_have_is_refused_with_those_it_has() -> None:
    options = Options("brass", stones=(StoneCount("moonstone", 1),))
    with pytest.raises(Refused, match="unknown_stone") as caught:
        check_options(options, LIST)
    assert "zirconia-small" in caught.value.remedy
    bare = msgspec.structs.replace(LIST, stones=())
    with pytest.raises(Refused, match="unknown_stone") as caught:
        price(facts(), options, bare, FIX)
    assert "no stones at all" in caught.value.remedy


def test_stones_and_their_setting_are_lines_of_every_piece() -> None:
    options = Options("gold-585-yellow", quantity=3, stones=ASKED)
    found = amounts(options)
    assert found["stones"] == Decimal("6.60")  # one of 2.20, the customer's own for nothing, three pieces
    assert found["setting"] == Decimal("180.00")  # 12 x 3.50 + 18.00 = 60.00, three pieces
    priced = price(facts(), options, LIST, FIX)
    assert priced.stones == ASKED
    assert priced.unit_price == Decimal("186.21") + Decimal("62.20")


def test_setting_is_no_labour_of_the_quantity_break() -> None:
    plain = Options("gold-585-yellow", quantity=3)
    assert amounts(msgspec.structs.replace(plain, stones=ASKED))["quantity_break"] == Decimal("-5.52")
    assert amounts(plain)["quantity_break"] == Decimal("-5.52")


def test_stones_of_the_customer_cost_their_setting_alone() -> None:
    found = amounts(Options("brass", stones=parse_stones("own-large:2")))
    assert "stones" not in found
    assert found["setting"] == Decimal("36.00")


def test_the_explanation_has_the_number_and_the_rate_of_each_kind() -> None:
    steps = {step.code: step for step in explain(facts(), Options("brass", stones=ASKED), LIST, FIX)}
    named = {name: str(value) for name, value in steps["setting"].variables}
    assert named == {
        "own-small_count": "12",
        "own-small_each": "3.50",
        "zirconia-large_count": "1",
        "zirconia-large_each": "18.00",
        "each": "60.00",
        "quantity": "1",
    }
