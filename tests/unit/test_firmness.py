"""How firmly a mesh may be priced."""

from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.errors import Refused
from pricing.facts import Facts, MeshWarning
from pricing.mesh.analysis import analyse
from pricing.price.firmness import firmness_of
from pricing.price.formula import price
from pricing.price.model_view import model_view
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, default_price_list
from pricing.units import DECLARABLE_UNITS, MILLIMETRES_PER_UNIT
from tests.support import meshes

MM = {unit: float(MILLIMETRES_PER_UNIT[unit]) for unit in DECLARABLE_UNITS}
RING = analyse(meshes.binary_stl(meshes.torus()))


def changed(**fields: object) -> Facts:
    return msgspec.structs.replace(RING, **fields)


def codes(facts: Facts, units: str = "mm") -> list[str]:
    return [warning.code for warning in firmness_of(facts, units).warnings]


def test_a_closed_ring_of_the_size_of_a_finger_is_firm() -> None:
    assert firmness_of(RING, "mm").priceable == "auto"
    assert codes(RING) == []


def test_open_or_contradictory_surfaces_are_for_a_person() -> None:
    assert firmness_of(changed(closed=False, oriented=False), "mm").priceable == "manual"
    assert firmness_of(changed(oriented=False), "mm").priceable == "manual"
    assert codes(changed(closed=False, oriented=False)) == ["not_closed"]
    assert codes(changed(oriented=False)) == ["not_oriented"]


def test_bodies_that_are_apart_are_firm() -> None:
    note = MeshWarning("several_bodies", "There are 2 bodies; they do not overlap.")
    assert firmness_of(changed(bodies=2, warnings=(note,)), "mm").priceable == "auto"


@pytest.mark.parametrize(
    "code", ["bodies_not_counted", "bodies_unchecked", "metal_unchecked", "self_crossing", "flipped_facets"]
)
def test_doubts_found_in_the_mesh_are_provisional(code: str) -> None:
    assert firmness_of(changed(warnings=(MeshWarning(code, "seen"),)), "mm").priceable == "provisional"


@pytest.mark.parametrize("code", ["cracks_closed", "degenerate_facets"])
def test_repairs_that_change_no_volume_are_firm(code: str) -> None:
    assert (
        firmness_of(changed(repaired=True, warnings=(MeshWarning(code, "seen"),)), "mm").priceable == "auto"
    )


def test_a_hole_is_for_a_person_and_says_where() -> None:
    firmness = firmness_of(analyse(meshes.binary_stl(meshes.torus()[1:])), "mm")
    assert firmness.priceable == "manual"
    assert [warning.code for warning in firmness.warnings] == ["open_edges", "not_closed"]


def test_an_inverted_mesh_is_firm_and_says_so() -> None:
    facts = analyse(meshes.binary_stl(meshes.flipped(meshes.torus())))
    assert firmness_of(facts, "mm").priceable == "auto"
    assert codes(facts) == ["inverted"]


@pytest.mark.parametrize(
    ("made_mm", "stated_as"), [(16, "cm"), (35, "cm"), (15, "in"), (35, "in"), (15, "m"), (35, "m")]
)
def test_a_ring_in_millimetres_declared_in_another_unit_is_not_firm(made_mm: float, stated_as: str) -> None:
    facts = changed(extent=(float(made_mm), float(made_mm), 3.0))
    assert firmness_of(facts, "mm").priceable == "auto"
    firmness = firmness_of(facts, stated_as)
    assert firmness.priceable == ("manual" if made_mm * MM[stated_as] > 600 else "provisional")
    assert "units=mm" in {warning.query for warning in firmness.warnings}


@pytest.mark.parametrize(("made_mm", "millimetres"), [(15, 10), (35, 10), (15, 25.4), (35, 25.4), (35, 1000)])
def test_a_ring_in_another_unit_declared_as_millimetres_is_not_firm(
    made_mm: float, millimetres: float
) -> None:
    size = made_mm / millimetres
    firmness = firmness_of(changed(extent=(size, size, size / 10)), "mm")
    assert firmness.priceable == ("manual" if size < 2.5 else "provisional")
    unit = next(unit for unit, factor in MM.items() if factor == millimetres)
    assert f"units={unit}" in {warning.query for warning in firmness.warnings}


def test_chains_and_bracelets_are_longer_than_rings() -> None:
    assert firmness_of(changed(extent=(450.0, 20.0, 2.0)), "mm").priceable == "auto"
    assert firmness_of(changed(extent=(200.0, 40.0, 2.0)), "mm").priceable == "provisional"
    assert firmness_of(changed(extent=(601.0, 20.0, 2.0)), "mm").priceable == "manual"


def test_what_would_weigh_nothing_has_no_amount() -> None:
    assert codes(changed(volume=0.05)) == ["implausible_size"]
    assert firmness_of(changed(volume=0.05), "mm").priceable == "manual"


def test_a_size_of_jewellery_with_hardly_any_volume_is_suspicious() -> None:
    assert codes(changed(volume=0.49)) == ["suspicious_volume"]
    assert firmness_of(changed(volume=0.49), "mm").priceable == "provisional"


def test_unknown_units_are_refused() -> None:
    for unit in ("MM", "foot", "ft", "parsec"):
        with pytest.raises(Refused, match="unknown_unit"):
            firmness_of(RING, unit)


def test_the_declared_unit_wins_and_what_the_file_says_is_told() -> None:
    facts = analyse(meshes.glb(meshes.torus()))
    assert firmness_of(facts, "mm").priceable == "auto"
    assert codes(facts) == ["unit_not_of_file"]
    assert model_view("0" * 64, 1, facts, "mm").volume_mm3 == pytest.approx(RING.volume, rel=1e-5)
    assert firmness_of(facts, "").priceable == "manual"
    assert codes(facts, "") == ["implausible_size", "unit_hint"]


def test_the_unit_of_the_file_is_taken_where_none_is_declared() -> None:
    facts = analyse(meshes.glb(meshes.torus() / 1000))
    assert (firmness_of(facts, "").priceable, codes(facts, "")) == ("auto", [])
    assert model_view("0" * 64, 1, facts, "").volume_mm3 == pytest.approx(RING.volume, rel=1e-5)
    assert codes(facts, "m") == []


def test_an_open_model_shows_no_volume() -> None:
    view = model_view("0" * 64, 1, changed(closed=False, oriented=False), "mm")
    assert (view.volume_mm3, view.metal_mm3) == (None, None)


@pytest.mark.parametrize(
    "triangles",
    [
        meshes.cube()[:2],
        np.concatenate([meshes.cube()[:2], meshes.flipped(meshes.cube()[:2])]),
        meshes.cube() * (1, 1, 0),
        np.zeros((4, 3, 3)),
    ],
    ids=["sheet", "two-sided sheet", "flattened", "point"],
)
def test_what_encloses_nothing_is_refused(triangles: meshes.Triangles) -> None:
    facts = analyse(meshes.binary_stl(triangles))
    with pytest.raises(Refused, match="zero_volume"):
        firmness_of(facts, "mm")


def test_a_foil_encloses_something() -> None:
    assert firmness_of(analyse(meshes.binary_stl(meshes.cube() * (1, 1, 1e-2))), "mm").priceable == "auto"


@given(
    surface=st.tuples(st.booleans(), st.booleans()),
    bodies=st.sampled_from([None, 1, 2]),
    largest=st.floats(0.1, 1e7),
    doubts=st.sets(
        st.sampled_from(["bodies_not_counted", "self_crossing", "flipped_facets", "duplicate_facets"])
    ),
    notes=st.sets(st.sampled_from(["several_bodies", "inverted", "cracks_closed", "degenerate_facets"])),
)
def test_firm_only_without_any_doubt(
    surface: tuple[bool, bool], bodies: int | None, largest: float, doubts: set[str], notes: set[str]
) -> None:
    closed, oriented = surface
    doubts = doubts | ({"bodies_not_counted"} if bodies is None else set())
    facts = changed(
        closed=closed,
        oriented=oriented,
        bodies=bodies,
        extent=(largest, largest, 0.05),
        warnings=tuple(MeshWarning(code, "seen") for code in doubts | notes),
    )
    firmness = firmness_of(facts, "mm")
    plausible = 5 <= largest <= 150
    firm = closed and oriented and not doubts and plausible
    assert (firmness.priceable == "auto") == firm
    assert (firmness.priceable == "manual") == (not closed or not oriented or not 2.5 <= largest <= 600)
    assert firm or firmness.warnings or bodies is None


def test_view_is_in_millimetres_whatever_the_unit() -> None:
    in_mm = model_view("ab" * 32, 684, RING, "mm", None)
    in_cm = model_view("ab" * 32, 684, analyse(meshes.binary_stl(meshes.torus() / 10)), "cm")
    assert in_cm.volume_mm3 == pytest.approx(in_mm.volume_mm3, rel=1e-5)
    assert in_cm.area_mm2 == pytest.approx(in_mm.area_mm2, rel=1e-5)
    assert in_cm.bbox_mm == pytest.approx(in_mm.bbox_mm, rel=1e-5)
    assert in_mm.volume_mm3 == pytest.approx(RING.volume, rel=1e-9)
    names = (
        "sha256 format bytes facets volume_mm3 area_mm2 bbox_mm bodies closed oriented repaired warnings"
        " metal_mm3 cavities_mm3 counted_twice_mm3 inside_out_mm3 leaks bodies_found verification"
    )
    assert " ".join(msgspec.to_builtins(in_mm)) == names


def test_what_may_be_wrong_of_a_firm_volume_is_for_the_price_list_to_say() -> None:
    cracked = meshes.torus(around=96)
    cracked[: len(cracked) // 2] += np.float32(0.005)
    facts = analyse(meshes.binary_stl(cracked))
    assert "cracks_closed" in [warning.code for warning in facts.warnings]
    assert 0 < facts.volume_error < 1e-3
    assert firmness_of(facts, "mm").priceable == "auto"
    strict = firmness_of(facts, "mm", Decimal(str(facts.volume_error * 50)))
    assert strict.priceable == "provisional"
    assert strict.warnings[-1].code == "volume_uncertain"
    allowed = firmness_of(facts, "mm", Decimal(str(facts.volume_error * 101)))
    assert allowed.priceable == "auto"
    asked = (Options("brass"), default_price_list(), default_metal_fix())
    assert price(facts, *asked).priceable == "auto"
    stricter = msgspec.structs.replace(asked[1], volume_error_max_pct=Decimal("0.0001"))
    assert price(facts, asked[0], stricter, asked[2]).priceable == "provisional"


@pytest.mark.parametrize("thickness", [1e-312, 1e-200, 1e-30])
def test_facts_of_what_is_next_to_nothing_can_be_read_again(thickness: float) -> None:
    sheet = meshes.cube(1.0).astype(np.float64) * (1e9, 1e9, thickness)
    facts = analyse(meshes.obj(sheet))
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
    assert 0 <= facts.volume_error <= 1
