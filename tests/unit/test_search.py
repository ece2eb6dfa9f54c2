"""What a search looks through, as memory and the databases see it."""

import sqlite3
import unicodedata
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.database.schema import UNFOLDED
from storage.orders.order import Order
from storage.orders.search import (
    FOLDED_MARK,
    finds,
    fold,
    needle_tokens,
    searched_text,
    stored_text,
    tokens_of,
)
from tests.support.changes import an_order
from tests.support.orders_drawn import cased_text

CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS | st.sampled_from("ёйЁéßİ ﬁ\u0306\u0301\n\x1f\x1eaB1-"), min_size=1, max_size=12)
ORDERS = st.builds(
    lambda customer, reference, note, operator: an_order(
        1, customer=customer, reference=reference, note=note, operator=operator
    ),
    *(TEXTS, st.none() | TEXTS, st.none() | TEXTS, st.none() | TEXTS),
)


@given(TEXTS)
def test_folding_again_changes_nothing_and_composition_neither(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert "\n" not in folded
    assert FOLDED_MARK not in folded
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, text)) == folded
    for cased in (text.upper(), text.lower(), text.casefold()):
        if cased.casefold() == text.casefold():
            assert fold(cased) == folded


@pytest.mark.parametrize(
    ("text", "folded"),
    [("Ёж", "еж"), ("Чай", "чаи"), ("Zoë", "zoe"), ("STRAßE", "strasse"), ("ﬁne", "fine"), ("a\nb", "a b")],
)
def test_what_folding_is(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(ORDERS, st.data())
def test_whatever_is_found_has_all_tokens_of_what_is_looked_for(order: Order, data: st.DataObject) -> None:
    lines = [line for line in searched_text(order).split("\n") if line]
    line = data.draw(st.sampled_from(lines))
    start = data.draw(st.integers(0, len(line) - 1))
    needle = line[start : data.draw(st.integers(start + 1, len(line)))]
    tokens = tokens_of(stored_text(order)).split(" ")
    if finds(needle, order):
        assert set(needle_tokens(needle).split(" ")) <= set(tokens)
    assert finds(needle, order) or len(needle) < 3
    for token in tokens:  # of what both engines take for one word
        assert len(token) == 3
        assert not any(char.isascii() and not char.isalnum() for char in token)
        assert token.split() == [token] or not token.isascii()


@given(ORDERS)
def test_what_is_stored_is_of_this_release_and_has_what_the_one_before_looks_through(order: Order) -> None:
    stored = stored_text(order)
    assert stored.partition(FOLDED_MARK)[0] == searched_text(order)
    cased = cased_text(order)
    assert cased in (stored, stored.partition(FOLDED_MARK)[2]) or cased == searched_text(order)
    if "\0" not in stored:  # SQLite would measure up to it, and PostgreSQL cannot hold it
        with closing(sqlite3.connect(":memory:")) as connection:
            unfolded = f"SELECT {UNFOLDED['sqlite']} FROM (SELECT ? AS search)"
            assert connection.execute(unfolded, (stored,)).fetchone() == (0,)


@given(ORDERS)
def test_a_plain_text_is_stored_once(order: Order) -> None:
    if cased_text(order).isascii() and not set("\n\x1f") & set("".join(_parts(order))):
        assert stored_text(order) == cased_text(order)


def _parts(order: Order) -> list[str]:
    return [order.customer, order.reference or "", order.note or "", order.operator or ""]
