"""Private servers for a benchmark, and the storage of one process over them, as `facet serve` opens it."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import cpu_s
from server.demo.private_servers.servers import PostgresServer, ValkeyServer, info
from storage.bounds import Bounds
from storage.clock import SystemClock
from storage.database.lease import DatabaseLease
from storage.log.tail import AppliedEntry
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from storage.redis.change_log import RedisChangeLog
from storage.redis.endpoint import endpoint_of
from storage.services.stack import Storage

REDIS_DEADLINE_S = 3.0
"""A hiccup of a busy machine makes a round slower and does not end the benchmark."""
Watcher = Callable[[Storage, AppliedEntry], None]


class Engines(NamedTuple):
    """Valkey with `appendfsync always`, PostgreSQL with its default of a commit on disk before it answers."""

    redis: ValkeyServer
    postgres: PostgresServer

    def cpu_s(self) -> float:
        """Processor time so far of all processes of both."""
        return sum(_cpu_s(pid) for pid in (self.redis.pid, *self.postgres.pids()))

    def versions(self) -> dict[str, str]:
        said = info(self.redis.port)
        return {
            "redis": said.get("valkey_version") or said["redis_version"],
            "postgresql": (self.postgres.data_directory / "PG_VERSION").read_text().strip(),
        }

    def settings(self, database: str) -> dict[str, str]:
        """What tells a server process to use both. Each database has names of its own in Redis."""
        return {
            "FACET_REDIS_URL": self.redis.url,
            "FACET_REDIS_PREFIX": database,
            "FACET_DATABASE_URL": self.postgres.url_of(database),
        }


def _cpu_s(pid: int) -> float:
    try:
        return cpu_s(pid)
    except ValueError:  # it has just ended
        return 0.0


@contextlib.contextmanager
def engines(directory: Path) -> Iterator[Engines]:
    with ValkeyServer(directory / "valkey") as redis, PostgresServer(directory / "postgres") as postgres:
        yield Engines(redis, postgres)


@contextlib.asynccontextmanager
async def opened_storage(
    redis_url: str, prefix: str, database_url: str, follower: Watcher | None = None
) -> AsyncIterator[Storage]:
    """`follower` is told of every entry after the process's own tiers have taken it in."""
    bounds, clock = Bounds(shared_deadline_s=REDIS_DEADLINE_S), SystemClock()
    await migrate_postgresql(database_url)
    database = PostgresDatabase(
        database_url, bounds.reader_connections, bounds.read_deadline_s, keeps_answers=True
    )
    await database.open()
    process = f"benchmark-{os.getpid()}"
    endpoint = endpoint_of(redis_url, prefix, bounds.shared_deadline_s)
    storage = Storage(
        database,
        lambda tail: RedisChangeLog(endpoint, prefix, process, database, tail, bounds, clock),
        analyser="1",
        bounds=bounds,
        clock=clock,
        lease=DatabaseLease("write_behind", process, database, bounds, clock),
    )
    if follower is not None:
        storage.change_log.follow(partial(follower, storage))
    await storage.open(_failed)
    try:
        yield storage
    finally:
        await storage.drain(bounds.drain_deadline_s)
        await storage.close()


def _failed(name: str, error: BaseException) -> None:
    raise RuntimeError(name) from error
