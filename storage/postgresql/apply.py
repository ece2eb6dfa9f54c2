"""How a batch of log entries becomes rows, inside one transaction of the writer.

The position is moved first, guarded by the old one: of two writers one changes no row and stops, and until
the end of the transaction nobody else brings anything in. Rows of `orders` are written once per order and
batch, rows of `order_history` for every change, each kind with one statement.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from storage.applying import PARKED, changes_of, expected_versions, misfit
from storage.database import Rejected
from storage.entries import OrderChanged
from storage.errors import Fenced
from storage.log import Logged, Position
from storage.orders import Kind, Order
from storage.postgresql.connection import FAILURES, Connection, Refused, is_refusal, refusal
from storage.postgresql.rows import (
    HISTORY_LIST,
    INCOMING,
    INCOMING_LIST,
    INCOMING_STEPS,
    INSERT_DEAD_LETTER,
    INSERT_GIVEN,
    INSERT_HISTORY,
    KEEP_ANSWERS,
    ORDER_LIST,
    REPLACE_ANSWERS,
    ROWS,
    STEP_LIST,
    STORE_OTHER,
    UPDATE_COPIED,
    UPDATE_GIVEN,
    UPDATE_STEPPED,
    columns_of,
)
from storage.rows import order_id_of
from storage.schema import ORDERS_POSITION

_ADVANCE = (
    "UPDATE log_positions SET position = $1 WHERE name = $2 AND epoch = $3 AND position = $4 RETURNING epoch"
)
_PARKED = "SELECT DISTINCT order_id FROM dead_letters WHERE order_id IS NOT NULL"
_KNOWN = (
    "SELECT f.id, f.version, h.entry_id FROM unnest($1::text[], $2::integer[]) AS f (id, version)"
    " JOIN order_history AS h ON h.order_id = f.id AND h.version = f.version"
)


COPIED_ROWS_MIN = 32


class Changed(NamedTuple):
    """What a batch changes: rows of history, orders with the version that each must have before (those that
    were edited apart: the others carry less), and rows of new orders."""

    history: Callable[[], list[tuple[Any, ...]]]
    stepped: list[tuple[Order, int]]
    edited: list[tuple[Order, int]]
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
    """Until the end of the transaction nobody else moves the position."""
    await connection.fetch("SELECT epoch FROM log_positions WHERE name = $1 FOR UPDATE", ORDERS_POSITION)


async def flows(connection: Connection, batch: Sequence[Logged]) -> bool:
    """Whether the batch skips no version by itself and nothing of it belongs behind a dead letter: alone it
    would fit, and skip a version."""
    expected = expected_versions(batch)
    if expected is None:
        return False
    return not (expected and any(row[0] in expected for row in await connection.fetch(_PARKED)))


async def apply_together(
    connection: Connection, batch: Sequence[Logged], epoch: int, copied_rows_min: int = COPIED_ROWS_MIN
) -> None:
    """The common case: everything fits. Raises Refused, or what the server says, when something does not."""
    changed = changes_of(batch)
    if changed:
        rows = _rows_of(changed, batch, epoch)
        store = _store_copied if len(changed) >= copied_rows_min else _store_given
        if await store(connection, rows) != len(rows.stepped) + len(rows.edited):
            raise Refused("a version does not follow the one that is stored")
    for logged in batch:
        other = ROWS.other_row(logged.entry)
        if other is not None:
            await connection.execute(STORE_OTHER[other[0]], *other[1])


def _rows_of(changed: list[tuple[Logged, Order]], batch: Sequence[Logged], epoch: int) -> Changed:
    latest = {order.id: order for _, order in changed}
    before = expected_versions(batch) or {}
    edited = {order.id for logged, order in changed if _is_edit(logged)}
    # A reference is let go before another order takes it.
    orders = sorted(latest.values(), key=lambda order: order.reference is not None)
    known = [order for order in orders if before.get(order.id) != 0]
    return Changed(
        lambda: [ROWS.history_row(logged, epoch) for logged, _ in changed],
        [(order, before.get(order.id, -1)) for order in known if order.id not in edited],
        [(order, before.get(order.id, -1)) for order in known if order.id in edited],
        [ROWS.order_row(order) for order in orders if before.get(order.id) == 0],
    )


def _is_edit(logged: Logged) -> bool:
    return isinstance(logged.entry, OrderChanged) and logged.entry.change.kind is Kind.EDIT


async def _store_given(connection: Connection, rows: Changed) -> int:
    """Few rows: as parameters, in as few round trips as can be. How many known orders were as expected."""
    await connection.execute(INSERT_HISTORY, *columns_of(rows.history()))
    updated = 0
    columns = columns_of((*ROWS.order_row(order), known) for order, known in (*rows.edited, *rows.stepped))
    if columns:
        updated = _count(await connection.execute(UPDATE_GIVEN, *columns))
    columns = columns_of(rows.new)
    if columns:
        await connection.execute(INSERT_GIVEN, *columns)
    return updated


async def _store_copied(connection: Connection, rows: Changed) -> int:
    """Many rows: COPY reads them as they are made, which is quicker than anything that carries parameters."""
    updated = 0
    history: list[tuple[Any, ...]] = []
    if rows.edited:
        records = ((*ROWS.order_row(order), known) for order, known in rows.edited)
        await connection.copy_records_to_table(INCOMING, records=records, columns=INCOMING_LIST)
        updated += _count(await connection.execute(UPDATE_COPIED))
    if rows.stepped:
        records = ((*ROWS.step_row(order), known) for order, known in rows.stepped)
        await connection.copy_records_to_table(INCOMING_STEPS, records=records, columns=STEP_LIST)
        update = asyncio.create_task(connection.execute(UPDATE_STEPPED))
        await asyncio.sleep(0)  # it is sent
        history = rows.history()  # made here while the server updates
        updated += _count(await update)
    if rows.new:
        await connection.copy_records_to_table("orders", records=rows.new, columns=ORDER_LIST)
    history = history or rows.history()
    await connection.copy_records_to_table("order_history", records=history, columns=HISTORY_LIST)
    return updated


def _count(done: str) -> int:
    """Of rows, in what the server says of a statement."""
    return int(done.rpartition(" ")[2])


async def unite_batch(connection: Connection, batch: Sequence[Logged], epoch: int) -> list[Rejected]:
    """Known entries apart, all that is new together if it fits, else one by one."""
    known = await _known(connection, batch)
    new = [logged for logged in batch if not _is_known(logged, known)]
    if await flows(connection, new) and await _refusal(connection, new, epoch) is None:
        return []
    return await apply_one_by_one(connection, new, epoch)


async def apply_one_by_one(connection: Connection, batch: Sequence[Logged], epoch: int) -> list[Rejected]:
    """What fits is applied, what is known is skipped; what does not fit becomes a dead letter, and so does
    all that follows it of the same order, so that no version is skipped."""
    rejected: list[Rejected] = []
    orders = await _orders_of(connection, batch)
    for logged in batch:
        error = await _try(connection, logged, epoch, orders)
        if error is not None:
            rejected.append(Rejected(logged, error))
            orders.parked.add(order_id_of(logged))
            letter = ROWS.dead_letter_row(logged, epoch, error)
            await connection.execute(INSERT_DEAD_LETTER, *columns_of([letter]))
    return rejected


async def store_answers(
    connection: Connection, batch: Sequence[Logged], epoch: int, *, replaced: bool
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


async def _refusal(connection: Connection, batch: Sequence[Logged], epoch: int) -> str | None:
    """Stores the batch; or nothing of it, and returns why."""
    await connection.execute("SAVEPOINT batch")
    try:
        await apply_together(connection, batch, epoch)
    except (*FAILURES, Refused) as error:
        if not is_refusal(error):
            raise
        await connection.execute("ROLLBACK TO batch")
        return refusal(error)
    await connection.execute("RELEASE batch")
    return None


async def _try(connection: Connection, logged: Logged, epoch: int, orders: Orders) -> str | None:
    """The reason why an entry cannot be applied, None when it was (now or earlier)."""
    if _is_known(logged, orders.known):
        return None
    for _, order in changes_of([logged]):
        if order.id in orders.parked:
            return PARKED
        known = orders.known.get((order.id, order.version))
        error = misfit(order, logged.entry.id, known, orders.versions.get(order.id, 0))
        if error is not None:
            return error
    error = await _refusal(connection, [logged], epoch)
    if error is None:
        for _, order in changes_of([logged]):
            orders.known[order.id, order.version] = logged.entry.id
            orders.versions[order.id] = order.version
    return error


def _is_known(logged: Logged, known: dict[tuple[str, int], str]) -> bool:
    return any(known.get((order.id, order.version)) == logged.entry.id for _, order in changes_of([logged]))


async def _orders_of(connection: Connection, batch: Sequence[Logged]) -> Orders:
    ids = list({order.id for _, order in changes_of(batch)})
    versions = await connection.fetch("SELECT id, version FROM orders WHERE id = ANY ($1::text[])", ids)
    parked = await connection.fetch(
        "SELECT DISTINCT order_id FROM dead_letters WHERE order_id = ANY ($1::text[])", ids
    )
    return Orders(
        await _known(connection, batch), {row[0]: row[1] for row in versions}, {row[0] for row in parked}
    )


async def _known(connection: Connection, batch: Sequence[Logged]) -> dict[tuple[str, int], str]:
    """(order, version) -> the entry that the history has there."""
    changed = changes_of(batch)
    if not changed:
        return {}
    ids, versions = [order.id for _, order in changed], [order.version for _, order in changed]
    rows = await connection.fetch(_KNOWN, ids, versions)
    return {(row[0], row[1]): row[2] for row in rows}
