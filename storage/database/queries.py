"""What the lists mean in SQL, for both engines. Statements are built here and run by the engines.

A statement follows from the shape of a question: which conditions it has, not which values. It is built and
compiled once, which takes longer than to run it.
"""

import functools
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from storage.clock import from_text
from storage.database.schema import ORDER_COLUMNS, ORDERS_POSITION, log_positions, orders
from storage.orders.filters import NEWEST_FIRST, NO_OPERATOR, ListQuery, OrderFilter, Sort

_COLUMNS = [orders.c[name] for name in ORDER_COLUMNS]
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)
SHAPES_MAX = 256
_ESCAPE = "/"

Values = dict[str, Any]


class QueryShape(NamedTuple):
    """What a statement follows from. `given`: the names of its values."""

    given: frozenset[str]
    statuses: int = 0
    sort: Sort = NEWEST_FIRST


def list_question(query: ListQuery, limit: int) -> tuple[QueryShape, Values]:
    """The shape of a list, and its values."""
    values = _values_of(query.filter) | {"rows": limit}
    if query.after is not None:
        moment = query.after.moment
        values["after_moment"] = _missing(query.sort) if moment is None else from_text(moment)
        values["after_id"] = query.after.id
    if query.until is not None:
        values["until"] = query.until
    return QueryShape(frozenset(values), len(query.filter.statuses), query.sort), values


def counts_question(order_filter: OrderFilter) -> tuple[QueryShape, Values]:
    values = _values_of(order_filter)
    return QueryShape(frozenset(values), len(order_filter.statuses)), values


def _values_of(order_filter: OrderFilter) -> Values:
    values: Values = {
        f"status_{n}": status for n, status in enumerate(sorted(each.value for each in order_filter.statuses))
    }
    if order_filter.operator == NO_OPERATOR:
        values["untaken"] = None
    for name in (
        *("operator", "customer", "number", "reference", "q"),
        *("created_from", "created_to", "due_from", "due_to"),
    ):
        value = getattr(order_filter, name)
        if value is not None and not (name == "operator" and value == NO_OPERATOR):
            values[name] = value
    if order_filter.q is not None:
        text = order_filter.q
        for special in (_ESCAPE, "%", "_"):
            text = text.replace(special, _ESCAPE + special)
        values["q"] = f"%{text}%"
    return values


@functools.lru_cache(SHAPES_MAX)
def list_statement(shape: QueryShape) -> sa.Select[Any]:
    """Rows of (epoch, position, *ORDER_COLUMNS): position and rows of one snapshot.

    One row of nulls behind the position when the list is empty.
    """
    sort = shape.sort
    key, row_id = _sort_key(sort), orders.c.id
    rows = sa.select(*_COLUMNS, key.label("sort_key")).where(*_conditions(shape))
    if "after_id" in shape.given:
        place = sa.tuple_(_moment("after_moment"), sa.bindparam("after_id", type_=row_id.type))
        row = sa.tuple_(key, row_id)
        rows = rows.where(row < place if sort.descending else row > place)
    if "until" in shape.given:
        rows = rows.where(orders.c.updated_at <= _moment("until"))
    ordering = (key.desc(), row_id.desc()) if sort.descending else (key, row_id)
    page = rows.order_by(*ordering).limit(sa.bindparam("rows", type_=sa.Integer)).subquery("page")
    shown = [page.c.sort_key, page.c.id]
    return _beside_position(page, [page.c[column.name] for column in _COLUMNS]).order_by(
        *(column.desc() if sort.descending else column for column in shown)
    )


@functools.lru_cache(SHAPES_MAX)
def counts_statement(shape: QueryShape) -> sa.Select[Any]:
    """Rows of (epoch, position, status, count), of one snapshot."""
    counted = (
        sa.select(orders.c.status, sa.func.count().label("count"))
        .where(*_conditions(shape))
        .group_by(orders.c.status)
        .subquery("counted")
    )
    return _beside_position(counted, [counted.c.status, counted.c["count"]])


def _beside_position(source: sa.Subquery, columns: list[Any]) -> sa.Select[Any]:
    joined = log_positions.outerjoin(source, sa.true())
    return (
        sa.select(log_positions.c.epoch, log_positions.c.position, *columns)
        .select_from(joined)
        .where(log_positions.c.name == ORDERS_POSITION)
    )


def _sort_key(sort: Sort) -> sa.ColumnElement[Any]:
    """Orders without the date come last, whichever way the list is sorted."""
    column = orders.c[sort.field.value]
    if not column.nullable:
        return column
    return sa.func.coalesce(column, sa.literal(_missing(sort), orders.c.created_at.type))


def _missing(sort: Sort) -> datetime:
    return _EARLIEST if sort.descending else _LATEST


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
    if "q" in given:
        conditions.append(column.search.like(sa.bindparam("q", type_=sa.Text), escape=_ESCAPE))
    for name in ("created", "due"):
        moment = column[f"{name}_at"]
        if f"{name}_from" in given:
            conditions.append(moment >= _moment(f"{name}_from"))
        if f"{name}_to" in given:
            conditions.append(moment < _moment(f"{name}_to"))
    return conditions
