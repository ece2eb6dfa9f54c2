"""Backups of several processes over Redis and PostgreSQL: of one moment, complete; a new life begins."""

import asyncio
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from server.backups import back_up, restore
from server.config import ConfigError, Settings, load
from storage.data_directory import DataDirectory
from storage.errors import NotFound, Unavailable
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.postgresql.migrate import migrate_postgresql
from storage.postgresql.transfer import copy_from_postgresql
from storage.services.stack import Storage
from tests.service.test_transfer import content
from tests.support.acts import Workshop
from tests.support.commands import facet
from tests.support.engines import execute
from tests.support.gates import until
from tests.support.shared_stacks import opened_shared
from tests.support.small_bounds import PATIENT
from tests.support.stacks import SHOP

NewDatabase = Callable[[], str]


def directory_of(path: Path) -> DataDirectory:
    directory = DataDirectory(path)
    directory.create()
    return directory


def settings_of(url: str) -> Settings:
    return load({"FACET_DATABASE_URL": url})


async def restored(file: Path, url: str, path: Path) -> DataDirectory:
    directory = directory_of(path)
    await asyncio.to_thread(restore, file, directory, settings_of(url))
    return directory


def unpacked(file: Path, target: Path) -> Path:
    with tarfile.open(file) as archive:
        archive.extract("facet.db", target, filter="data")
    return target / "facet.db"


async def load_on(storage: Storage, stopping: asyncio.Event) -> None:
    shop = Workshop(storage)
    while not stopping.is_set():
        order = await shop.order()
        await shop.step(order, Status.FILE_UPLOADED, SHOP)


async def test_a_backup_under_load_is_of_one_moment_and_restores_to_it(
    fresh_redis: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    old, new, file = new_database(), new_database(), tmp_path / "facet.backup"
    stopping = asyncio.Event()
    async with (
        opened_shared(fresh_redis, old, PATIENT) as one,
        opened_shared(fresh_redis, old, PATIENT) as other,
    ):
        load = [asyncio.create_task(load_on(each, stopping)) for each in (one, other) for _ in range(4)]
        before = [await Workshop(each).order() for _ in range(20) for each in (one, other)]
        manifest = await back_up(one, directory_of(tmp_path / "data"), file)
        after = await Workshop(other).order()
        stopping.set()
        await asyncio.gather(*load)
    execute(old, "DROP SCHEMA public CASCADE")
    await restored(file, new, tmp_path / "new")
    await copy_from_postgresql(new, tmp_path / "again.db")
    saved, found = content(unpacked(file, tmp_path / "saved")), content(tmp_path / "again.db")
    (name, epoch, position, _), *_ = saved.pop("log_positions")
    assert found.pop("log_positions") == [(name, int(str(epoch)) + 1000, 0, int(str(epoch)) + 1000)]
    assert found == saved
    assert manifest["position"] == f"{epoch}-{position}"
    ids = {row[0] for row in found["orders"]}
    assert ids >= {order.id for order in before}
    assert after.id not in ids
    assert is_one_moment(tmp_path / "again.db", int(str(position)))


def is_one_moment(path: Path, position: int) -> bool:
    """Every order has all of its history and nothing of what came later."""
    with closing(sqlite3.connect(path)) as connection:
        torn = connection.execute(
            "SELECT count(*) FROM orders WHERE version <>"
            " (SELECT count(*) FROM order_history WHERE order_id = orders.id)"
        ).fetchone()[0]
        last = connection.execute("SELECT max(position) FROM order_history").fetchone()[0]
    return bool(torn == 0 and last <= position)


async def lived(storage: Storage, file: Path, path: Path) -> tuple[Order, Order]:
    """An order that the backup has, changed since, and one that it has not."""
    shop = Workshop(storage)
    saved = await shop.order()
    await back_up(storage, directory_of(path), file)
    await shop.step(saved, Status.FILE_UPLOADED, SHOP)
    return saved, await shop.order()


async def check_new_life(storage: Storage, saved: Order, later: Order) -> None:
    assert storage.change_log.epoch > 1000
    assert await storage.reads.order(saved.id) == saved
    with pytest.raises(NotFound):
        await storage.reads.order(later.id)
    moved = await Workshop(storage).step(saved, Status.FILE_UPLOADED, SHOP)
    assert (moved.order.version, moved.position.epoch) == (2, storage.change_log.epoch)
    await Workshop(storage).persisted()
    assert await storage.database.load_dead_letters() == []
    assert (await storage.database.load_history(saved.id))[-1].version == 2


async def test_what_redis_holds_of_the_old_life_does_not_win(
    fresh_redis: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    old, new, file = new_database(), new_database(), tmp_path / "facet.backup"
    async with opened_shared(fresh_redis, old, PATIENT) as storage:
        saved, later = await lived(storage, file, tmp_path / "data")
    await restored(file, new, tmp_path / "new")
    async with opened_shared(fresh_redis, new) as storage:
        await check_new_life(storage, saved, later)


async def test_a_process_that_lived_through_the_restoration_brings_nothing_of_the_old_life(
    fresh_redis: str, new_database: NewDatabase, postgres_url: str, tmp_path: Path
) -> None:
    old, new, file = new_database(), new_database(), tmp_path / "facet.backup"
    async with opened_shared(fresh_redis, old, PATIENT) as storage:
        saved, later = await lived(storage, file, tmp_path / "data")
        await Workshop(storage).persisted()
        await restored(file, new, tmp_path / "new")
        await asyncio.to_thread(close_to_all, postgres_url, old)
        pending = await Workshop(storage).order()
        await asyncio.to_thread(swap, postgres_url, old, new)
        await until(lambda: storage.change_log.epoch > 1000 and storage.change_log.last_error is None)
        await check_new_life(storage, saved, later)
        with pytest.raises(NotFound):
            await storage.reads.order(pending.id)


def name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def close_to_all(server_url: str, url: str) -> None:
    execute(server_url, f'ALTER DATABASE "{name_of(url)}" ALLOW_CONNECTIONS false')
    execute(
        server_url,
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name_of(url)}'",
    )


def swap(server_url: str, old: str, new: str) -> None:
    """From now on the old address leads to the new database."""
    for was, becomes in ((old, f"{old}_gone"), (new, old), (f"{old}_gone", new)):
        execute(server_url, f'ALTER DATABASE "{name_of(was)}" RENAME TO "{name_of(becomes)}"')


async def test_a_backup_is_refused_while_others_may_have_acknowledged_more(
    fresh_redis: str, fresh_database: str, tmp_path: Path
) -> None:
    async with opened_shared(fresh_redis, fresh_database) as storage:
        storage.change_log.stop()
        await storage.change_log.close()
        with pytest.raises(Unavailable, match="Redis is away"):
            await back_up(storage, directory_of(tmp_path / "data"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


async def test_a_restoration_needs_an_empty_postgresql_and_changes_nothing_else(
    fresh_redis: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    old, new, file = new_database(), new_database(), tmp_path / "facet.backup"
    async with opened_shared(fresh_redis, old, PATIENT) as storage:
        await lived(storage, file, tmp_path / "data")
    await migrate_postgresql(new)
    execute(new, "INSERT INTO model_tenants VALUES ('a', 'b')")
    with pytest.raises(ConfigError, match="not empty: there are rows in model_tenants"):
        await restored(file, new, tmp_path / "new")
    assert not (tmp_path / "new" / "facet.db").exists()
    refused = await asyncio.to_thread(
        facet, "restore", str(file), "--data-dir", str(tmp_path / "new"), FACET_DATABASE_URL=new
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    execute(new, "DELETE FROM model_tenants")
    done = await asyncio.to_thread(
        facet, "restore", str(file), "--data-dir", str(tmp_path / "new"), FACET_DATABASE_URL=new
    )
    assert (done.returncode, done.stdout.partition(" orders")[0]) == (0, "PostgreSQL: 1")


async def test_the_log_of_the_old_life_in_the_data_directory_does_not_win_either(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    from server.engines import engines_of
    from storage.clock import SystemClock

    old, new, file = new_database(), new_database(), tmp_path / "facet.backup"
    with directory_of(tmp_path / "data") as directory:

        async def opened(url: str) -> Storage:
            storage, open_engines = engines_of(settings_of(url), directory, SystemClock())
            await open_engines()
            await storage.open(lambda _, error: None)
            return storage

        storage = await opened(old)
        saved, later = await lived(storage, file, directory.path)
        await storage.drain(10)
        await storage.close()
        await asyncio.to_thread(restore, file, directory, settings_of(new))
        storage = await opened(new)
        await check_new_life(storage, saved, later)
        await storage.drain(10)
        await storage.close()
