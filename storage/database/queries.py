"""What the lists mean in SQL, for both engines. Statements are built here and run by the engines."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from storage.clock import from_text
from storage.database.schema import ORDER_COLUMNS, ORDERS_POSITION, log_positions, orders
from storage.orders.filters import NO_OPERATOR, ListQuery, OrderFilter, Sort

_COLUMNS = [orders.c[name] for name in ORDER_COLUMNS]
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


def list_statement(query: ListQuery, limit: int) -> sa.Select[Any]:
    """Rows of (epoch, position, *ORDER_COLUMNS): position and rows of one snapshot.

    One row of nulls behind the position when the list is empty.
    """
    key, row_id = _sort_key(query.sort), orders.c.id
    rows = sa.select(*_COLUMNS, key.label("sort_key")).where(*_conditions(query.filter))
    if query.after is not None:
        rows = rows.where(_behind(query))
    if query.until is not None:
        rows = rows.where(orders.c.updated_at <= _moment(query.until))
    ordering = (key.desc(), row_id.desc()) if query.sort.descending else (key, row_id)
    page = rows.order_by(*ordering).limit(limit).subquery("page")
    shown = [page.c.sort_key, page.c.id]
    return _beside_position(page, [page.c[column.name] for column in _COLUMNS]).order_by(
        *(column.desc() if query.sort.descending else column for column in shown)
    )


def counts_statement(order_filter: OrderFilter) -> sa.Select[Any]:
    """Rows of (epoch, position, status, count), of one snapshot."""
    counted = (
        sa.select(orders.c.status, sa.func.count().label("count"))
        .where(*_conditions(order_filter))
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
    return sa.func.coalesce(column, _moment(_missing(sort)))


def _missing(sort: Sort) -> datetime:
    return _EARLIEST if sort.descending else _LATEST


def _moment(moment: datetime) -> sa.ColumnElement[Any]:
    """Of the columns' own type: each engine keeps moments in its way."""
    return sa.literal(moment, orders.c.created_at.type)


def _behind(query: ListQuery) -> sa.ColumnElement[bool]:
    assert query.after is not None
    moment = _missing(query.sort) if query.after.moment is None else from_text(query.after.moment)
    place = sa.tuple_(_moment(moment), sa.literal(query.after.id, orders.c.id.type))
    row = sa.tuple_(_sort_key(query.sort), orders.c.id)
    return row < place if query.sort.descending else row > place


def _conditions(order_filter: OrderFilter) -> list[sa.ColumnElement[bool]]:
    column = orders.c
    conditions: list[sa.ColumnElement[bool]] = []
    if order_filter.statuses:
        conditions.append(column.status.in_(sorted(status.value for status in order_filter.statuses)))
    if order_filter.operator == NO_OPERATOR:
        conditions.append(column.operator.is_(None))
    elif order_filter.operator is not None:
        conditions.append(column.operator == order_filter.operator)
    for name in ("customer", "number", "reference"):
        if (value := getattr(order_filter, name)) is not None:
            conditions.append(column[name] == value)
    if order_filter.q is not None:
        conditions.append(column.search.contains(order_filter.q, autoescape=True))
    for name in ("created", "due"):
        moment = column[f"{name}_at"]
        if (start := getattr(order_filter, f"{name}_from")) is not None:
            conditions.append(moment >= _moment(start))
        if (end := getattr(order_filter, f"{name}_to")) is not None:
            conditions.append(moment < _moment(end))
    return conditions
