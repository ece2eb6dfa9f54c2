"""Price lists and metal fixes are read strictly, and all that is wrong is said at once."""

import json
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest

from pricing.price.price_list import (
    InvalidData,
    default_metal_fix,
    default_price_list,
    parse_metal_fix,
    parse_price_list,
)

DENSITIES_G_CM3 = {
    "gold-999": "19.32",
    "gold-750-yellow": "15.58",
    "gold-750-red": "15.18",
    "gold-750-white-ni": "14.64",
    "gold-750-white-pd": "16.40",
    "gold-585-yellow": "13.07",
    "gold-585-red": "13.26",
    "gold-585-white": "12.61",
    "silver-925": "10.36",
    "silver-999": "10.50",
    "platinum-950-ru": "20.70",
    "palladium-950": "12.00",
    "brass": "8.40",
    "bronze": "8.76",
}


def raw(name: str) -> Any:
    return json.loads(files("pricing.price").joinpath(f"default_{name}.json").read_bytes())


def problems(document: object) -> dict[str, str]:
    with pytest.raises(InvalidData) as caught:
        parse_price_list(json.dumps(document).encode())
    return dict(caught.value.errors)


def changed(pointer: str, value: object) -> Any:
    """The default price list with one value replaced, or taken out when the value is `...`."""
    document = raw("price_list")
    *steps, last = pointer.strip("/").split("/")
    part = document
    for step in steps:
        part = part[int(step)] if isinstance(part, list) else part[step]
    if value is ...:
        del part[last]
    else:
        part[int(last) if isinstance(part, list) else last] = value
    return document


def test_default_list_has_every_alloy_with_its_density_and_a_source() -> None:
    materials = default_price_list().materials
    assert {material.code: str(material.density_g_cm3) for material in materials} == DENSITIES_G_CM3
    assert all(material.density_source for material in materials)


ELEMENTS_G_CM3 = {"Au": 19.32, "Ag": 10.49, "Pt": 21.45, "Pd": 12.02, "Ru": 12.45, "Cu": 8.96, "Sn": 7.29}
MIXTURES: dict[str, dict[str, float]] = {
    "gold-750-white-pd": {"Au": 75, "Pd": 14, "Ag": 11},
    "silver-925": {"Ag": 92.5, "Cu": 7.5},
    "platinum-950-ru": {"Pt": 95, "Ru": 5},
    "bronze": {"Cu": 90, "Sn": 10},
}


def ideal_g_cm3(shares: dict[str, float]) -> float:
    """The density of metals that keep their volume when they are melted together; shares in percent."""
    return 100 / sum(share / ELEMENTS_G_CM3[metal] for metal, share in shares.items())


def test_densities_that_are_calculated_say_so_and_come_out() -> None:
    calculated = {
        row.code: row for row in default_price_list().materials if "not measured" in row.density_source
    }
    assert set(calculated) == {*MIXTURES, "palladium-950"}
    for code, shares in MIXTURES.items():
        assert float(calculated[code].density_g_cm3) == pytest.approx(ideal_g_cm3(shares), abs=0.015)
    stated: dict[str, dict[str, float]] = {
        "5 % ruthenium gives 12.04": {"Pd": 95, "Ru": 5},
        "5 % copper 11.82": {"Pd": 95, "Cu": 5},
    }
    for said, shares in stated.items():
        assert said.split()[-1] == f"{ideal_g_cm3(shares):.2f}"
        assert said in calculated["palladium-950"].density_source


def test_densities_from_a_table_name_it_and_its_row() -> None:
    rows = [row for row in default_price_list().materials if "not measured" not in row.density_source]
    for row in rows:
        assert "(15 August 2012): " in row.density_source or "tables of the elements" in row.density_source


def test_a_list_without_stones_is_a_list() -> None:
    document = raw("price_list")
    del document["stones"]
    assert parse_price_list(json.dumps(document).encode()).stones == ()


def test_more_pieces_for_the_same_labour_are_a_gift_unless_rounding_makes_them_cheaper() -> None:
    document = changed(
        "/quantity_breaks", [{"from_quantity": 2, "rate": "0.25"}, {"from_quantity": 3, "rate": "0.5"}]
    )
    assert parse_price_list(json.dumps(document).encode())
    assert set(problems(document | {"rounding": "half_even"})) == {"/quantity_breaks/1/rate"}


def test_default_list_and_fix_have_the_published_defaults() -> None:
    price_list = default_price_list()
    assert (price_list.default_finish, price_list.default_plating, price_list.rounding) == (
        "polished",
        "none",
        "half_up",
    )
    assert [(step.from_quantity, str(step.rate)) for step in price_list.quantity_breaks] == [(3, "0.05")]
    assert default_metal_fix().per_oz("gold") == Decimal(2000)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/version", ""),
        ("/version", 3),
        ("/version", ...),
        ("/valid_from", "2026-01-01"),
        ("/valid_from", "2026-01-01T00:00:00"),
        ("/valid_to", "2025-01-01T00:00:00Z"),
        ("/currency", "USD"),
        ("/rounding", "down"),
        ("/quote_validity_days", 0),
        ("/quote_validity_days", 7.5),
        ("/quantity_max", 0),
        ("/mass_tolerance_pct", "101"),
        ("/volume_error_max_pct", "0"),
        ("/volume_error_max_pct", "0.11"),
        ("/default_finish", "shiny"),
        ("/default_plating", "zinc"),
        ("/rates/vat", "20"),
        ("/rates/vat", 0.2),
        ("/rates/vat", "NaN"),
        ("/rates/vat", "Infinity"),
        ("/rates/vat", "0,2"),
        ("/rates/vat", "1e-40"),
        ("/rates/vat", None),
        ("/rates/markup", "-0.1"),
        ("/rates/order_minimum", "0"),
        ("/rates/rush", ...),
        ("/materials", {}),
        ("/materials", []),
        ("/materials/0", "gold"),
        ("/materials/0/density_g_cm3", "0"),
        ("/materials/0/density_g_cm3", "1932"),
        ("/materials/0/density_source", " "),
        ("/materials/0/fineness", "1.001"),
        ("/materials/0/fineness", "0"),
        ("/materials/0/metal", "tin"),
        ("/materials/0/code", "Gold 999"),
        ("/materials/1/code", "gold-999"),
        ("/materials/12/price_per_kg", "0"),
        ("/finishes/0/rate_per_cm2", "-1"),
        ("/quantity_breaks/0/from_quantity", "3"),
        ("/stones/0/code", "Own small"),
        ("/stones/0/code", "x" * 41),
        ("/stones/1/code", "own-small"),
        ("/stones/0/price_each", 0.4),
        ("/stones/0/setting_each", "-1"),
        ("/stones/0/setting_each", ...),
        ("/stones/0/carat", "1"),
        ("/materials/0/code", "x" * 41),
    ],
)
def test_each_rule_names_the_place_it_is_broken(pointer: str, value: object) -> None:
    assert pointer in problems(changed(pointer, value))


@pytest.mark.parametrize(
    ("pointer", "value", "where"),
    [
        ("/materials/0/metal", ..., "/materials/0"),
        ("/materials/0/price_per_kg", "12", "/materials/0"),
        ("/materials/12/price_per_kg", ..., "/materials/12"),
        ("/quantity_breaks/0/from_quantity", 1, "/quantity_breaks/0"),
        ("/quantity_breaks/0/rate", "1", "/quantity_breaks/0"),
        ("/quantity_breaks/0/rate", "0.5", "/quantity_breaks/0/rate"),
        ("/rates/discount", "0.5", "/rates/discount"),
        ("/a~b/c".replace("/c", ""), 1, "/a~0b"),
    ],
)
def test_rules_between_fields(pointer: str, value: object, where: str) -> None:
    assert where in problems(changed(pointer, value))


def test_all_errors_are_reported_together() -> None:
    document = changed("/rates/vat", 0.2)
    document["materials"][3]["density_g_cm3"] = None
    document["surprise"] = True
    del document["version"]
    assert set(problems(document)) == {"/rates/vat", "/materials/3/density_g_cm3", "/surprise", "/version"}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"1"]
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    for parse in (parse_price_list, parse_metal_fix):
        with pytest.raises(InvalidData):
            parse(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gold_per_oz", "0"),
        ("silver_per_oz", "-1"),
        ("platinum_per_oz", 950),
        ("fixed_at", "yesterday"),
        ("fixed_at", "2026-01-01T00:00:00"),
        ("source", ""),
        ("version", " "),
        ("rhodium_per_oz", "1"),
    ],
)
def test_metal_fix_is_checked_as_strictly(field: str, value: object) -> None:
    with pytest.raises(InvalidData) as caught:
        parse_metal_fix(json.dumps(raw("metal_fix") | {field: value}).encode())
    assert f"/{field}" in dict(caught.value.errors)
