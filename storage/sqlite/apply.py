"""How a batch of log entries becomes rows, inside one transaction of the writer.

The position is moved first, guarded by the old one: of two writers one changes no row and stops. Rows of
`orders` are written once per order and batch, rows of `order_history` for every change.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import aiosqlite

from storage.clock import to_text
from storage.database import Rejected
from storage.entries import OrderChanged, encode_entry
from storage.errors import Fenced
from storage.log import Logged, Position
from storage.schema import ORDERS_POSITION
from storage.sqlite.rows import (
    INSERT_DEAD_LETTER,
    INSERT_HISTORIES,
    INSERT_HISTORY,
    ROWS_TOGETHER,
    UPSERT_ORDER,
    UPSERT_ORDERS,
    history_row,
    order_row,
    other_statement,
)

_ADVANCE = "UPDATE log_positions SET position = ? WHERE name = ? AND epoch = ? AND position = ?"


async def move_position(connection: aiosqlite.Connection, old: Position, new: Position) -> None:
    """Raises Fenced when the database is not at the old position."""
    cursor = await connection.execute(_ADVANCE, (new.n, ORDERS_POSITION, old.epoch, old.n))
    if cursor.rowcount != 1:
        raise Fenced(f"The database is no longer at log position {old}.")


async def apply_together(connection: aiosqlite.Connection, batch: Sequence[Logged], epoch: int) -> None:
    """The common case: everything fits. Raises sqlite3.IntegrityError when something does not."""
    changed = [logged for logged in batch if isinstance(logged.entry, OrderChanged)]
    latest = {
        logged.entry.change.order.id: logged.entry.change.order
        for logged in batch
        if isinstance(logged.entry, OrderChanged)
    }
    if changed:
        history = [history_row(logged, epoch) for logged in changed]
        await _insert(connection, INSERT_HISTORY, INSERT_HISTORIES, history)
        orders = [order_row(order) for order in latest.values()]
        await _insert(connection, UPSERT_ORDER, UPSERT_ORDERS, orders)
    for logged in batch:
        statement = other_statement(logged.entry)
        if statement is not None:
            await connection.execute(*statement)


async def _insert(connection: aiosqlite.Connection, one: str, many: str, rows: list[tuple[Any, ...]]) -> None:
    full = len(rows) - len(rows) % ROWS_TOGETHER
    if full:
        groups = (rows[start : start + ROWS_TOGETHER] for start in range(0, full, ROWS_TOGETHER))
        await connection.executemany(many, [list(chain.from_iterable(group)) for group in groups])
    if full < len(rows):
        await connection.executemany(one, rows[full:])


async def touches_parked(connection: aiosqlite.Connection, batch: Sequence[Logged]) -> bool:
    """Whether a change of the batch belongs behind a dead letter: alone it would fit, and skip a version."""
    parked = await _parked_orders(connection)
    return bool(parked) and any(order_id_of(logged) in parked for logged in batch)


async def apply_one_by_one(
    connection: aiosqlite.Connection, batch: Sequence[Logged], epoch: int
) -> list[Rejected]:
    """What fits is applied; what does not becomes a dead letter, and so does all that follows it of the
    same order, so that no version is skipped."""
    rejected: list[Rejected] = []
    parked = await _parked_orders(connection)
    for logged in batch:
        order_id = order_id_of(logged)
        error = "an earlier change of this order was set aside" if order_id in parked else None
        if error is None:
            error = await _try(connection, logged, epoch)
        if error is not None:
            rejected.append(Rejected(logged, error))
            if order_id is not None:
                parked.add(order_id)
            await _set_aside(connection, logged, epoch, error)
    return rejected


def order_id_of(logged: Logged) -> str | None:
    return logged.entry.change.order.id if isinstance(logged.entry, OrderChanged) else None


async def _try(connection: aiosqlite.Connection, logged: Logged, epoch: int) -> str | None:
    """The reason why an entry cannot be applied, None when it was (now or earlier)."""
    if isinstance(logged.entry, OrderChanged):
        known = await _entry_at_version(connection, logged.entry)
        if known == logged.entry.id:
            return None
        if known is not None:
            return f"fork: version {logged.entry.change.order.version} is entry {known} in the database"
    await connection.execute("SAVEPOINT entry")
    try:
        await apply_together(connection, [logged], epoch)
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
        await connection.execute("ROLLBACK TO entry")
        return str(error)
    finally:
        await connection.execute("RELEASE entry")
    return None


async def _entry_at_version(connection: aiosqlite.Connection, entry: OrderChanged) -> str | None:
    order = entry.change.order
    rows = list(
        await connection.execute_fetchall(
            "SELECT entry_id FROM order_history WHERE order_id = ? AND version = ?", (order.id, order.version)
        )
    )
    return str(rows[0][0]) if rows else None


async def _parked_orders(connection: aiosqlite.Connection) -> set[str | None]:
    rows = await connection.execute_fetchall(
        "SELECT DISTINCT order_id FROM dead_letters WHERE order_id IS NOT NULL"
    )
    return {row[0] for row in rows}


async def _set_aside(connection: aiosqlite.Connection, logged: Logged, epoch: int, error: str) -> None:
    entry = logged.entry
    row = (entry.id, epoch, logged.n, order_id_of(logged), error, encode_entry(entry), to_text(entry.at))
    await connection.execute(INSERT_DEAD_LETTER, row)
