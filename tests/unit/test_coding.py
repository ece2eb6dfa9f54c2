"""Which coding a caller gets, and when."""

import gzip

import pytest
import zstandard

from server.http.coding import CODINGS, CodedBodies, chosen, told_tag
from server.http.problems import HttpError

ZSTD, GZIP = CODINGS


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "gzip"),
        ("br, deflate, compress", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000, zstd;q=0", None),
        ("gzip ; q=0.5 , zstd;q=0.4", "gzip"),
        ("zstd;q=0, gzip", "gzip"),
        ("gzip;q=0.2, identity;q=0.5", None),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("identity;q=0, gzip", "gzip"),
        ("*", "gzip"),
        ("*;q=0, gzip", "gzip"),
        ("*;q=0, identity", None),
        ("gzip;q=0, *", "zstd"),
        ("gzip;q=two", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        (", ,gzip", "gzip"),
        ("x" * 995 + ", gzip;q=0", None),
    ],
)
def test_what_a_caller_gets(header: str | None, name: str | None) -> None:
    coding = chosen(header).coding
    assert (None if coding is None else coding.name) == name
    refused = {"identity;q=0, gzip", "*;q=0, gzip"}
    assert chosen(header).never_plain is (header in refused)


@pytest.mark.parametrize("header", ["identity;q=0", "*;q=0", "br, identity;q=0", "gzip;q=0, zstd;q=0, *;q=0"])
def test_who_takes_nothing_that_there_is_is_told(header: str) -> None:
    with pytest.raises(HttpError) as caught:
        chosen(header)
    assert (caught.value.status, caught.value.code) == (406, "not_acceptable")


def test_a_body_is_encoded_at_its_second_serving_and_once() -> None:
    bodies, body = CodedBodies(), b"facet " * 1_000
    for coding, decode in ((ZSTD, zstandard.decompress), (GZIP, gzip.decompress)):
        first, second, third = (bodies.find(body, coding) for _ in range(3))
        assert (first is None) is (coding is ZSTD)  # it has been served before, in another coding
        assert second is not None
        assert decode(second) == body
        assert third is second
    assert bodies.find(bytes(bytearray(body)), ZSTD) is None  # of others nothing is known


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('"7"', '"7"'),
        ('"7-gzip"', '"7-gzip"'),
        ('"6-gzip", "7-zstd"', '"7-zstd"'),
        ("*", '"7"'),
    ],
)
def test_what_a_caller_has_is_called_as_he_calls_it(given: str, told: str) -> None:
    assert told_tag(given, '"7"') == told
