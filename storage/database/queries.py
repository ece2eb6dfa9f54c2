"""What the lists mean in SQL, for both engines. Statements are built here and run by the engines.

A statement follows from the shape of a question: which conditions it has, not which values. It is built and
compiled once, which takes longer than to run it.
"""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, NamedTuple

import sqlalchemy as sa

from storage.clock import from_text
from storage.database.schema import ORDER_COLUMNS, ORDERS_POSITION, log_positions, orders
from storage.database.search_sql import (
    SCANNED_ROWS,
    InNumberOrReference,
    IsCandidate,
    are_all,
    candidates,
)
from storage.orders.filters import NEWEST_FIRST, NO_OPERATOR, ListQuery, OrderFilter, Sort, SortField
from storage.orders.search import WHOLE_TEXT_CHARS_MIN, needle_tokens

_IS_ORDERS = log_positions.c.name == ORDERS_POSITION
_COLUMNS = [orders.c[name] for name in ORDER_COLUMNS]
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)
SHAPES_MAX = 256
_NARROWING = frozenset({"operator", "customer", "number", "reference", "created_from", "created_to"})
_ESCAPE = "/"

Values = dict[str, Any]


class Way(Enum):
    """How orders are found that have a text."""

    SCAN = auto()
    """Each order of the list is looked at until there are enough."""
    FIRST_ROWS = auto()
    """So are SCANNED_ROWS of them: what is found is the beginning of the list, perhaps not enough of it."""
    CANDIDATES = auto()
    """Only those are that the search index names, unless there are too many of them."""


class QueryShape(NamedTuple):
    """What a statement follows from. `given`: the names of its values."""

    given: frozenset[str]
    statuses: int = 0
    sort: Sort = NEWEST_FIRST
    way: Way = Way.SCAN


def list_question(query: ListQuery, limit: int, way: Way = Way.SCAN) -> tuple[QueryShape, Values]:
    """The shape of a list, and its values."""
    values = _values_of(query.filter, way) | {"rows": limit}
    if query.after is not None:
        values["after_id"] = query.after.id
        if query.after.moment is not None:
            values["after_moment"] = from_text(query.after.moment)
    if query.until is not None:
        values["until"] = query.until
    return QueryShape(frozenset(values), len(query.filter.statuses), query.sort, way), values


def counts_question(order_filter: OrderFilter, way: Way = Way.SCAN) -> tuple[QueryShape, Values]:
    values = _values_of(order_filter, way)
    return QueryShape(frozenset(values), len(order_filter.statuses), way=way), values


def _values_of(order_filter: OrderFilter, way: Way) -> Values:
    values: Values = {
        f"status_{n}": status for n, status in enumerate(sorted(each.value for each in order_filter.statuses))
    }
    if order_filter.operator == NO_OPERATOR:
        values["untaken"] = None
    for name in (
        *("operator", "customer", "number", "reference"),
        *("created_from", "created_to", "due_from", "due_to"),
    ):
        value = getattr(order_filter, name)
        if value is not None and not (name == "operator" and value == NO_OPERATOR):
            values[name] = value
    if (needle := order_filter.q) is not None:
        if way is Way.CANDIDATES:
            values["tokens"] = needle_tokens(needle)
        if len(needle) < WHOLE_TEXT_CHARS_MIN:
            values["short"] = needle
        else:
            values["pattern"] = f"%{_escaped(needle)}%"
    return values


def _escaped(text: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        text = text.replace(special, _ESCAPE + special)
    return text


@functools.lru_cache(SHAPES_MAX)
def list_statement(shape: QueryShape, words: str) -> sa.Select[Any]:
    """Rows of (epoch, position, *ORDER_COLUMNS): position and rows of one snapshot.

    One row of nulls behind the position when the list is empty. By candidates, a last column says whether
    they are all that may match; if not, there are no rows. `words`: in which the engine names candidates.
    """
    page = _page_by_due(shape) if _is_walked_by_due(shape) else _page(shape)
    columns = [page.c[column.name] for column in _COLUMNS]
    return _beside_position(shape, words, page, columns).order_by(
        *_ordering(shape, page.c.sort_key, page.c.id)
    )


@functools.lru_cache(SHAPES_MAX)
def rows_statement(shape: QueryShape) -> sa.Select[Any] | None:
    """The same rows in less time, but none for an empty list: then it is not known which snapshot that is of.
    None for lists that have to be put together."""
    if shape.way is not Way.SCAN or _is_walked_by_due(shape):
        return None
    at = (log_positions.c[name] for name in ("epoch", "position"))
    stands = [sa.select(column).where(_IS_ORDERS).scalar_subquery() for column in at]
    page = _first_page(shape)
    return page.with_only_columns(*stands, *_COLUMNS)


def _page(shape: QueryShape) -> sa.Subquery:
    return _first_page(shape).subquery("page")


def _is_walked_by_due(shape: QueryShape) -> bool:
    """Whether a list by due date is of most orders. Where a filter narrows it, what it lets through is read
    and sorted instead."""
    return shape.sort.field is SortField.DUE_AT and not shape.statuses and not shape.given & _NARROWING


def _first_page(shape: QueryShape) -> sa.Select[Any]:
    key: sa.ColumnElement[Any] = orders.c[shape.sort.field.value]
    if shape.sort.field is SortField.DUE_AT:
        key = sa.func.coalesce(key, _missing_literal(shape))
    behind = [_behind(shape, key)] if "after_id" in shape.given else []
    return _first_rows(shape, key, behind, (key, orders.c.id))


def _page_by_due(shape: QueryShape) -> sa.Subquery:
    """Orders without the date come last, whichever way the list is sorted. Those that have it and those that
    have not are read apart, each part in the order of an index."""
    given, due, order_id = shape.given, orders.c.due_at, orders.c.id
    begins_dated = "after_moment" in given
    begins_undated = "after_id" in given and not begins_dated
    dated: list[sa.ColumnElement[bool]] = [due.is_not(None)]
    undated: list[sa.ColumnElement[bool]] = [due.is_(None)]
    if begins_dated:
        dated.append(_behind(shape, due))
    if begins_undated:
        dated.append(sa.false())
        after = sa.bindparam("after_id", type_=order_id.type)
        undated.append(order_id < after if shape.sort.descending else order_id > after)
    missing = _missing_literal(shape)
    parts = sa.union_all(
        sa.select(_first_rows(shape, due, dated, (due, order_id)).subquery("dated")),
        sa.select(_first_rows(shape, missing, undated, (order_id,)).subquery("undated")),
    ).subquery("parts")
    ordering = _ordering(shape, parts.c.sort_key, parts.c.id)
    return sa.select(parts).order_by(*ordering).limit(_rows()).subquery("page")


def _first_rows(
    shape: QueryShape,
    key: sa.ColumnElement[Any],
    conditions: Sequence[sa.ColumnElement[bool]],
    ordering: tuple[sa.ColumnElement[Any], ...],
) -> sa.Select[Any]:
    """Columns of ORDER_COLUMNS and `sort_key`, in the order of the list, as many as are asked for."""
    conditions = [*conditions, *_conditions(shape)]
    if "until" in shape.given:
        conditions.append(orders.c.updated_at <= _moment("until"))
    rows = sa.select(*_COLUMNS, key.label("sort_key")).where(*conditions)
    found: sa.Subquery | sa.CTE
    if shape.way is Way.FIRST_ROWS:
        scanned = rows.add_columns(orders.c.search).order_by(*_ordering(shape, *ordering))
        found = scanned.limit(sa.literal_column(str(SCANNED_ROWS))).subquery("scanned")
        rows = sa.select(*_without_text(found)).where(*_matches(shape, found.c.search))
    elif shape.way is Way.CANDIDATES:  # found by the index, then sorted: not the other way round
        found = rows.where(*_matches(shape, orders.c.search)).cte().prefix_with("MATERIALIZED")
        rows = sa.select(found)
    else:
        rows = rows.where(*_matches(shape, orders.c.search))
        return rows.order_by(*_ordering(shape, *ordering)).limit(_rows())
    return rows.order_by(*_ordering(shape, found.c.sort_key, found.c.id)).limit(_rows())


def _without_text(rows: sa.Subquery) -> list[sa.ColumnElement[Any]]:
    return [column for column in rows.c if column.name != "search"]


def _rows() -> sa.BindParameter[int]:
    return sa.bindparam("rows", type_=sa.Integer)


def _behind(shape: QueryShape, key: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    moment = _moment("after_moment") if "after_moment" in shape.given else _missing_literal(shape)
    place = sa.tuple_(moment, sa.bindparam("after_id", type_=orders.c.id.type))
    row = sa.tuple_(key, orders.c.id)
    return row < place if shape.sort.descending else row > place


def _ordering(shape: QueryShape, *keys: sa.ColumnElement[Any]) -> list[sa.ColumnElement[Any]]:
    return [key.desc() if shape.sort.descending else key for key in keys]


@functools.lru_cache(SHAPES_MAX)
def counts_statement(shape: QueryShape, words: str) -> sa.Select[Any]:
    """Rows of (epoch, position, status, count), of one snapshot; with a last column as of lists."""
    counted = (
        sa.select(orders.c.status, sa.func.count().label("count"))
        .where(*_conditions(shape), *_matches(shape, orders.c.search))
        .group_by(orders.c.status)
        .subquery("counted")
    )
    return _beside_position(shape, words, counted, [counted.c.status, counted.c["count"]])


def _beside_position(
    shape: QueryShape, words: str, source: sa.Subquery, columns: list[Any]
) -> sa.Select[Any]:
    joined = log_positions.outerjoin(source, sa.true())
    statement = (
        sa.select(log_positions.c.epoch, log_positions.c.position, *columns)
        .select_from(joined)
        .where(_IS_ORDERS)
    )
    return (
        statement.add_columns(are_all()).add_cte(candidates(words))
        if shape.way is Way.CANDIDATES
        else statement
    )


def _missing(sort: Sort) -> datetime:
    """What stands for a missing date: the last in the list."""
    return _EARLIEST if sort.descending else _LATEST


def _missing_literal(shape: QueryShape) -> sa.BindParameter[Any]:
    return sa.literal(_missing(shape.sort), orders.c.created_at.type)


def _moment(name: str) -> sa.BindParameter[Any]:
    """Of the columns' own type: each engine keeps moments in its way."""
    return sa.bindparam(name, type_=orders.c.created_at.type)


def _conditions(shape: QueryShape) -> list[sa.ColumnElement[bool]]:
    column, given = orders.c, shape.given
    conditions: list[sa.ColumnElement[bool]] = []
    if shape.statuses:
        names = [f"status_{n}" for n in range(shape.statuses)]
        conditions.append(column.status.in_([sa.bindparam(name, type_=column.status.type) for name in names]))
    if "untaken" in given:
        conditions.append(column.operator.is_(None))
    for name in ("operator", "customer", "number", "reference"):
        if name in given:
            conditions.append(column[name] == sa.bindparam(name, type_=column[name].type))
    for name in ("created", "due"):
        moment = column[f"{name}_at"]
        if f"{name}_from" in given:
            conditions.append(moment >= _moment(f"{name}_from"))
        if f"{name}_to" in given:
            conditions.append(moment < _moment(f"{name}_to"))
    return conditions


def _matches(shape: QueryShape, text: sa.ColumnElement[Any]) -> list[sa.ColumnElement[bool]]:
    """Of the stored text of an order: what is looked for is in it."""
    conditions: list[sa.ColumnElement[bool]] = []
    if shape.way is Way.CANDIDATES:
        conditions.append(IsCandidate(orders.c.number))
    if "short" in shape.given:
        conditions.append(InNumberOrReference(text, sa.bindparam("short", type_=sa.Text)))
    if "pattern" in shape.given:
        conditions.append(text.like(sa.bindparam("pattern", type_=sa.Text), escape=_ESCAPE))
    return conditions
