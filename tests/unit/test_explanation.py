"""An explained price, recomputed from nothing but its own words: formulas, numbers, rounding."""

import ast
import decimal
import operator
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from pricing.facts import Facts
from pricing.price.explanation import Workings, workings
from pricing.price.formula import price
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, default_price_list
from pricing.price.stones import StoneCount

OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FACTS = Facts(
    format="stl-binary",
    facets=576,
    volume=241.186049,
    area=1057.768,
    extent=(21.0, 21.0, 3.0),
    bodies=1,
    closed=True,
    oriented=True,
    repaired=False,
    unit=None,
    warnings=(),
)
FIRST_STONES = tuple(StoneCount(stone.code, 3) for stone in default_price_list().stones[:2])


def value_of(formula: str, numbers: Mapping[str, Decimal]) -> Decimal:
    """The value of a formula, as somebody works it out who knows + - * / and max."""

    def of(node: ast.AST) -> Decimal:
        if isinstance(node, ast.BinOp):
            return Decimal(OPERATORS[type(node.op)](of(node.left), of(node.right)))
        if isinstance(node, ast.UnaryOp):
            return -of(node.operand)
        if isinstance(node, ast.Call):
            return max(of(argument) for argument in node.args)
        if isinstance(node, ast.Name):
            return numbers[node.id]
        assert isinstance(node, ast.Constant), ast.dump(node)
        return Decimal(str(node.value))

    with decimal.localcontext(prec=60):
        return of(ast.parse(formula, mode="eval").body)


def recomputed(working: Any, places: int = 2) -> Decimal:
    """The result of one working: of each piece first, where there are several."""
    numbers = {variable.name: Decimal(variable.value) for variable in working.variables}
    making, _, whole = working.formula.partition(" = each; ")
    step = Decimal(1).scaleb(-places)
    result = value_of(making, numbers).quantize(step, decimal.ROUND_HALF_UP)
    if whole:
        assert result == numbers["each"], working
        result = value_of(whole, numbers)
    return result


def check(found: Workings) -> None:
    for working in (*found.quantities, *found.lines, *found.totals):
        assert recomputed(working, working.places) == Decimal(working.result), working
        for variable in working.variables:
            assert variable.source, variable


@pytest.mark.parametrize(
    "options",
    [
        Options("gold-585-yellow", quantity=3),
        Options("brass", units="cm", rush=True),
        Options("silver-925", quantity=40, plating="rhodium", finish="satin"),
        Options("platinum-950-ru", units="in", stones=FIRST_STONES),
    ],
)
def test_whoever_follows_the_formulas_comes_to_the_price(options: Options) -> None:
    found = workings(FACTS, options, default_price_list(), default_metal_fix())
    check(found)
    priced = price(FACTS, options, default_price_list(), default_metal_fix())
    assert [(line.code, Decimal(line.result)) for line in found.lines] == [
        (line.code, line.amount) for line in priced.lines
    ]
    totals = {working.code: Decimal(working.result) for working in found.totals}
    assert totals == {name: getattr(priced, name) for name in ("unit_price", "net", "vat", "gross")}
    assert found.quantities[-1].result == str(priced.mass_g)


def test_several_bodies_and_a_minimum_are_explained_as_well() -> None:
    tiny = Facts(**{**{name: getattr(FACTS, name) for name in FACTS.__struct_fields__}, "bodies": 3})
    found = workings(tiny, Options("brass"), default_price_list(), default_metal_fix())
    check(found)
    assert "bodies" in {working.code for working in found.lines}


def test_numbers_say_their_unit_and_which_version_they_are_of() -> None:
    price_list, metal_fix = default_price_list(), default_metal_fix()
    found = workings(FACTS, Options("gold-585-yellow"), price_list, metal_fix)
    metal = {variable.name: variable for variable in found.lines[0].variables}
    assert metal["fix_per_oz"].unit == "EUR/oz"
    assert metal["fix_per_oz"].source == f"metal fix {metal_fix.version}"
    assert metal["fineness"].source == f"price list {price_list.version}"
    volume, area, mass = found.quantities
    assert (volume.code, volume.unit, volume.variables[0].source) == ("volume_mm3", "mm3", "model")
    assert (area.unit, mass.unit) == ("mm2", "g")


def test_a_price_of_a_person_has_nothing_to_explain() -> None:
    opened = Facts(**{**{name: getattr(FACTS, name) for name in FACTS.__struct_fields__}, "closed": False})
    found = workings(opened, Options("brass"), default_price_list(), default_metal_fix())
    assert (found.quantities, found.lines, found.totals) == ((), (), ())
