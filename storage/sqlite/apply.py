"""How a batch of log entries becomes rows, inside one transaction of the writer.

The position is moved first, guarded by the old one: of two writers one changes no row and stops. Rows of
`orders` are written once per order and batch, rows of `order_history` for every change.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import aiosqlite
import msgspec

from storage.database.batches import (
    LATER,
    PARKED,
    Reach,
    changes_of,
    expected_versions,
    misfit,
    widest_reach,
)
from storage.database.records import Rejected
from storage.database.rows import order_id_of
from storage.database.schema import ORDERS_POSITION
from storage.errors import Fenced
from storage.log.entries import LogRecord, Position
from storage.orders.order import Order
from storage.sqlite.rows import (
    INSERT_DEAD_LETTER,
    INSERT_HISTORIES,
    INSERT_HISTORY,
    MOVE_ORDER,
    MOVE_ORDERS,
    ROWS,
    ROWS_TOGETHER,
    UPSERT_ORDER,
    UPSERT_ORDERS,
    other_statement,
)

REFUSED = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError)
"""What the database says of a row that it will never take."""

_ADVANCE = "UPDATE log_positions SET position = ? WHERE name = ? AND epoch = ? AND position = ?"
_STORED = "SELECT coalesce((SELECT version FROM orders WHERE id = f.key), 0)"
_UNFIT = (
    "SELECT order_id FROM dead_letters WHERE order_id IS NOT NULL"
    f" UNION ALL SELECT f.key FROM json_each(?) AS f WHERE ({_STORED}) <> f.value"
)
_KNOWN = (
    "SELECT (SELECT entry_id FROM order_history WHERE order_id = ?1 AND version = ?2),"
    " coalesce((SELECT version FROM orders WHERE id = ?1), 0)"
)


async def move_position(connection: aiosqlite.Connection, old: Position, new: Position) -> None:
    """Raises Fenced when the database is not at the old position."""
    cursor = await connection.execute(_ADVANCE, (new.n, ORDERS_POSITION, old.epoch, old.n))
    if cursor.rowcount != 1:
        raise Fenced(f"The database is no longer at log position {old}.")


async def flows(connection: aiosqlite.Connection, batch: Sequence[LogRecord]) -> bool:
    """Whether every change of the batch follows the version that is stored, and none belongs behind a dead
    letter: alone it would fit, and skip a version."""
    if (expected := expected_versions(batch)) is None:
        return False
    if not expected:
        return True
    unfit = await connection.execute_fetchall(_UNFIT, (msgspec.json.encode(expected).decode(),))
    return not any(row[0] in expected for row in unfit)


async def apply_together(connection: aiosqlite.Connection, batch: Sequence[LogRecord], epoch: int) -> None:
    """The common case: everything fits. Raises one of REFUSED when something does not."""
    if changed := changes_of(batch):
        history = [ROWS.history_row(logged, epoch) for logged, _ in changed]
        await _insert(connection, INSERT_HISTORY, INSERT_HISTORIES, history)
        moved, others = _rows_of(changed)
        await _insert(connection, UPSERT_ORDER, UPSERT_ORDERS, others)
        await _insert(connection, MOVE_ORDER, MOVE_ORDERS, moved)
    for logged in batch:
        if (statement := other_statement(logged.entry)) is not None:
            await connection.execute(*statement)


def _rows_of(
    changed: Sequence[tuple[LogRecord, Order]],
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The rows of orders whose status alone has changed, and those of the others."""
    latest = {order.id: order for _, order in changed}
    is_new = {order.id for _, order in changed if order.version == 1}
    reaches = widest_reach(changed)
    moved, others = [], []
    for order in latest.values():
        if reaches[order.id] is Reach.MOVED and order.id not in is_new:
            moved.append(ROWS.move_row(order))
        else:
            others.append(ROWS.order_row(order))
    return moved, others


async def store_answers(
    connection: aiosqlite.Connection, statement: str, batch: Sequence[LogRecord], epoch: int
) -> None:
    rows = [ROWS.answer_row(logged, epoch) for logged in batch if logged.entry.remembered is not None]
    if rows:
        await connection.executemany(statement, rows)


async def _insert(connection: aiosqlite.Connection, one: str, many: str, rows: list[tuple[Any, ...]]) -> None:
    if full := len(rows) - len(rows) % ROWS_TOGETHER:
        groups = (rows[start : start + ROWS_TOGETHER] for start in range(0, full, ROWS_TOGETHER))
        await connection.executemany(many, [list(chain.from_iterable(group)) for group in groups])
    if full < len(rows):
        await connection.executemany(one, rows[full:])


async def apply_one_by_one(
    connection: aiosqlite.Connection, batch: Sequence[LogRecord], epoch: int
) -> list[Rejected]:
    """What fits is applied, what is known is skipped; what does not fit becomes a dead letter, and so does
    all that follows it of the same order, so that no version is skipped."""
    rejected: list[Rejected] = []
    parked = await _parked_orders(connection)
    for logged in batch:
        if (error := await _try(connection, logged, epoch, parked)) is not None:
            rejected.append(Rejected(logged, error))
            parked.add(order_id_of(logged))
            await connection.execute(INSERT_DEAD_LETTER, ROWS.dead_letter_row(logged, epoch, error))
    return rejected


async def _try(
    connection: aiosqlite.Connection, logged: LogRecord, epoch: int, parked: set[str | None]
) -> str | None:
    """The reason why an entry cannot be applied, None when it was (now or earlier)."""
    if logged.later is not None:
        return LATER
    for _, order in changes_of([logged]):
        known, stored = await _state_of(connection, order)
        if known == logged.entry.id:
            return None
        error = PARKED if order.id in parked else misfit(order, logged.entry.id, known, stored)
        if error is not None:
            return error
    await connection.execute("SAVEPOINT entry")
    try:
        await apply_together(connection, [logged], epoch)
    except REFUSED as error:
        await connection.execute("ROLLBACK TO entry")
        return str(error)
    finally:
        await connection.execute("RELEASE entry")
    return None


async def _state_of(connection: aiosqlite.Connection, order: Order) -> tuple[str | None, int]:
    """The entry that is known at the order's version, and the version that is stored."""
    rows = await connection.execute_fetchall(_KNOWN, (order.id, order.version))
    known, stored = next(iter(rows))
    return known, stored


async def _parked_orders(connection: aiosqlite.Connection) -> set[str | None]:
    rows = await connection.execute_fetchall(
        "SELECT DISTINCT order_id FROM dead_letters WHERE order_id IS NOT NULL"
    )
    return {row[0] for row in rows}
