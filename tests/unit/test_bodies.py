"""Bodies are told apart by number, and a stone that was left in the file is not metal."""

from collections.abc import Callable

import numpy as np
import pytest

from pricing.errors import Refused
from pricing.mesh.analysis import analyse
from pricing.mesh.bodies import BODIES_LISTED_MAX
from pricing.price.firmness import firmness_of
from pricing.price.leave_out import parse_leave_out
from pricing.price.model_view import model_view
from tests.support import meshes

RING = meshes.torus()
STONE = meshes.cube(2.0, (8.0, -1.0, 0.5))
"""Sunk into the ring."""
APART = meshes.cube(3.0, (30.0, 0.0, 0.0))
SET = np.concatenate([APART, RING, STONE])
ALONE = analyse(meshes.binary_stl(RING))


@pytest.mark.parametrize("write", meshes.ALL_FORMATS.values(), ids=meshes.ALL_FORMATS)
def test_bodies_have_a_number_a_volume_a_box_and_say_whether_they_are_closed(
    write: Callable[[meshes.Triangles], bytes],
) -> None:
    facts = analyse(write(SET))
    view = model_view("ab" * 32, 1, facts, "mm")
    assert [body.index for body in view.bodies_found] == [1, 2, 3]
    assert [body.facets for body in view.bodies_found] == [12, len(RING), 12]
    volumes = [body.volume_mm3 for body in view.bodies_found]
    assert volumes == pytest.approx([27, ALONE.volume, 8], rel=1e-5)
    assert view.bodies_found[0].lower_mm == pytest.approx((30, 0, 0), abs=1e-5)
    assert view.bodies_found[0].upper_mm == pytest.approx((33, 3, 3), abs=1e-5)
    assert all(body.closed for body in view.bodies_found)


def test_an_open_body_is_told_and_one_body_is_not_listed() -> None:
    found = analyse(meshes.binary_stl(np.concatenate([RING, APART[1:]]))).bodies_found
    assert [body.closed for body in found] == [True, False]
    assert model_view("", 1, analyse(meshes.binary_stl(SET[1:])), "").bodies_found[0].volume_mm3 is None
    assert ALONE.bodies_found == ()


@pytest.mark.parametrize("write", meshes.ALL_FORMATS.values(), ids=meshes.ALL_FORMATS)
def test_what_is_left_out_is_not_sold(write: Callable[[meshes.Triangles], bytes]) -> None:
    """Also where it overlaps with what is sold."""
    facts = analyse(write(SET), leave_out=(1, 3))
    assert facts.volume == pytest.approx(ALONE.volume, rel=1e-5)
    assert facts.area == pytest.approx(ALONE.area, rel=1e-5)
    assert (facts.bodies, facts.closed, facts.bodies_found) == (1, True, ())
    assert [warning.code for warning in facts.warnings] == ["bodies_left_out"]
    assert firmness_of(facts, "mm").priceable == "auto"
    without_ring = analyse(write(SET), leave_out=(2,))
    assert without_ring.volume == pytest.approx(27 + 8, rel=1e-5)


def test_an_open_stone_that_is_left_out_makes_the_rest_firm() -> None:
    body = meshes.binary_stl(np.concatenate([RING, APART[1:]]))
    assert firmness_of(analyse(body), "mm").priceable == "manual"
    assert firmness_of(analyse(body, leave_out=(2,)), "mm").priceable == "auto"


@pytest.mark.parametrize(("bodies", "code"), [((4,), "unknown_body"), ((1, 2, 3), "no_facets")])
def test_a_body_that_is_not_there_and_nothing_left_are_refused(bodies: tuple[int, ...], code: str) -> None:
    with pytest.raises(Refused) as caught:
        analyse(meshes.binary_stl(SET), leave_out=bodies)
    assert caught.value.code == code


def test_of_many_bodies_the_first_are_listed() -> None:
    many = np.concatenate([meshes.cube(1.0, (3.0 * n, 0.0, 0.0)) for n in range(BODIES_LISTED_MAX + 5)])
    facts = analyse(meshes.binary_stl(many))
    assert (facts.bodies, len(facts.bodies_found)) == (BODIES_LISTED_MAX + 5, BODIES_LISTED_MAX)
    last = analyse(meshes.binary_stl(many), leave_out=(BODIES_LISTED_MAX + 5,))
    assert last.bodies == BODIES_LISTED_MAX + 4


def test_wishes_are_read_in_any_order_and_what_is_none_is_refused() -> None:
    assert parse_leave_out(" 5, 2,5 ") == (2, 5)
    assert parse_leave_out("") == ()
    for wrong in ("0", "a", "1;2", "-1", "1,,2", ",", "1234567", "\u0661", ",".join(map(str, range(1, 60)))):
        with pytest.raises(Refused) as caught:
            parse_leave_out(wrong)
        assert caught.value.code == "malformed_leave_out"
