"""One ring, however it is written down, is one model."""

import pytest

from pricing.mesh.analysis import analyse
from pricing.price.firmness import firmness_of
from pricing.price.model_view import ModelView, model_view
from tests.support.encodings import Encoding, encodings

ENCODINGS = encodings()


def view(encoding: Encoding) -> ModelView:
    return model_view("0" * 64, len(encoding.body), analyse(encoding.body), encoding.units)


REFERENCE = view(ENCODINGS["binary STL"])


def test_there_are_more_than_twenty_encodings_and_no_two_are_the_same_bytes() -> None:
    assert len({encoding.body for encoding in ENCODINGS.values()}) == len(ENCODINGS) > 20


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_of_a_ring_gives_the_same_model(name: str) -> None:
    encoding = ENCODINGS[name]
    found = view(encoding)
    assert found.volume_mm3 == pytest.approx(REFERENCE.volume_mm3, rel=encoding.tolerance)
    assert found.area_mm2 == pytest.approx(REFERENCE.area_mm2, rel=encoding.tolerance)
    assert found.bbox_mm == pytest.approx(REFERENCE.bbox_mm, rel=encoding.tolerance)
    assert found.facets == REFERENCE.facets == 2304
    assert (found.bodies, found.closed, found.oriented, found.repaired) == (1, True, True, False)
    assert {warning.code for warning in found.warnings} <= {"parts_left_out"}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_of_a_ring_is_priced_firmly(name: str) -> None:
    encoding = ENCODINGS[name]
    assert firmness_of(analyse(encoding.body), encoding.units).priceable == "auto"


def test_the_ring_is_what_its_formula_says() -> None:
    ring_mm, tube_mm = 9.0, 1.5
    # Pappus: a polygon of 24 corners carried around 48 corners lies inside of the torus.
    assert REFERENCE.volume_mm3 == pytest.approx(19.739 * ring_mm * tube_mm**2, rel=0.02)
    assert REFERENCE.bbox_mm == pytest.approx((21, 21, 3), rel=1e-6)
