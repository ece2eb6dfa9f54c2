"""Maintained lists: whatever changes, and wherever a list began, it shows what a fresh one would."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.cache.list_views import CountsQuery, CountsView, ListView, Page
from storage.log.entries import Position
from storage.orders.filters import ALL, ListQuery, OrderFilter, Sort, SortField, decode_cursor, place_of
from storage.orders.order import Change, Order, encode_order
from storage.orders.workflow import Status
from tests.support.changes import START, an_order, changed, created, followed, id_of
from tests.support.orders_drawn import (
    LATER,
    filters,
    happenings,
    histories,
    listed,
    populations,
    queries,
    sorts,
    wide_filters,
)

NOW = START + timedelta(days=2)
PAGES = 16
ROWS = 1_000


def newest(changes: list[Change]) -> list[Order]:
    return list({change.order.id: change.order for change in changes}.values())


def view_of(population: list[Order], query: ListQuery, n: int = 0, rows_max: int = ROWS) -> ListView:
    """A list as it is loaded from a database that holds this."""
    rows = listed(population, query)
    shown = [(place_of(order, query.sort), encode_order(order)) for order in rows[:rows_max]]
    return ListView(query, shown, len(rows) <= rows_max, Position(1, n), rows_max)


def items(page: Page) -> list[Any]:
    return list(msgspec.json.decode(page.body)["items"])


def ids(page: Page) -> list[str]:
    return [item["id"] for item in items(page)]


@given(st.data())
@settings(max_examples=70, deadline=None)
def test_a_list_brought_up_to_date_shows_what_a_fresh_one_shows(data: st.DataObject) -> None:
    """Loaded at any position, of any size, from any cursor on, read at any moment with any limit."""
    changes = data.draw(histories(8, 20))
    loaded_at = data.draw(st.integers(0, len(changes)))
    query = data.draw(queries(filters | wide_filters, newest(changes)))
    rows_max = data.draw(st.integers(1, 8))
    view = view_of(newest(changes[:loaded_at]), query, loaded_at, rows_max)
    for step in followed(changes)[loaded_at:]:
        view.apply(step)
        fresh = view_of(newest(changes[: step.n]), query)
        assert view.n == step.n
        for limit in data.draw(st.sets(st.integers(1, 5), max_size=3)):
            if view.holds(limit):
                assert view.page(limit, NOW, PAGES) == fresh.page(limit, NOW, PAGES)
        assert view.bodies == fresh.bodies[: len(view)]
        assert len(view) == len(fresh) or not view.complete


@given(st.data())
@settings(max_examples=70, deadline=None)
def test_a_page_cut_from_a_list_is_that_of_a_list_from_there_on(data: st.DataObject) -> None:
    population = newest(data.draw(histories(9, 20)))
    query = data.draw(queries(wide_filters, population))
    whole = msgspec.structs.replace(query, after=None)
    view = view_of(population, whole, rows_max=data.draw(st.integers(1, 9)))
    if query.anchor is None or query.sort.field is SortField.UPDATED_AT:
        return
    fresh = view_of(population, query)
    for limit in range(1, 6):
        page = view.page_behind(query.anchor, limit, NOW)
        assert page in (None, fresh.page(limit, NOW, PAGES))
        if view.complete:
            assert page is not None


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_page_that_a_list_keeps_is_never_stale(data: st.DataObject) -> None:
    """Every page is asked for after every change, so that all of them are kept when the next comes."""
    changes = data.draw(histories(7, 15))
    query = data.draw(queries(wide_filters, newest(changes)))
    view = view_of([], query, rows_max=data.draw(st.integers(2, 8)))
    for step in followed(changes):
        view.apply(step)
        rows = listed(newest(changes[: step.n]), query)
        for limit in range(1, 6):
            if view.holds(limit):
                page = view.page(limit, NOW, PAGES)
                assert items(page) == [msgspec.json.decode(encode_order(order)) for order in rows[:limit]]
                assert (page.next is not None) == (len(rows) > limit)
                assert msgspec.json.decode(page.body)["next"] == page.next


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_counts_brought_up_to_date_are_the_counts_of_now(data: st.DataObject) -> None:
    changes = data.draw(histories(8, 20))
    loaded_at = data.draw(st.integers(0, len(changes)))
    query = CountsQuery(data.draw(filters | wide_filters))

    def counted(population: list[Order]) -> dict[Status, int]:
        found = [order.status for order in population if query.filter.matches(order)]
        return {status: found.count(status) for status in set(found)}

    view = CountsView(query, counted(newest(changes[:loaded_at])), Position(1, loaded_at))
    for step in followed(changes)[loaded_at:]:
        view.apply(step)
        now = counted(newest(changes[: step.n]))
        shown = msgspec.json.decode(view.body)["counts"]
        assert shown == {status.value: now.get(status, 0) for status in Status}
        assert view.n == step.n


@given(st.data())
@settings(max_examples=70, deadline=None)
def test_a_walk_by_cursors_repeats_no_row_and_loses_none_that_did_not_change(data: st.DataObject) -> None:
    """Orders change and come between any two pages."""
    population = begun = data.draw(populations(8))
    query = whole = ListQuery(filter=data.draw(wide_filters), sort=data.draw(sorts))
    limit = data.draw(st.integers(1, 4))
    seen: list[str] = []
    for turn in range(20):
        now = LATER + timedelta(minutes=turn)
        page = view_of(population, query).page(limit, now, PAGES)
        seen += ids(page)
        if page.next is None:
            break
        query = ListQuery(filter=query.filter, sort=query.sort, after=decode_cursor(page.next, query.sort))
        changes = happenings(population, now + timedelta(seconds=1), fixed=query.sort.field)
        population = data.draw(changes)
    unchanged = {order.id for order in listed(begun, whole) if order in population}
    assert len(seen) == len(set(seen))
    assert page.next is not None or unchanged <= set(seen)


# What the properties say, once more in particular


def rows(count: int) -> list[Order]:
    """Orders 1..count, each created a minute after the one before."""
    return [
        an_order(n, created_at=START + timedelta(minutes=n), updated_at=START + timedelta(minutes=n))
        for n in range(1, count + 1)
    ]


def test_a_new_order_comes_first_in_the_list_of_the_newest() -> None:
    view = view_of(rows(3), ListQuery())
    assert ids(view.page(2, NOW, PAGES)) == [id_of(3), id_of(2)]
    newcomer = an_order(4, created_at=START + timedelta(minutes=4))
    view.apply(followed([created(newcomer)])[0])
    assert ids(view.page(2, NOW, PAGES)) == [id_of(4), id_of(3)]


def test_a_change_behind_a_kept_page_leaves_it_as_it_is() -> None:
    view = view_of(rows(9), ListQuery())
    page = view.page(2, NOW, PAGES)
    view.apply(followed([changed(rows(9)[0], note="far behind")])[0])
    assert view.page(2, NOW, PAGES) is page
    view.apply(followed([changed(rows(9)[8], note="on it")])[0])
    assert view.page(2, NOW, PAGES) is not page


def test_the_end_of_a_list_is_known_only_when_all_of_it_is_held() -> None:
    short = view_of(rows(5), ListQuery(), rows_max=3)
    assert short.holds(2)
    assert not short.holds(3)
    assert short.page(2, NOW, PAGES).next is not None
    whole = view_of(rows(5), ListQuery(), rows_max=5)
    assert whole.holds(200)
    assert whole.page(5, NOW, PAGES).next is None


def test_a_row_behind_the_last_one_held_is_left_to_the_database() -> None:
    """What stands between is not known: shown, it would hide that."""
    population = rows(5)
    query = ListQuery(filter=OrderFilter(statuses=frozenset({Status.INITIATED})))
    view = view_of(population, query, rows_max=3)
    view.apply(followed([changed(population[3], status=Status.SUBMITTED)])[0])
    view.apply(followed([changed(population[0], note="not held")], after=1)[0])
    assert view.bodies == [encode_order(population[4]), encode_order(population[2])]
    assert not view.holds(2)


def test_a_kept_page_learns_that_nothing_follows_it_any_more() -> None:
    population = rows(3)
    view = view_of(population, ListQuery(filter=OrderFilter(statuses=frozenset({Status.INITIATED}))))
    assert view.page(2, NOW, PAGES).next is not None
    view.apply(followed([changed(population[0], status=Status.SUBMITTED)])[0])
    assert view.page(2, NOW, PAGES).next is None


def test_a_list_never_holds_more_rows_than_its_bound() -> None:
    view = view_of(rows(3), ListQuery(), rows_max=3)
    view.apply(followed([created(an_order(4, created_at=START + timedelta(minutes=4)))])[0])
    assert len(view) == 3
    assert not view.complete


def test_an_entry_that_is_nothing_to_a_list_moves_its_position_only() -> None:
    view = view_of(rows(2), ListQuery(filter=OrderFilter(customer="boris")))
    page = view.page(2, NOW, PAGES)
    view.apply(followed([changed(rows(2)[0], note="n")], after=6)[0])
    assert view.n == 7
    assert view.page(2, NOW, PAGES) is page


def test_after_an_invalidation_a_list_shows_the_order_as_it_now_is() -> None:
    view = view_of(rows(3), ListQuery(filter=OrderFilter(customer="anna")))
    view.page(3, NOW, PAGES)
    view.put(id_of(2), an_order(2, note="repaired", created_at=START + timedelta(minutes=90)))
    assert [item["note"] for item in items(view.page(3, NOW, PAGES))] == ["repaired", None, None]
    view.put(id_of(3), an_order(3, customer="boris"))
    view.put(id_of(1), None)
    assert ids(view.page(3, NOW, PAGES)) == [id_of(2)]


def test_pages_of_a_list_by_change_are_not_shared() -> None:
    """Their cursors say when the walk began."""
    view = view_of(rows(3), ListQuery(sort=Sort(SortField.UPDATED_AT, True)))
    first = view.page(1, NOW, PAGES)
    second = view.page(1, NOW + timedelta(seconds=1), PAGES)
    assert first.next != second.next


def test_only_so_many_pages_are_kept() -> None:
    view = view_of(rows(9), ListQuery())
    kept, not_kept = view.page(1, NOW, 1), view.page(2, NOW, 1)
    assert view.page(1, NOW, 1) is kept
    assert view.page(2, NOW, 1) is not not_kept


@pytest.mark.parametrize("descending", [False, True])
def test_orders_without_a_due_date_come_last_either_way(descending: bool) -> None:
    dated, undated = an_order(1, due_at=NOW), an_order(2)
    view = view_of([], ListQuery(sort=Sort(SortField.DUE_AT, descending)))
    for step in followed([created(undated), created(dated)]):
        view.apply(step)
    assert ids(view.page(2, NOW, PAGES)) == [dated.id, undated.id]


def test_counts_are_encoded_once_until_they_change() -> None:
    view = CountsView(CountsQuery(ALL), {Status.INITIATED: 1}, Position(1, 0))
    body = view.body
    view.apply(followed([changed(an_order(), status=Status.SUBMITTED)])[0])
    assert view.body is not body
    assert view.body is view.body
    assert msgspec.json.decode(view.body)["counts"]["SUBMITTED"] == 1
