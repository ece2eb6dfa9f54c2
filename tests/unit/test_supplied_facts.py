"""Facts given as JSON: taken as they are, or refused with what is wrong."""

import json
from typing import Any

import pytest

from pricing.errors import Refused
from pricing.price.supplied_facts import GIVEN_BYTES_MAX, given_facts

LEAST = {"volume_mm3": 241.186049, "area_mm2": 1057.768, "bbox_mm": [20, 20, 5]}


def given(**fields: Any) -> bytes:
    return json.dumps(LEAST | fields).encode()


def test_three_measures_are_one_sound_body() -> None:
    model, facts = given_facts(given())
    assert (facts.volume, facts.area, facts.extent) == (241.186049, 1057.768, (20, 20, 5))
    assert (facts.bodies, facts.closed, facts.oriented, facts.repaired, facts.unit) == (
        1,
        True,
        True,
        False,
        "mm",
    )
    assert (model.volume_mm3, model.area_mm2) == (241.186049, 1057.768)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b" " * (GIVEN_BYTES_MAX + 1),
        b'{"model": null}',
        given(volume_mm3=0),
        given(volume_mm3=-1),
        given(volume_mm3="241"),
        given(volume_mm3=None),
        given(volume_mm3=241).replace(b"241", b"1e400"),
        given(area_mm2=0),
        given(bbox_mm=[20, 20]),
        given(bbox_mm=[20, 20, 0]),
        given(bodies=0),
        given(bodys=2),
        given(closed="yes"),
    ],
)
def test_what_no_body_has_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        given_facts(data)
    assert caught.value.code == "malformed_facts"
    assert "volume_mm3" in caught.value.remedy
