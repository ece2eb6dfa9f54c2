"""What several processes of one Facet share, and the processes: each a whole storage with doors in it, all in
one test."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, cast

from storage.bounds import Bounds
from storage.clock import Clock, SystemClock
from storage.data_directory import DataDirectory
from storage.database.contract import Database
from storage.database.lease import DatabaseLease, Lease, SoleLease
from storage.database.records import Rejected
from storage.embedded.change_log import EmbeddedChangeLog
from storage.errors import DatabaseUnavailable
from storage.log.entries import LogRecord, Position
from storage.postgresql.database import PostgresDatabase
from storage.redis.change_log import RedisChangeLog
from storage.redis.endpoint import endpoint_of
from storage.services.stack import Storage
from storage.sqlite.log import SqliteLog
from storage.sqlite.migrate import migrate_sqlite
from tests.support import engines, gates
from tests.support.acts import Workshop
from tests.support.gates import Gate, GatedDatabase
from tests.support.small_bounds import SLOW_MACHINE

PREFIX = "facet"
_count = itertools.count(1)


class GatedPostgres(PostgresDatabase):
    """Batches are held before they begin, or when they are committed and nobody knows of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.writes, self.answers = Gate(), Gate()
        self.lose_answers = 0

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        await self.writes.enter()
        rejected = await super().apply(batch, old, new)
        await self.answers.enter()
        if self.lose_answers:
            self.lose_answers -= 1
            raise DatabaseUnavailable("The answer of the database got lost.")
        return rejected


class Data(Protocol):
    """A database that every process of a test opens for itself."""

    @property
    def lets_many_in(self) -> bool: ...

    def connect(self, bounds: Bounds, *, keeps_answers: bool) -> GatedDatabase | GatedPostgres: ...

    def execute(self, statement: str) -> Sequence[Any]:
        """Said by another program."""

    def poison(self, order_id: str) -> None:
        """From now on the database refuses history rows of this order."""

    def cure(self) -> None: ...


class SqliteData:
    lets_many_in = False

    def __init__(self, path: Path) -> None:
        self.path = path
        migrate_sqlite(path)

    def connect(self, bounds: Bounds, *, keeps_answers: bool) -> GatedDatabase:
        return GatedDatabase(
            self.path, bounds.busy_timeout_s, 2, bounds.read_deadline_s, keeps_answers=keeps_answers
        )

    def execute(self, statement: str) -> Sequence[Any]:
        return gates.execute(self.path, statement)

    def poison(self, order_id: str) -> None:
        gates.poison(self.path, order_id)

    def cure(self) -> None:
        gates.cure(self.path)


class PostgresData:
    lets_many_in = True

    def __init__(self, url: str) -> None:
        """Of a migrated database."""
        self.url = url

    def connect(self, bounds: Bounds, *, keeps_answers: bool) -> GatedPostgres:
        return GatedPostgres(self.url, 4, bounds.read_deadline_s, keeps_answers=keeps_answers)

    def execute(self, statement: str) -> Sequence[Any]:
        return engines.query(self.url, statement)

    def poison(self, order_id: str) -> None:
        self.execute(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poisoned'; END $$"
        )
        self.execute(
            "CREATE TRIGGER poison BEFORE INSERT ON order_history FOR EACH ROW"
            f" WHEN (NEW.order_id = '{order_id}') EXECUTE FUNCTION poison()"
        )

    def cure(self) -> None:
        self.execute("DROP TRIGGER poison ON order_history")


class Process:
    def __init__(self, storage: Storage, close_log: Callable[[], Any]) -> None:
        self.storage = storage
        self.shop = Workshop(storage)
        self.crashed = False
        self._close_log = close_log

    @property
    def tier(self) -> RedisChangeLog:
        return cast(RedisChangeLog, self.storage.change_log)

    @property
    def database(self) -> Database:
        return self.storage.database

    @property
    def _gated(self) -> GatedDatabase | GatedPostgres:
        return cast(GatedPostgres, self.storage.database)

    @property
    def writes(self) -> Gate:
        """Before batches of this process."""
        return self._gated.writes

    @property
    def gated(self) -> GatedPostgres:
        return cast(GatedPostgres, self.storage.database)

    async def note(self, order_id: str) -> str | None:
        """As this process shows the order."""
        return (await self.storage.reads.order(order_id)).note

    async def persisted(self) -> None:
        await self.shop.persisted()

    async def crash(self) -> None:
        """As a SIGKILL: nothing is drained, given back or said to anybody."""
        self.crashed = True
        tasks = [*self.storage._tasks.values()]
        change_log: object = self.storage.change_log
        if isinstance(change_log, RedisChangeLog):
            tasks += [each for each in (change_log._keeper, change_log._epochs._beating) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close_log()
        await self.storage.database.close()


class Facet(Protocol):
    """What the processes share. Each `open` is a process."""

    data: Data

    def open(
        self, bounds: Bounds | None = None, clock: Clock | None = None, *, drain_s: float = 10.0
    ) -> AbstractAsyncContextManager[Process]: ...

    async def lose_the_log(self) -> None:
        """As if what holds it was replaced; nobody has it open, or everybody notices."""


class EmbeddedFacet:
    def __init__(self, data: Data, folder: Path) -> None:
        self.data = data
        self._directory = DataDirectory(folder)
        self._directory.create()

    @contextlib.asynccontextmanager
    async def open(
        self, bounds: Bounds | None = None, clock: Clock | None = None, *, drain_s: float = 10.0
    ) -> AsyncIterator[Process]:
        bounds, clock = bounds or Bounds(), clock or SystemClock()
        database = self.data.connect(bounds, keeps_answers=False)
        log = SqliteLog(self._directory.log, 1.0, bounds.read_deadline_s)
        await database.open()
        await log.open()
        storage = Storage(
            database,
            lambda tail: EmbeddedChangeLog(log, database, tail, bounds, clock),
            analyser="1",
            bounds=bounds,
            clock=clock,
        )
        async with _running(Process(storage, log.close), drain_s) as process:
            yield process

    async def lose_the_log(self) -> None:
        """The database is a restored copy: it never heard of this epoch of the log."""
        self.data.execute("UPDATE log_positions SET epoch = epoch + 1, position = 0")


class RedisFacet:
    def __init__(self, data: Data, url: str, flush: Callable[[], None]) -> None:
        self.data = data
        self.url = url
        self._flush = flush

    @contextlib.asynccontextmanager
    async def open(
        self,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
        *,
        drain_s: float = 10.0,
        url: str | None = None,
    ) -> AsyncIterator[Process]:
        """`url`: another way to the same Redis."""
        bounds, clock = bounds or SLOW_MACHINE, clock or SystemClock()
        database = self.data.connect(bounds, keeps_answers=True)
        await database.open()
        name = f"process-{next(_count)}"
        endpoint = endpoint_of(url or self.url, PREFIX, bounds.shared_deadline_s)
        lease: Lease = SoleLease()
        if self.data.lets_many_in:
            lease = DatabaseLease("write_behind", name, database, bounds, clock)
        storage = Storage(
            database,
            lambda tail: RedisChangeLog(endpoint, PREFIX, name, database, tail, bounds, clock),
            analyser="1",
            bounds=bounds,
            clock=clock,
            lease=lease,
        )

        async def nothing() -> None: ...

        async with _running(Process(storage, nothing), drain_s) as process:
            yield process

    async def lose_the_log(self) -> None:
        await asyncio.to_thread(self._flush)


@contextlib.asynccontextmanager
async def _running(process: Process, drain_s: float) -> AsyncIterator[Process]:
    """A background task that dies fails the test."""
    deaths: list[BaseException] = []
    await process.storage.open(lambda _, error: deaths.append(error))
    try:
        yield process
    finally:
        if not process.crashed:
            await process.storage.drain(drain_s)
            await process.storage.close()
    assert not deaths, deaths
