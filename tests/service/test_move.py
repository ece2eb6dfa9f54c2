"""A laptop's data goes to PostgreSQL: all of it, and the laptop keeps its own."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.commands.move import move
from server.config import ConfigError, Settings, load
from storage.data_directory import DataDirectory
from storage.errors import DatabaseUnavailable
from storage.postgresql.migrate import migrate_postgresql
from storage.postgresql.transfer import copy_from_postgresql
from storage.sqlite.migrate import migrate_sqlite
from tests.service.test_transfer import content
from tests.support.commands import facet
from tests.support.engines import execute, query
from tests.support.gates import locked
from tests.support.processes import clients_of, served

KEY = {"Idempotency-Key": "opened-on-the-laptop"}


@pytest.fixture
async def laptop(tmp_path: Path) -> dict[str, Any]:
    """A server that was killed while its database was locked: the log has an order more than the database."""
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            shop = await clients.of("shop")
            first = await shop.post("/v1/orders", {"customer": "anna", "reference": "R1"}, headers=KEY)
            moved = await shop.put(f"/v1/orders/{first.json['id']}/status", {"status": "FILE_UPLOADED"})
            persisted = await shop.post(
                "/v1/orders", {"customer": "x"}, headers={"Prefer": "durability=database"}
            )
            assert persisted.headers["Durability"] == "database"
            with locked(service.data_dir / "facet.db"):
                second = await shop.post("/v1/orders", {"customer": "boris"})
                assert second.headers["Durability"] == "log"
                service.kill()
    return {"first": first, "moved": moved, "second": second, "token": shop._headers}


def settings_of(path: Path) -> Settings:
    return load({"FACET_DATA_DIR": str(path)})


async def test_everything_is_in_postgresql_and_the_source_stays(
    laptop: dict[str, Any], fresh_database: str, fresh_redis: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    done = await asyncio.to_thread(
        facet, "move", "--to", fresh_database, "--redis", fresh_redis, "--data-dir", str(data)
    )
    assert done.returncode == 0, done.stderr
    assert f"FACET_DATABASE_URL={fresh_database}" in done.stdout
    assert f"FACET_REDIS_URL={fresh_redis}" in done.stdout
    assert "orders: 3 rows" in done.stdout
    await copy_from_postgresql(fresh_database, tmp_path / "copy.db")
    there, here = content(tmp_path / "copy.db"), content(data / "facet.db")
    assert [row[0] for row in there.pop("answers")] != here.pop("answers") == []
    assert there == here
    settings = {"FACET_DATABASE_URL": fresh_database, "FACET_REDIS_URL": fresh_redis}
    with served(data, **settings) as service:
        async with clients_of(service.url) as clients:
            await check_after(clients.admin, laptop)


async def check_after(admin: Any, laptop: dict[str, Any]) -> None:
    """The token, the versions, the keys and the numbers go on."""
    first, second, token = laptop["first"].json, laptop["second"].json, laptop["token"]
    found = await admin.get(f"/v1/orders/{first['id']}", headers=token)
    assert (found.json, found.headers["ETag"]) == (laptop["moved"].json, laptop["moved"].headers["ETag"])
    assert (await admin.get(f"/v1/orders/{second['id']}", headers=token)).json == second
    again = await admin.post("/v1/orders", {"customer": "anna", "reference": "R1"}, headers={**token, **KEY})
    assert (again.status, again.json["id"]) == (201, first["id"])
    new = await admin.post("/v1/orders", {"customer": "clara"}, headers=token)
    assert new.json["number"] > second["number"]
    undone = await admin.post(f"/v1/orders/{first['id']}/undo", None, headers=token)
    assert (undone.status, undone.json["version"]) == (200, 3)


def test_a_database_that_is_not_empty_is_not_touched(new_database: Callable[[], str], tmp_path: Path) -> None:
    target = new_database()
    asyncio.run(migrate_postgresql(target))
    execute(target, "INSERT INTO model_tenants VALUES ('a', 'b')")
    directory_with_data(tmp_path)
    refused = facet("move", "--to", target, "--data-dir", str(tmp_path))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "not empty" in refused.stderr
    assert query(target, "SELECT id FROM orders") == []


def test_a_running_server_is_not_moved(tmp_path: Path) -> None:
    with directory_with_data(tmp_path), pytest.raises(ConfigError, match="in use"):
        move(settings_of(tmp_path), "postgresql://facet@127.0.0.1:1/facet", "")


def directory_with_data(path: Path) -> DataDirectory:
    directory = DataDirectory(path)
    directory.create()
    migrate_sqlite(directory.database)
    return directory


@pytest.mark.parametrize(
    ("to", "redis", "error"),
    [
        ("mysql://localhost/facet", "", "use postgresql://"),
        ("postgresql://facet@database/facet", "", "database is used without a password"),
        ("postgresql://facet@localhost/facet", "redis://redis:6379", "redis is used without a password"),
        ("postgresql://facet@127.0.0.1:1/facet", "ftp://localhost", "FACET_REDIS_URL"),
    ],
)
def test_what_cannot_be_moved_to_is_said(tmp_path: Path, to: str, redis: str, error: str) -> None:
    directory_with_data(tmp_path)
    with pytest.raises(ConfigError, match=error):
        move(settings_of(tmp_path), to, redis)


def test_a_server_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    directory_with_data(tmp_path)
    with pytest.raises(DatabaseUnavailable):
        move(settings_of(tmp_path), "postgresql://facet@127.0.0.1:1/facet", "")


def test_a_directory_without_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Facet data"):
        move(settings_of(tmp_path), "postgresql://facet@127.0.0.1:1/facet", "")
