"""Headers that change what an answer means, read as their RFCs say."""

import base64
import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from server.http.headers import (
    Preferences,
    announced_sha256,
    echoed_position,
    if_match,
    matches_etag,
    preferences,
    version_of,
)
from server.http.problems import HttpError
from storage.log.entries import Position


class Headers:
    """What of a request these functions look at."""

    def __init__(self, *lines: tuple[str, str]) -> None:
        self.headers = CIMultiDict(lines)


def a_request(name: str, *values: str) -> Any:
    return Headers(*((name, value) for value in values))


IF_MATCH: list[tuple[tuple[str, ...], set[int] | None]] = [
    ((), None),
    (("*",), None),
    (('"7"',), {7}),
    (('W/"7"',), {7}),
    (('"7-gzip"',), {7}),
    (('"7;gzip"',), {7}),
    (('"7" , W/"8","9-br"',), {7, 8, 9}),
    (('"7"', '"8"'), {7, 8}),
    (('"x", "7"',), {7}),
    (('"x", , "7",',), {7}),
    (('"*"',), set()),
    (('W/"*"',), set()),
    (('""',), set()),
    (('"7,8"',), set()),
    (('"-7"',), set()),
    (('"' + "9" * 19 + '"',), set()),
]


@pytest.mark.parametrize(("values", "versions"), IF_MATCH)
def test_if_match_names_versions(values: tuple[str, ...], versions: set[int] | None) -> None:
    assert if_match(a_request("If-Match", *values)) == versions


@pytest.mark.parametrize("value", ["", " ", "7", '"7', 'W/7"', '"7" "8"', 'w/"7"', "'7'", ",", '"7";q=1'])
def test_what_is_no_list_of_tags_is_refused(value: str) -> None:
    for read in (if_match, lambda request: matches_etag(request, '"7"')):
        with pytest.raises(HttpError) as refused:
            read(a_request("If-Match" if read is if_match else "If-None-Match", value))
        assert (refused.value.status, refused.value.code) == (400, "invalid_etag")


IF_NONE_MATCH: list[tuple[str, str, bool]] = [
    ('"7"', '"7"', True),
    ('"7"', 'W/"7"', True),
    ('"7"', '"7-gzip"', True),
    ('"7"', '"6", "7"', True),
    ('"7"', "*", True),
    ('"7"', '"77"', False),
    ('"7"', '"6"', False),
    ('"7"', '"7x"', False),
    ('W/"b1946ac92492d2347c"', 'W/"b1946ac92492d2347c"', True),
    ('W/"b1946ac92492d2347c"', '"b1946ac92492d2347c"', True),
    ('W/"b1946ac92492d2347c"', '"a", W/"b1946ac92492d2347c"', True),
    ('W/"b1946ac92492d2347c"', 'W/"b1946ac92492d2347c-gzip"', True),
    ('"b1946ac92492d2347c"', '"b1946ac92492d2347c;br"', True),
    ('"b1946ac92492d2347c"', '"b1946ac92492d2347cgzip"', False),
    ('"b1946ac92492d2347c"', '"*"', False),
    ('"b1946ac92492d2347c"', 'W/"*"', False),
    ('W/"b1946ac92492d2347c"', 'W/"c1946ac92492d2347c"', False),
]


@pytest.mark.parametrize(("etag", "given_tags", "same"), IF_NONE_MATCH)
def test_if_none_match_compares_weakly(etag: str, given_tags: str, same: bool) -> None:
    assert matches_etag(a_request("If-None-Match", given_tags), etag) is same
    assert not matches_etag(a_request("Accept", "*/*"), etag)


@given(st.integers(0, 10**18 - 1), st.sampled_from(["", "-gzip", ";br", "-x.y_z"]))
def test_a_version_is_read_through_the_suffix_of_a_coding(version: int, suffix: str) -> None:
    assert version_of(f"{version}{suffix}") == version


@given(st.text(max_size=30))
def test_any_tag_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(HttpError):
        versions = if_match(a_request("If-Match", text))
        assert versions is None or all(version >= 0 for version in versions)


PREFERENCES: list[tuple[tuple[str, ...], Preferences]] = [
    ((), Preferences()),
    (("durability=database",), Preferences(wait_for_database=True)),
    (('Durability="DATABASE"',), Preferences(wait_for_database=True)),
    (("durability=log",), Preferences()),
    (("wait=5",), Preferences(wait_s=5)),
    (("wait=0",), Preferences(wait_s=0)),
    (("wait=100000",), Preferences(wait_s=60)),
    (("wait=-1",), Preferences()),
    (("wait=1.5",), Preferences()),
    (("wait=²",), Preferences()),
    (("wait=999999999",), Preferences()),
    (("respond-async, wait=7; x=y, durability=database",), Preferences(True, 7, True)),
    (("wait=7", "durability=database", "wait=9"), Preferences(True, 7)),
]


@pytest.mark.parametrize(("values", "expected"), PREFERENCES)
def test_preferences_are_taken_where_they_make_sense(values: tuple[str, ...], expected: Preferences) -> None:
    assert preferences(a_request("Prefer", *values)) == expected


def test_a_position_is_echoed_or_refused() -> None:
    assert echoed_position(a_request("Facet-Position", "3-17")) == Position(3, 17)
    assert echoed_position(a_request("Accept", "*/*")) is None
    for wrong in ("", "3", "3-", "-17", "3-17-1", " 3-17", "٣-١", f"1-{10**18}"):
        with pytest.raises(HttpError):
            echoed_position(a_request("Facet-Position", wrong))


def test_a_held_back_body_announces_its_hash() -> None:
    sha256 = hashlib.sha256(b"ring").digest()
    encoded = base64.b64encode(sha256).decode()

    def announced(digest: str, expect: str = "100-continue") -> str | None:
        request: Any = Headers(("Expect", expect), ("Repr-Digest", digest))
        return announced_sha256(request)

    assert announced(f"sha-256=:{encoded}:") == sha256.hex()
    assert announced(f"sha-512=:abc=:, sha-256=:{encoded}:") == sha256.hex()
    assert announced(f"sha-256=:{encoded}:", expect="") is None
    for wrong in ("", f"sha-256={encoded}", "sha-256=:abc=:", f"md5=:{encoded}:"):
        assert announced(wrong) is None
