"""Batches of 1,000 log entries into PostgreSQL: `PostgresDatabase.apply` against `executemany` of their rows.

Both make the rows from the entries, write a row of history for each and replace the row of its order, and
move the position, in one transaction on one connection. Ours also looks whether every change follows the
version that is stored. Each has a database of its own; batches take turns.
"""

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from benchmarks.engines import Engines
from benchmarks.orders import ADMIN, THERE_AND_BACK
from storage.database.batches import changes_of
from storage.database.order_rows import ORDER_NAMES, UPDATED_NAMES
from storage.database.rows import HISTORY_NAMES
from storage.database.schema import ORDERS_POSITION
from storage.ids import new_id
from storage.log.entries import LogRecord, OrderChanged, Position
from storage.orders.order import Change, Order
from storage.orders.rules import StatusRequest, advance, create
from storage.orders.workflow import Status
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from storage.postgresql.rows import ROWS

BATCH = 1_000
BATCHES = 6
"""In each round and for each."""
DEADLINE_S = 30.0


class Round(NamedTuple):
    """Microseconds per entry: on the clock, and of this process's processor time."""

    us: float
    cpu_us: float


def _insert(table: str, names: str) -> str:
    places = ", ".join(f"${place}" for place in range(1, len(names.split(", ")) + 1))
    return f"INSERT INTO {table} ({names}) VALUES ({places})"


_HISTORY = _insert("order_history", HISTORY_NAMES)
_ORDER = (
    f"{_insert('orders', f'{ORDER_NAMES}, search')} ON CONFLICT (id) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in UPDATED_NAMES)}"
    " WHERE excluded.version > orders.version"
)
_ADVANCE = "UPDATE log_positions SET position = $1 WHERE name = $2"


class Executemany:
    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> None:
        history = [ROWS.history_row(logged, old.epoch) for logged in batch]
        orders = [ROWS.order_row(order) for _, order in changes_of(batch)]
        async with self._connection.transaction():
            await self._connection.execute(_ADVANCE, new.n, ORDERS_POSITION)
            await self._connection.executemany(_HISTORY, history)
            await self._connection.executemany(_ORDER, orders)


class Log:
    """Batches of changes as write-behind would get them: each of another order, one version on."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self._orders = [_new_order(number, now) for number in range(BATCH)]
        self._n = 0

    def next_batch(self) -> list[LogRecord]:
        first = self._n == 0
        now = datetime.now(UTC)
        changes = [create(order, ADMIN) if first else _next(order, now) for order in self._orders]
        self._orders = [change.order for change in changes]
        batch = []
        for change in changes:
            self._n += 1
            batch.append(LogRecord(self._n, OrderChanged(id=new_id(now), at=now, change=change), 300))
        return batch


def _new_order(number: int, now: datetime) -> Order:
    return Order(
        id=new_id(now),
        number=number,
        version=1,
        status=Status.FILE_UPLOADED,
        status_since=now,
        status_version=1,
        customer="Anna",
        model="0" * 64,
        created_at=now,
        created_by=ADMIN.token_id,
        updated_at=now,
    )


def _next(order: Order, now: datetime) -> Change:
    there, back = THERE_AND_BACK
    change = advance(order, StatusRequest(status=back if order.status is there else there), ADMIN, now)
    assert change is not None
    return change


async def measure_flushes(engines: Engines, rounds: int) -> dict[str, list[Round]]:
    urls = [engines.postgres.create_database(name) for name in ("flush", "flush_executemany")]
    for url in urls:
        await migrate_postgresql(url)
    database = PostgresDatabase(urls[0], 1, DEADLINE_S, keeps_answers=True)
    await database.open()
    connection = await asyncpg.connect(urls[1])
    log, found = Log(), {"facet": list[Round](), "executemany": list[Round]()}
    stands = await database.position()
    for number in range(rounds + 1):
        taken: dict[str, list[Round]] = {name: [] for name in found}
        for _ in range(BATCHES):
            batch = log.next_batch()
            new = Position(stands.epoch, batch[-1].n)
            for name, engine in (("facet", database), ("executemany", Executemany(connection))):
                taken[name].append(await _timed(engine, batch, stands, new))
            stands = new
        for name, each in taken.items():
            found[name] += [_middle(each)] if number else []
    await connection.close()
    await database.close()
    return found


async def _timed(
    engine: PostgresDatabase | Executemany, batch: list[LogRecord], old: Position, new: Position
) -> Round:
    began_cpu_s, began_s = time.process_time(), time.perf_counter()
    if await engine.apply(batch, old, new):
        raise RuntimeError("the database refused a change")
    spent_s, spent_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return Round(spent_s / len(batch) * 1e6, spent_cpu_s / len(batch) * 1e6)


def _middle(taken: list[Round]) -> Round:
    """The median batch: now and then one waits for PostgreSQL to make another file of its own log, whichever
    of the two it happens to be."""
    return Round(
        statistics.median(each.us for each in taken), statistics.median(each.cpu_us for each in taken)
    )
