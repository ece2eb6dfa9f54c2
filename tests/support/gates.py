"""The real engines with doors in them: a test decides when an answer comes, and which write fails."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from storage.database.records import CountsSnapshot, ListSnapshot, Rejected, RowsSnapshot
from storage.errors import DatabaseUnavailable, LogUnavailable
from storage.log.entries import AnyEntry, LogRecord, Position
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import HistoryItem, Order
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.log import SqliteLog
from tests.support.stacks import log_of

DEADLINE_S = 10.0
POLL_S = 0.002


async def until(condition: Callable[[], object]) -> None:
    """Returns when the condition holds; fails when it does not in good time."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - any condition at all, of code that signals nobody
            await asyncio.sleep(POLL_S)


async def until_true(ask: Callable[[], Awaitable[object]], deadline_s: float = DEADLINE_S) -> None:
    """Asks again and again until the answer is true. Raises TimeoutError when it is not in good time."""
    async with asyncio.timeout(deadline_s):
        while not await ask():  # noqa: ASYNC110 - what is asked signals nobody
            await asyncio.sleep(POLL_S)


async def turns(count: int = 20) -> None:
    """Let everything run that can run without waiting for anything."""
    for _ in range(count):
        await asyncio.sleep(0)


class Gate:
    """Open unless a test has closed it."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.waiting = 0
        self.passed = 0

    async def enter(self) -> None:
        self.waiting += 1
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1
        self.passed += 1

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    @contextlib.asynccontextmanager
    async def closed(self) -> AsyncIterator["Gate"]:
        self.close()
        try:
            yield self
        finally:
            self.open()

    async def reached(self, count: int = 1) -> None:
        """Returns when so many stand before the closed gate."""
        await until(lambda: self.waiting >= count)


class GatedDatabase(SqliteDatabase):
    """Reads are held with their answer in hand: it may be old by the time it is given. Writes are held
    before they begin; `away` makes them fail instead."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.reads, self.writes = Gate(), Gate()
        self.away = False
        self.order_loads = 0

    async def load_order(self, order_id: str) -> Order | None:
        self.order_loads += 1
        order = await super().load_order(order_id)
        await self.reads.enter()
        return order

    async def load_history(self, order_id: str) -> list[HistoryItem]:
        items = await super().load_history(order_id)
        await self.reads.enter()
        return items

    async def load_list(self, query: ListQuery, limit: int) -> ListSnapshot:
        snapshot = await super().load_list(query, limit)
        await self.reads.enter()
        return snapshot

    async def load_rows(self, query: ListQuery, limit: int) -> RowsSnapshot:
        snapshot = await super().load_rows(query, limit)
        await self.reads.enter()
        return snapshot

    async def load_counts(self, order_filter: OrderFilter) -> CountsSnapshot:
        snapshot = await super().load_counts(order_filter)
        await self.reads.enter()
        return snapshot

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        await self.writes.enter()
        if self.away:
            raise DatabaseUnavailable("The database is away.")
        return await super().apply(batch, old, new)


class GatedLog(SqliteLog):
    """Appends are held before they begin. They can fail before anything is written, or after all of it
    is: then only the answer is lost."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.appends = Gate()
        self.fails_before = self.fails_after = 0
        self.appended: list[list[AnyEntry]] = []

    async def append(self, entries: Sequence[AnyEntry]) -> list[LogRecord]:
        await self.appends.enter()
        if self.fails_before:
            self.fails_before -= 1
            raise LogUnavailable("The log does not write.")
        head = self._head
        found = await super().append(entries)
        self.appended.append(list(entries))
        if self.fails_after:
            self.fails_after -= 1
            self._head = head
            raise LogUnavailable("The log wrote, but nobody heard of it.")
        return found


def gated_database(storage: Storage) -> GatedDatabase:
    return cast(GatedDatabase, storage.database)


def gated_log(storage: Storage) -> GatedLog:
    return cast(GatedLog, log_of(storage))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the write lock of a SQLite file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def execute(path: Path, sql: str) -> list[Any]:
    """One statement on a SQLite file, from outside."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=5.0)) as connection:
        return connection.execute(sql).fetchall()


def poison(path: Path, order_id: str, when: str = "TRUE") -> None:
    """From now on the database refuses rows of this order (those of which `when` holds)."""
    execute(
        path,
        f"CREATE TRIGGER poison BEFORE INSERT ON order_history WHEN NEW.order_id = '{order_id}' AND {when}"
        " BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
    )


def cure(path: Path) -> None:
    execute(path, "DROP TRIGGER poison")
