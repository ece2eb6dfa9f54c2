"""Storage on Redis, with either database: what a process of several runs, several of them in one test."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from storage.bounds import Bounds
from storage.clock import Clock, SystemClock
from storage.database.contract import Database
from storage.database.lease import DatabaseLease
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from storage.redis.change_log import RedisChangeLog
from storage.redis.endpoint import Endpoint, endpoint_of
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.migrate import migrate_sqlite
from tests.support.small_bounds import SLOW_MACHINE

PREFIX = "facet"
_count = itertools.count(1)


async def open_postgresql(url: str, bounds: Bounds) -> PostgresDatabase:
    await migrate_postgresql(url)
    database = PostgresDatabase(url, 4, bounds.read_deadline_s, keeps_answers=True)
    await database.open()
    return database


async def open_sqlite(path: Path, bounds: Bounds) -> SqliteDatabase:
    migrate_sqlite(path)
    database = SqliteDatabase(path, bounds.busy_timeout_s, 2, bounds.read_deadline_s, keeps_answers=True)
    await database.open()
    return database


def storage_on(
    endpoint: Endpoint, database: Database, bounds: Bounds, clock: Clock, process: str = ""
) -> Storage:
    """Not yet open."""
    process = process or f"process-{next(_count)}"
    lease = DatabaseLease("write_behind", process, database, bounds, clock)
    return Storage(
        database,
        lambda tail: RedisChangeLog(endpoint, PREFIX, process, database, tail, bounds, clock),
        analyser="1",
        bounds=bounds,
        clock=clock,
        lease=lease,
    )


@contextlib.asynccontextmanager
async def opened_shared(
    redis_url: str, database_url: str, bounds: Bounds | None = None, *, drain_s: float = 10.0
) -> AsyncIterator[Storage]:
    """One process's storage over Redis and PostgreSQL. A background task that dies fails the test."""
    bounds, clock = bounds or SLOW_MACHINE, SystemClock()
    deaths: list[BaseException] = []
    database = await open_postgresql(database_url, bounds)
    endpoint = endpoint_of(redis_url, PREFIX, bounds.shared_deadline_s)
    storage = storage_on(endpoint, database, bounds, clock)
    await storage.open(lambda _, error: deaths.append(error))
    try:
        yield storage
    finally:
        await storage.drain(drain_s)
        await storage.close()
    assert not deaths, deaths
