"""The statements that carry rows. Where there may be several, one statement takes a column of each, as an
array or as a text: one round trip and one plan. New rows of a long batch come by COPY instead."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa

from storage.clock import to_micros
from storage.database.batches import Reach
from storage.database.order_rows import ORDER_NAMES, STEP_NAMES, UPDATED_NAMES
from storage.database.rows import HISTORY_NAMES, KEEP_NEWER_FACTS, MODEL_COLUMNS, Rows
from storage.database.schema import (
    answers,
    dead_letters,
    is_moment,
    model_tenants,
    models,
    order_history,
    orders,
)
from storage.log.entries import Entry, MetalFixed, PriceListPublished, QuoteIssued, TokenIssued, TokenRevoked
from storage.orders.order import Order


def _same(moment: datetime) -> datetime:
    return moment


ROWS = Rows(_same, _same, _same)


def array_type(column: "sa.Column[Any]") -> str:
    if is_moment(column):
        return "timestamptz[]"
    match column.type:
        case sa.BigInteger():
            return "bigint[]"
        case sa.Integer():
            return "integer[]"
        case sa.Float():
            return "float8[]"
        case sa.LargeBinary():
            return "bytea[]"
    return "text[]"


def insert_many(table: sa.Table, names: str) -> str:
    """Takes one array per column."""
    arrays = ", ".join(
        f"${place}::{array_type(table.c[name])}" for place, name in enumerate(names.split(", "), 1)
    )
    return f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({arrays})"


def columns_of(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return list(zip(*rows, strict=True))


HISTORY_LIST = HISTORY_NAMES.split(", ")
_STORED_NAMES = f"{ORDER_NAMES}, search"
ORDER_LIST = _STORED_NAMES.split(", ")


Known = Sequence[tuple[Order, int]]
"""Orders that the database has, with the version that each must have there before."""


class Carried(NamedTuple):
    """A statement that brings known orders to a newer state, and what makes its arguments."""

    arguments: Callable[[Known], Sequence[Any]]
    statement: str


def _update(names: Sequence[str], arrays: Iterable[str], replaced: dict[str, str]) -> str:
    """`arrays`: a column of the incoming rows each, the last is the version before. What is not replaced is
    set to itself: the server would look for old versions to delete in the indexes of columns that a
    statement does not name, at twice the cost of the whole batch. Vacuum does that. The text is in no index:
    a statement that does not replace it does not name it, or a trigger would look at it."""
    settings = ", ".join(
        f"{name} = {replaced.get(name, f'orders.{name}')}"
        for name in ORDER_LIST
        if name != "id" and (name != "search" or name in replaced)
    )
    return (
        f"UPDATE orders SET {settings} FROM unnest({', '.join(arrays)}) AS incoming"
        f" ({', '.join(names)}, before)"
        " WHERE orders.id = incoming.id AND orders.version = incoming.before"
    )


def _by_arrays(
    row: Callable[[Order], tuple[Any, ...]], names: Sequence[str], replaced: Iterable[str]
) -> Carried:
    """One array for each column."""
    types = [*(array_type(orders.c[name]) for name in names), "integer[]"]
    arrays = (f"${place}::{array}" for place, array in enumerate(types, 1))
    return Carried(
        lambda known: columns_of((*row(order), version) for order, version in known),
        _update(names, arrays, {name: f"incoming.{name}" for name in replaced}),
    )


def _moved_arguments(known: Known) -> list[str]:
    """Each column as one text of its values: the driver looks at every element of an array several times,
    which costs this process more than anything else of a batch."""
    rows = []
    for order, version in known:
        since, updated = order.status_since, order.updated_at
        since_us = str(to_micros(since))
        updated_us = since_us if updated == since else str(to_micros(updated))
        newer = (str(order.version), order.status.value, since_us, str(order.status_version), updated_us)
        rows.append((order.id, *newer, str(version)))
    return [",".join(column) for column in zip(*rows, strict=True)]


_MOVED_ARRAYS = {
    "id": "text[]",
    "version": "integer[]",
    "status": "text[]",
    "status_since": "bigint[]",
    "status_version": "integer[]",
    "updated_at": "bigint[]",
    "before": "integer[]",
}
_MOMENT = "timestamptz 'epoch' + incoming.{} * interval '1 microsecond'"

MOVED = Carried(
    _moved_arguments,
    _update(
        [name for name in _MOVED_ARRAYS if name != "before"],
        (f"string_to_array(${place}, ',')::{array}" for place, array in enumerate(_MOVED_ARRAYS.values(), 1)),
        {name: f"incoming.{name}" for name in ("version", "status", "status_version")}
        | {name: _MOMENT.format(name) for name in ("status_since", "updated_at")},
    ),
)
CARRIED: Mapping[Reach, Carried] = MappingProxyType(
    {
        Reach.EDITED: _by_arrays(ROWS.order_row, ORDER_LIST, UPDATED_NAMES),
        Reach.STEPPED: _by_arrays(ROWS.step_row, STEP_NAMES, STEP_NAMES[1:]),
        Reach.MOVED: MOVED,
    }
)
"""In the order in which they are brought in."""
INSERT_GIVEN = {
    "orders": insert_many(orders, _STORED_NAMES),
    "order_history": insert_many(order_history, HISTORY_NAMES),
}
INSERT_DEAD_LETTER = (
    f"{insert_many(dead_letters, 'id, epoch, position, order_id, error, payload, at')}"
    " ON CONFLICT (id) DO NOTHING"
)
KEEP_ANSWERS = f"{insert_many(answers, 'scope, epoch, position, payload, at')} ON CONFLICT (scope) DO NOTHING"
REPLACE_ANSWERS = (
    f"{insert_many(answers, 'scope, epoch, position, payload, at')} ON CONFLICT (scope) DO UPDATE SET"
    " epoch = excluded.epoch, position = excluded.position, payload = excluded.payload, at = excluded.at"
    " WHERE excluded.at > answers.at"
)
STORE_OTHER: dict[type[Entry], str] = {
    QuoteIssued: (
        "INSERT INTO prices (id, sha256, tenant, issued_at, valid_until, body)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING"
    ),
    PriceListPublished: (
        "INSERT INTO price_lists (version, valid_from, valid_to, published_at, body)"
        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (version) DO NOTHING"
    ),
    MetalFixed: (
        "INSERT INTO metal_fixes (version, fixed_at, published_at, body) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (version) DO NOTHING"
    ),
    TokenIssued: (
        "INSERT INTO tokens (id, secret_hash, role, name, customer, created_at)"
        " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING"
    ),
    TokenRevoked: "UPDATE tokens SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2",
}


_HALF_LIFE = f"${MODEL_COLUMNS.count(',') + 2}"
"""The argument behind the columns."""


def _score_of(row: str) -> str:
    """Of one of two rows, as of the later moment of both; as `storage.memory.popularity.added`."""
    waited = f"greatest(models.requested_at, excluded.requested_at) - {row}.requested_at"
    half_lives = f"extract(epoch FROM {waited})::float8 / {_HALF_LIFE}::float8"
    return f"{row}.requests_score * power(0.5, least({half_lives}, 1000))"


STORE_MODELS = (
    f"{insert_many(models, MODEL_COLUMNS)} ON CONFLICT (sha256) DO UPDATE SET"
    f" {KEEP_NEWER_FACTS},"
    f" requests_score = {_score_of('models')} + {_score_of('excluded')},"
    " requested_at = greatest(models.requested_at, excluded.requested_at)"
)
STORE_TENANTS = f"{insert_many(model_tenants, 'sha256, tenant')} ON CONFLICT DO NOTHING"
