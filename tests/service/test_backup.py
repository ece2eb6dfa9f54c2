"""Backup under load, restore into nothing, compare."""

import asyncio
import json
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.commands import facet
from tests.support.processes import ADMIN_TOKEN, Clients, Service, clients_of, served

TABLES = ("orders", "order_history", "tokens", "prices", "models", "price_lists", "metal_fixes")


def rows(database: Path, table: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    found = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
    connection.close()
    return found


async def open_orders(clients: Clients, count: int) -> list[str]:
    replies = await asyncio.gather(
        *(clients.admin.post("/v1/orders", {"customer": f"c{index}"}) for index in range(count))
    )
    return [reply.json["id"] for reply in replies]


async def test_a_backup_taken_under_load_holds_everything_acknowledged_before_it(tmp_path: Path) -> None:
    file = tmp_path / "facet.backup"
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            before = await open_orders(clients, 100)
            load = asyncio.create_task(open_orders(clients, 400))
            saved = await asyncio.to_thread(facet, "backup", str(file), "--data-dir", str(service.data_dir))
            assert saved.returncode == 0, saved.stderr
            await load
    restored = facet("restore", str(file), "--data-dir", str(tmp_path / "restored"))
    assert restored.returncode == 0, restored.stderr
    kept = {row[0] for row in rows(tmp_path / "restored" / "facet.db", "orders")}
    assert kept >= set(before)
    for table in TABLES:
        found = rows(tmp_path / "restored" / "facet.db", table)
        assert set(found) <= set(rows(service.data_dir / "facet.db", table))


@pytest.mark.slow
async def test_a_restored_service_begins_a_new_epoch_and_goes_on(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            (order_id,) = await open_orders(clients, 1)
            seen = await clients.admin.get(f"/v1/orders/{order_id}")
    saved = facet("backup", str(tmp_path / "b"), "--data-dir", str(service.data_dir))
    assert saved.returncode == 0, saved.stderr
    assert facet("restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "new")).returncode == 0
    with served(tmp_path / "new") as again:
        async with clients_of(again.url) as clients:
            found = await clients.admin.get(f"/v1/orders/{order_id}")
            assert found.json == seen.json
            assert seen.headers["Facet-Position"].startswith("1-")
            assert found.headers["Facet-Position"].startswith("1001-")
            put = {"status": "FILE_UPLOADED"}
            moved = await clients.admin.put(f"/v1/orders/{order_id}/status", put)
            assert (moved.status, moved.json["version"]) == (200, 2)


def test_a_backup_overwrites_nothing_and_a_restore_needs_an_empty_directory(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    facet("migrate", "--data-dir", data)
    assert facet("backup", str(tmp_path / "b"), "--data-dir", data).returncode == 0
    assert "overwrites nothing" in facet("backup", str(tmp_path / "b"), "--data-dir", data).stderr
    assert "empty directory" in facet("restore", str(tmp_path / "b"), "--data-dir", data).stderr


def test_a_damaged_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    facet("migrate", "--data-dir", str(tmp_path / "data"))
    assert facet("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "data")).returncode == 0
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:9_000])
    refused = facet("restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "new"))
    assert refused.returncode == 2
    assert not (tmp_path / "new" / "facet.db").exists()


async def test_an_export_has_every_order_once_with_its_history(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            ids = await open_orders(clients, 250)
        exported = facet("export", "--history", "--data-dir", str(service.data_dir))
        table = facet("export", "--csv", "--data-dir", str(service.data_dir))
    orders = [json.loads(line) for line in exported.stdout.splitlines()]
    assert sorted(order["id"] for order in orders) == sorted(ids)
    assert all(len(order["history"]) == 1 for order in orders)
    assert table.stdout.count("\n") == 251


def test_backups_are_not_made_over_the_network(service: Service) -> None:
    request = urllib.request.Request(
        f"{service.url}/v1/backups",
        data=b'{"path": "/tmp/stolen"}',
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403
    assert json.load(refused.value)["code"] == "local_only"
