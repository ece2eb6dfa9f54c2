"""`facet move`: what a server kept in its data directory goes to PostgreSQL, and stays where it is, too."""

import asyncio
import tempfile
from pathlib import Path

import msgspec

from server.backups import prepare_postgresql
from server.config import POSTGRESQL, ConfigError, Settings
from server.engines import bounds_of, engines_of, redis_endpoint
from server.open_servers import refuse_open_servers
from server.process.serve import prepared_directory
from storage.clock import SystemClock
from storage.data_directory import DataDirectory
from storage.postgresql.transfer import copy_into_postgresql
from storage.redis.connection import CommandRefused, opened
from storage.redis.server_check import examine
from storage.sqlite.files import keep_answers


def move(settings: Settings, database_url: str, redis_url: str) -> None:
    """Raises ConfigError, or what storage says; then PostgreSQL is as empty as it was."""
    if settings.uses_postgresql:
        raise ConfigError("the data is in PostgreSQL already: unset FACET_DATABASE_URL")
    if not database_url.startswith(POSTGRESQL):
        raise ConfigError("--to: use postgresql://...")
    after = msgspec.structs.replace(settings, database_url=database_url, redis_url=redis_url)
    refuse_open_servers(after)
    if not DataDirectory(settings.data_dir).database.exists():
        raise ConfigError(f"there is no Facet data in {settings.data_dir}: set --data-dir")
    with prepared_directory(settings) as directory:
        asyncio.run(_move(settings, after, directory))
    print(f"Moved. Models stay in {settings.data_dir}: keep it as FACET_DATA_DIR. From now on set")
    print(f"  FACET_DATABASE_URL={database_url}")
    if redis_url:
        print(f"  FACET_REDIS_URL={redis_url}")


async def _move(settings: Settings, after: Settings, directory: DataDirectory) -> None:
    if after.uses_redis:
        await _look_at_redis(after)
    await prepare_postgresql(after.database_url)
    with tempfile.TemporaryDirectory(dir=directory.path) as scratch:
        copy = Path(scratch) / "facet.db"
        print("Bringing the log to the database ...", flush=True)
        await _copy(settings, directory, copy)
        if directory.log.exists() and not settings.uses_redis:
            await asyncio.to_thread(keep_answers, copy, directory.log)
        await copy_into_postgresql(copy, after.database_url, _tell)


async def _copy(settings: Settings, directory: DataDirectory, target: Path) -> None:
    """The database with everything that was acknowledged. The log is brought to it first, as at a stop."""
    failures: list[BaseException] = []
    storage, open_engines = engines_of(settings, directory, SystemClock())
    await open_engines()
    try:
        await storage.open(lambda name, error: failures.append(error))
        drained = await storage.drain(storage.bounds.drain_deadline_s)
        if failures or not drained:
            why = failures[0] if failures else storage.write_behind.last_error
            raise ConfigError(f"the database does not take what the log has: {why}")
        await storage.database.backup(target)
    finally:
        await storage.close()


async def _look_at_redis(after: Settings) -> None:
    bounds = bounds_of(after)
    link = await opened(redis_endpoint(after, bounds), bounds.shared_deadline_s)
    try:
        server = await examine(link)
    except CommandRefused as error:
        raise ConfigError(f"Redis refuses: {error}") from None
    finally:
        await link.close()
    if server.unfit is not None:
        raise ConfigError(server.unfit)
    print(f"{server.name}: {server.durability}")


def _tell(table: str, rows: int) -> None:
    print(f"  {table}: {rows} rows", flush=True)
