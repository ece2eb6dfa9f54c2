"""Random orders, changes and questions about them, for properties that must hold for all."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

from storage.clock import from_text
from storage.orders.filters import ListQuery, OrderFilter, Sort, SortField, place_of
from storage.orders.order import Change, Order
from storage.orders.search import fold
from storage.orders.workflow import Status
from tests.support.changes import START, an_order, changed, created, id_of

CUSTOMERS = ("anna", "Аня", "a_b%c/d")
OPERATORS = ("ivan", "Олга")
TEXTS = (
    "",
    "Ring",
    "RING",
    "straße",
    "STRASSE",
    "100%",
    "a_b",
    "a/b",
    "aXb",
    "Ёлка",
    "ёлка",
    "İ",
    "i̇",
    "\\",
    "'",
)
SORTS = [Sort(field, descending) for field in SortField for descending in (False, True)]

moments = st.integers(0, 6).map(lambda hours: START + timedelta(hours=hours, microseconds=hours % 2))
statuses = st.sampled_from(Status)
maybe_texts = (
    st.none() | st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)
)


@st.composite
def orders(draw: st.DrawFn, n: int) -> Order:
    """The n-th order: few different values, so that they meet in filters and ties."""
    at = draw(moments)
    return an_order(
        n,
        id=id_of((n * 7919) % 1000 + 1000 * n if draw(st.booleans()) else 500_000 - n),
        status=draw(statuses),
        customer=draw(st.sampled_from(CUSTOMERS)),
        operator=draw(st.none() | st.sampled_from(OPERATORS)),
        note=draw(maybe_texts),
        reference=draw(st.none() | st.sampled_from(TEXTS[1:])),
        due_at=draw(st.none() | moments),
        created_at=at,
        updated_at=draw(moments.filter(lambda moment: moment >= at)),
        created_by=f"token-{n}",
    )


@st.composite
def populations(draw: st.DrawFn, size_max: int) -> list[Order]:
    return [draw(orders(n)) for n in range(1, draw(st.integers(0, size_max)) + 1)]


filters = st.builds(
    OrderFilter,
    statuses=st.just(frozenset()) | st.frozensets(statuses, max_size=6),
    operator=st.none() | st.sampled_from(["", *OPERATORS]),
    customer=st.none() | st.sampled_from(CUSTOMERS),
    number=st.none() | st.none() | st.integers(1001, 1010),
    reference=st.none() | st.none() | st.sampled_from(TEXTS[1:]),
    q=st.none()
    | st.sampled_from(
        ["%", "_", "/", "ring", "strasse", "ss", "ё", "i̇", "a_b", "a/b", "10", "\n", "\\", "'"]
    ).map(fold)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4).map(fold).filter(bool),
    created_from=st.none() | moments,
    created_to=st.none() | moments,
    due_from=st.none() | st.none() | moments,
    due_to=st.none() | st.none() | moments,
)
wide_filters = st.builds(
    OrderFilter,
    statuses=st.just(frozenset()) | st.frozensets(statuses, min_size=3),
    operator=st.none() | st.none() | st.just(""),
    customer=st.none() | st.none() | st.sampled_from(CUSTOMERS),
)
"""Filters that let enough through for lists to have pages."""
sorts = st.sampled_from(SORTS)


def rank(moment: datetime | None, order_id: str, descending: bool) -> tuple[bool, datetime, str]:
    """What a list is sorted by: missing dates come last either way, ties are ordered by id."""
    last = moment is not None if descending else moment is None
    return last, moment or START, order_id


def listed(population: list[Order], query: ListQuery) -> list[Order]:
    """A list from its definition."""
    field, descending = query.sort

    def rank_of(order: Order) -> tuple[bool, datetime, str]:
        return rank(getattr(order, field), order.id, descending)

    rows = sorted(filter(query.filter.matches, population), key=rank_of, reverse=descending)
    if query.after is None:
        return rows
    if query.after.until is not None:
        until = from_text(query.after.until)
        rows = [order for order in rows if order.updated_at <= until]
    moment = None if query.after.moment is None else from_text(query.after.moment)
    anchor = rank(moment, query.after.id, descending)
    return [row for row in rows if (rank_of(row) < anchor if descending else rank_of(row) > anchor)]


EFFECTS: dict[str, st.SearchStrategy[Any]] = {
    "status": statuses,
    "operator": st.none() | st.sampled_from(OPERATORS),
    "note": maybe_texts,
    "due_at": st.none() | moments,
}


LATER = START + timedelta(hours=7)
"""After all drawn moments."""


@st.composite
def histories(draw: st.DrawFn, orders_max: int, changes_max: int) -> list[Change]:
    """Changes of a population, beginning with its creation, in the order of a log."""
    born = draw(populations(orders_max))
    newest = {order.id: order for order in born[: draw(st.integers(0, len(born)))]}
    unborn = born[len(newest) :]
    changes = [created(order) for order in newest.values()]
    for _ in range(draw(st.integers(0, changes_max))):
        if unborn and (not newest or draw(st.integers(0, 3)) == 0):
            changes.append(created(unborn.pop()))
        elif newest:
            before = newest[draw(st.sampled_from(sorted(newest)))]
            changes.append(
                changed(before, seconds=draw(st.integers(1, 9000)), **draw(effects(sorted(EFFECTS))))
            )
        newest |= {change.order.id: change.order for change in changes[-1:]}
    return changes


@st.composite
def effects(draw: st.DrawFn, names: list[str]) -> dict[str, Any]:
    return {name: draw(EFFECTS[name]) for name in draw(st.sets(st.sampled_from(names), max_size=2))}


@st.composite
def happenings(draw: st.DrawFn, population: list[Order], moment: datetime, fixed: str) -> list[Order]:
    """The population after a few more changes and creations, all at this moment. What is `fixed` is not
    changed."""
    newest = {order.id: order for order in population}
    names = sorted(set(EFFECTS) - {fixed})
    for order in draw(st.lists(st.sampled_from(population), max_size=3)) if population else []:
        before = newest[order.id]
        seconds = (moment - before.updated_at).total_seconds()
        newest[order.id] = changed(before, seconds=seconds, **draw(effects(names))).order
    if draw(st.integers(0, 2)) == 0:
        n = len(newest) + 1
        order = draw(orders(n))
        order = msgspec.structs.replace(order, id=id_of(900_000 + n), created_at=moment, updated_at=moment)
        newest[order.id] = order
    return list(newest.values())


@st.composite
def queries(draw: st.DrawFn, filters: st.SearchStrategy[OrderFilter], anchors: list[Order]) -> ListQuery:
    """A list from its beginning, or from behind one of these orders on."""
    query = ListQuery(filter=draw(filters), sort=draw(sorts))
    if not anchors or draw(st.booleans()):
        return query
    place = place_of(draw(st.sampled_from(anchors)), query.sort)
    return ListQuery(filter=query.filter, sort=query.sort, after=query.cursor_at(place, draw(moments)))


def cased_text(order: Order) -> str:
    """What a release stored to be looked through that knew of case only."""
    parts = (str(order.number), order.customer, order.reference or "", order.note or "", order.operator or "")
    return "\n".join(parts).casefold()
