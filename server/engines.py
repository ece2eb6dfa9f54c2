"""Which change log and database there are: four combinations, chosen by two settings.

What a setting does not name is not imported: the drivers of Redis and PostgreSQL take a tenth of a start.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from pricing.facts import ANALYSER_VERSION
from server.config import ConfigError, Settings
from server.open_servers import refuse_open_servers
from storage.bounds import Bounds
from storage.clock import Clock
from storage.data_directory import DataDirectory
from storage.database.contract import Database
from storage.database.lease import DatabaseLease, Lease, SoleLease
from storage.embedded.change_log import EmbeddedChangeLog
from storage.log.change_log import ChangeLog
from storage.log.tail import Tail
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.log import SqliteLog
from storage.sqlite.migrate import migrate_sqlite

if TYPE_CHECKING:
    from storage.redis.endpoint import Endpoint

LOG_BUSY_TIMEOUT_S = 1.0
FLUSHER = "write_behind"


class Engines(NamedTuple):
    """Storage, and what opens its engines: before `storage.open`, and once."""

    storage: Storage
    open: Callable[[], Awaitable[None]]


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(
        flush_batch_entries=min(Bounds().flush_batch_entries, settings.backlog_entries),
        backlog_entries=settings.backlog_entries,
        backlog_bytes=settings.backlog_bytes,
        local_bytes=settings.local_bytes,
        drain_deadline_s=settings.drain_s,
    )


def engines_of(settings: Settings, directory: DataDirectory, clock: Clock) -> Engines:
    """The engines that the settings name, not yet open. Raises ConfigError."""
    refuse_open_servers(settings)
    bounds = bounds_of(settings)
    database, open_database = _database(settings, directory, bounds)
    process = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
    lease: Lease = SoleLease()
    if settings.uses_redis and settings.uses_postgresql:
        lease = DatabaseLease(FLUSHER, process, database, bounds, clock)
    log = SqliteLog(directory.log, LOG_BUSY_TIMEOUT_S, bounds.read_deadline_s)

    def make_change_log(tail: Tail) -> ChangeLog:
        if not settings.uses_redis:
            return EmbeddedChangeLog(log, database, tail, bounds, clock)
        from storage.redis.change_log import RedisChangeLog

        endpoint = redis_endpoint(settings, bounds)
        return RedisChangeLog(endpoint, settings.redis_prefix, process, database, tail, bounds, clock)

    async def open_engines() -> None:
        await open_database()
        if not settings.uses_redis:
            await log.open()

    storage = Storage(
        database, make_change_log, analyser=ANALYSER_VERSION, bounds=bounds, clock=clock, lease=lease
    )
    return Engines(storage, open_engines)


def redis_endpoint(settings: Settings, bounds: Bounds) -> "Endpoint":
    """Raises ConfigError."""
    from storage.redis.endpoint import endpoint_of

    try:
        return endpoint_of(settings.redis_url, settings.redis_prefix, bounds.shared_deadline_s)
    except ValueError as error:
        raise ConfigError(f"FACET_REDIS_URL: {error}") from None


def _database(
    settings: Settings, directory: DataDirectory, bounds: Bounds
) -> tuple[Database, Callable[[], Awaitable[None]]]:
    if settings.uses_postgresql:
        from storage.postgresql.database import PostgresDatabase
        from storage.postgresql.migrate import migrate_postgresql

        database = PostgresDatabase(
            settings.database_url,
            bounds.reader_connections,
            bounds.read_deadline_s,
            keeps_answers=settings.uses_redis,
        )

        async def open_postgresql() -> None:
            await migrate_postgresql(settings.database_url)
            await database.open()

        return database, open_postgresql
    embedded = SqliteDatabase(
        directory.database,
        bounds.busy_timeout_s,
        bounds.reader_connections,
        bounds.read_deadline_s,
        keeps_answers=settings.uses_redis,
    )

    async def open_sqlite() -> None:
        await asyncio.to_thread(migrate_sqlite, directory.database)
        await embedded.open()

    return embedded, open_sqlite
