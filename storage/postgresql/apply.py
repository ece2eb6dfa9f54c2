"""How a batch of log entries becomes rows, inside one transaction of the writer.

The position is moved first, guarded by the old one: of two writers one changes no row and stops, and until
the end of the transaction nobody else brings anything in. Rows of `orders` are written once per order and
batch, rows of `order_history` for every change, each kind with one statement.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from storage.database.batches import (
    LATER,
    PARKED,
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
from storage.postgresql.connection import FAILURES, Connection, StatementRefused, is_refusal, refusal
from storage.postgresql.rows import (
    CARRIED,
    HISTORY_LIST,
    INSERT_DEAD_LETTER,
    INSERT_GIVEN,
    KEEP_ANSWERS,
    ORDER_LIST,
    REPLACE_ANSWERS,
    ROWS,
    STORE_OTHER,
    Carried,
    columns_of,
)

_ADVANCE = (
    "UPDATE log_positions SET position = $1 WHERE name = $2 AND epoch = $3 AND position = $4 RETURNING epoch"
)
_PARKED = "SELECT DISTINCT order_id FROM dead_letters WHERE order_id IS NOT NULL"
_KNOWN = (
    "SELECT f.id, f.version, h.entry_id FROM unnest($1::text[], $2::integer[]) AS f (id, version)"
    " JOIN order_history AS h ON h.order_id = f.id AND h.version = f.version"
)


COPIED_ROWS_MIN = 32
Add = Callable[[Connection, str, list[str], list[tuple[Any, ...]]], Awaitable[None]]
"""Adds rows of these columns to a table."""


class Changed(NamedTuple):
    """What a batch changes: rows of history, known orders with the version that each must have before (by
    what is carried of them), and rows of new orders."""

    history: Callable[[], list[tuple[Any, ...]]]
    known: dict[Carried, list[tuple[Order, int]]]
    new: list[tuple[Any, ...]]


class Orders(NamedTuple):
    """What the database has of the orders of a batch, kept up while the batch is applied one by one."""

    known: dict[tuple[str, int], str]
    versions: dict[str, int]
    parked: set[str | None]


async def move_position(connection: Connection, old: Position, new: Position) -> None:
    """Raises Fenced when the database is not at the old position."""
    if not await connection.fetch(_ADVANCE, new.n, ORDERS_POSITION, old.epoch, old.n):
        raise Fenced(f"The database is no longer at log position {old}.")


async def hold_position(connection: Connection) -> None:
    """No other process moves the position until the end of the transaction."""
    await connection.fetch("SELECT epoch FROM log_positions WHERE name = $1 FOR UPDATE", ORDERS_POSITION)


async def any_parked(connection: Connection, before: dict[str, int]) -> bool:
    """Whether something of a batch belongs behind a dead letter: alone it would fit, and skip a version.
    `before`: the versions that the batch expects."""
    return bool(before) and any(row[0] in before for row in await connection.fetch(_PARKED))


async def apply_together(
    connection: Connection,
    batch: Sequence[LogRecord],
    before: dict[str, int],
    epoch: int,
    copied_rows_min: int = COPIED_ROWS_MIN,
) -> None:
    """The common case: everything fits. `before`: the version that each order must have, 0 for a new one.
    Raises Refused, or what the server says, when something does not fit."""
    if changed := changes_of(batch):
        rows = _rows_of(changed, before, epoch)
        add = _copy if len(changed) >= copied_rows_min else _insert
        if await _store(connection, rows, add) != len(before) - len(rows.new):
            raise StatementRefused("a version does not follow the one that is stored")
    if len(changed) == len(batch):
        return
    for logged in batch:
        if (other := ROWS.other_row(logged.entry)) is not None:
            await connection.execute(STORE_OTHER[other[0]], *other[1])


def _rows_of(changed: list[tuple[LogRecord, Order]], before: dict[str, int], epoch: int) -> Changed:
    latest = {order.id: order for _, order in changed}
    reaches = widest_reach(changed)
    known: dict[Carried, list[tuple[Order, int]]] = {carried: [] for carried in CARRIED.values()}
    new = []
    # A reference is let go before another order takes it.
    for order in sorted(latest.values(), key=lambda order: order.reference is not None):
        if version := before[order.id]:
            known[CARRIED[reaches[order.id]]].append((order, version))
        else:
            new.append(ROWS.order_row(order))
    return Changed(lambda: [ROWS.history_row(logged, epoch) for logged, _ in changed], known, new)


async def _store(connection: Connection, rows: Changed, add: Add) -> int:
    """How many known orders were as expected."""
    update = asyncio.create_task(_update(connection, rows.known))
    await asyncio.sleep(0)  # it is sent
    history = rows.history()  # made here while the server updates
    updated = await update
    if rows.new:
        await add(connection, "orders", ORDER_LIST, rows.new)
    await add(connection, "order_history", HISTORY_LIST, history)
    return updated


async def _update(connection: Connection, known: dict[Carried, list[tuple[Order, int]]]) -> int:
    updated = 0
    for carried, orders in known.items():
        if orders:
            done = await connection.execute(carried.statement, *carried.arguments(orders))
            updated += int(done.rpartition(" ")[2])
    return updated


async def _insert(connection: Connection, table: str, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Few rows."""
    await connection.execute(INSERT_GIVEN[table], *columns_of(rows))


async def _copy(connection: Connection, table: str, names: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Many rows: COPY stores them as they come, quicker than anything that carries parameters."""
    await connection.copy_records_to_table(table, records=rows, columns=names)


async def recover_batch(connection: Connection, batch: Sequence[LogRecord], epoch: int) -> list[Rejected]:
    """Known entries apart, all that is new together if it fits, else one by one."""
    known = await _known(connection, batch)
    new = [logged for logged in batch if logged.later is not None or not _is_known(logged, known)]
    before = expected_versions(new)
    if before is None or await any_parked(connection, before):
        return await apply_one_by_one(connection, new, epoch)
    if await _refusal(connection, new, before, epoch) is None:
        return []
    return await apply_one_by_one(connection, new, epoch)


async def apply_one_by_one(connection: Connection, batch: Sequence[LogRecord], epoch: int) -> list[Rejected]:
    """What fits is applied, what is known is skipped; what does not fit becomes a dead letter, and so does
    all that follows it of the same order, so that no version is skipped."""
    rejected: list[Rejected] = []
    orders = await _orders_of(connection, batch)
    for logged in batch:
        if (error := await _try(connection, logged, epoch, orders)) is not None:
            rejected.append(Rejected(logged, error))
            orders.parked.add(order_id_of(logged))
            letter = ROWS.dead_letter_row(logged, epoch, error)
            await connection.execute(INSERT_DEAD_LETTER, *columns_of([letter]))
    return rejected


async def store_answers(
    connection: Connection, batch: Sequence[LogRecord], epoch: int, *, replaced: bool
) -> None:
    """Of one key in the batch the first answer is kept, or the last."""
    keyed = [logged for logged in batch if logged.entry.remembered is not None]
    rows = {
        row[0]: row for row in (ROWS.answer_row(logged, epoch) for logged in keyed[:: 1 if replaced else -1])
    }
    if rows:
        await connection.execute(
            REPLACE_ANSWERS if replaced else KEEP_ANSWERS, *columns_of(list(rows.values()))
        )


async def _refusal(
    connection: Connection, batch: Sequence[LogRecord], before: dict[str, int], epoch: int
) -> str | None:
    """Stores the batch; or nothing of it, and returns why."""
    await connection.execute("SAVEPOINT batch")
    try:
        await apply_together(connection, batch, before, epoch)
    except (*FAILURES, StatementRefused) as error:
        if not is_refusal(error):
            raise
        await connection.execute("ROLLBACK TO batch")
        return refusal(error)
    await connection.execute("RELEASE batch")
    return None


async def _try(connection: Connection, logged: LogRecord, epoch: int, orders: Orders) -> str | None:
    """The reason why an entry cannot be applied, None when it was (now or earlier)."""
    if logged.later is not None:
        return LATER
    if _is_known(logged, orders.known):
        return None
    for _, order in changes_of([logged]):
        if order.id in orders.parked:
            return PARKED
        known = orders.known.get((order.id, order.version))
        error = misfit(order, logged.entry.id, known, orders.versions.get(order.id, 0))
        if error is not None:
            return error
    before = {order.id: order.version - 1 for _, order in changes_of([logged])}
    if (error := await _refusal(connection, [logged], before, epoch)) is None:
        for _, order in changes_of([logged]):
            orders.known[order.id, order.version] = logged.entry.id
            orders.versions[order.id] = order.version
    return error


def _is_known(logged: LogRecord, known: dict[tuple[str, int], str]) -> bool:
    return any(known.get((order.id, order.version)) == logged.entry.id for _, order in changes_of([logged]))


async def _orders_of(connection: Connection, batch: Sequence[LogRecord]) -> Orders:
    ids = list({order.id for _, order in changes_of(batch)})
    versions = await connection.fetch("SELECT id, version FROM orders WHERE id = ANY ($1::text[])", ids)
    parked = await connection.fetch(
        "SELECT DISTINCT order_id FROM dead_letters WHERE order_id = ANY ($1::text[])", ids
    )
    return Orders(
        await _known(connection, batch), {row[0]: row[1] for row in versions}, {row[0] for row in parked}
    )


async def _known(connection: Connection, batch: Sequence[LogRecord]) -> dict[tuple[str, int], str]:
    """(order, version) -> the entry that the history has there."""
    if not (changed := changes_of(batch)):
        return {}
    ids, versions = [order.id for _, order in changed], [order.version for _, order in changed]
    rows = await connection.fetch(_KNOWN, ids, versions)
    return {(row[0], row[1]): row[2] for row in rows}
