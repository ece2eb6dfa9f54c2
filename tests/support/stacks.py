"""Storage on real SQLite files, with a clock that the test moves."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

from storage.bounds import Bounds
from storage.clock import Clock
from storage.data_directory import DataDirectory
from storage.embedded.change_log import EmbeddedChangeLog
from storage.orders.actors import Actor, Role
from storage.services.orders import ChangeRequest
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.log import SqliteLog
from storage.sqlite.migrate import migrate_sqlite


class ManualClock:
    """Time stands still until the test moves it."""

    def __init__(self) -> None:
        self._now = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
        self._monotonic_s = 1_000.0

    def now(self) -> datetime:
        return self._now

    def monotonic_s(self) -> float:
        return self._monotonic_s

    @property
    def difference_s(self) -> float:
        return 0.0

    def measured(self, shared: datetime, asked_s: float, answered_s: float) -> None:
        pass

    def move(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds


def actor(role: Role, name: str | None = None, customer: str | None = None) -> Actor:
    return Actor(token_id=f"token-{name or role}", name=name or role.value, role=role, customer=customer)


SHOP = actor(Role.SHOP)
SELLER = actor(Role.SELLER)
MES = actor(Role.MES)
ADMIN = actor(Role.ADMIN)
IVAN = actor(Role.OPERATOR, "ivan")
OLGA = actor(Role.OPERATOR, "olga")


def by(who: Actor) -> ChangeRequest:
    return ChangeRequest(actor=who)


storage_logs: "WeakKeyDictionary[Storage, SqliteLog]" = WeakKeyDictionary()
"""The embedded log of each open storage, for tests that look into it."""


def log_of(storage: Storage) -> SqliteLog:
    return storage_logs[storage]


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    clock: Clock | None = None,
    bounds: Bounds | None = None,
    *,
    database_type: type[SqliteDatabase] = SqliteDatabase,
    log_type: type[SqliteLog] = SqliteLog,
    drain_s: float = 10.0,
) -> AsyncIterator[Storage]:
    """Storage over a data directory, replayed and running; drained and closed at the end. A background
    task that dies fails the test."""
    clock, bounds = clock or ManualClock(), bounds or Bounds()
    directory = DataDirectory(path)
    directory.create()
    deaths: list[BaseException] = []
    with directory:
        migrate_sqlite(directory.database)
        database = database_type(directory.database, bounds.busy_timeout_s, 2, bounds.read_deadline_s)
        log = log_type(directory.log, 1.0, bounds.read_deadline_s)
        await database.open()
        await log.open()
        storage = Storage(
            database,
            lambda tail: EmbeddedChangeLog(log, database, tail, bounds, clock),
            analyser="1",
            bounds=bounds,
            clock=clock,
        )
        storage_logs[storage] = log
        await storage.open(lambda _, error: deaths.append(error))
        try:
            yield storage
        finally:
            await storage.drain(drain_s)
            await storage.close()
    assert not deaths, deaths
