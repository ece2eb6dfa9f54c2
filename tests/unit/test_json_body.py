"""Strict JSON: everything that is one document is read, everything that could be two is refused."""

import contextlib
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.json_body import DEPTH_MAX, INTEGER_MAX, VALUES_MAX, MalformedJson, convert, parse_json
from storage.errors import Invalid

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MAX - 1, INTEGER_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(documents, st.booleans())
def test_every_document_is_read_as_it_was_written(document: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(MalformedJson):
        assert parse_json(raw) == json.loads(raw)


@given(documents, st.integers(0, 200))
def test_half_a_document_is_refused_or_another_document(document: Any, cut: int) -> None:
    raw = json.dumps({"whole": document}).encode()
    with pytest.raises(MalformedJson):
        parse_json(raw[: min(cut, len(raw) - 1)])


@given(st.sampled_from(["\ud800", "\udfff", "\0", "a\udc00b"]), st.booleans())
def test_half_a_character_is_refused_wherever_it_stands(text: str, as_key: bool) -> None:
    document = {text: 1} if as_key else {"a": [{"b": text}]}
    with pytest.raises(MalformedJson):
        parse_json(json.dumps(document).encode())


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_ends_at_its_bound(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    inner = "" if opening == "[" else "1"

    def nested(levels: int) -> bytes:
        return (opening * levels + inner + closing * levels).encode()

    parse_json(nested(DEPTH_MAX))
    for levels in (DEPTH_MAX + 1, 5_000, VALUES_MAX - 1):
        with pytest.raises(MalformedJson, match="nested deeper"):
            parse_json(nested(levels))


@pytest.mark.parametrize(("text", "fits"), [(str(INTEGER_MAX), True), (str(INTEGER_MAX + 1), False)])
def test_integers_fit_64_bits(text: str, fits: bool) -> None:
    if fits:
        assert parse_json(text.encode()) == INTEGER_MAX
        assert parse_json(f"-{text}".encode()) == -INTEGER_MAX
        return
    with pytest.raises(MalformedJson, match="64 bits"):
        parse_json(text.encode())


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    amount: Decimal
    currency: str


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    price: Inner | None = None
    rows: list[Inner] = []


def test_every_error_is_found_with_its_pointer() -> None:
    value = {
        "name": 5,
        "price": {"amount": "x", "extra/~": 1},
        "rows": [{"amount": "1", "currency": "EUR"}, {"amount": "1"}, 7],
    }
    with pytest.raises(Invalid) as refused:
        convert(value, Outer)
    assert {pointer for pointer, _ in refused.value.errors} == {
        "/name",
        "/price/amount",
        "/price/currency",
        "/price/extra~1~0",
        "/rows/1/currency",
        "/rows/2",
    }


def test_a_right_value_is_a_record() -> None:
    assert convert({"name": "x", "price": None}, Outer) == Outer("x")
