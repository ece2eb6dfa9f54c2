"""A take is said to have happened only when the database has it, whoever repeats it and under which key."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.demo.private_servers.servers import ValkeyServer, ask
from tests.support.engines import query
from tests.support.processes import Client, Reply, Service, clients_of, served
from tests.support.workshop import Workshop

PATIENCE_S = 20.0


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> ValkeyServer:
    redis_server.start()
    ask(redis_server.port, "FLUSHALL")
    return redis_server


@pytest.fixture
def shared(tmp_path: Path, valkey: ValkeyServer, migrated_database: str) -> Iterator[tuple[Service, str]]:
    settings = {
        "FACET_REDIS_URL": valkey.url,
        "FACET_DATABASE_URL": migrated_database,
        "FACET_MODEL_WORKERS": "1",
    }
    with served(tmp_path / "one", **settings) as service:
        yield service, migrated_database


async def take(who: Client, order_id: str, key: str) -> Reply:
    return await who.post(f"/v1/orders/{order_id}/take", headers={"Idempotency-Key": key})


async def until_version(who: Client, order_id: str, version: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await who.get(f"/v1/orders/{order_id}")).json["version"] < version:
            pass


async def until_answered(who: Client, position: int) -> None:
    """Returns when the log has come this far."""
    async with asyncio.timeout(PATIENCE_S):
        while (await who.get("/v1/cache")).json["log_head"].partition("-")[2] != str(position):
            pass


def n_of(reply: Reply) -> int:
    return int(reply.headers["Facet-Position"].partition("-")[2])


@pytest.mark.slow
async def test_two_operators_never_both_get_an_order_when_the_first_repeats_under_another_key(
    shared: tuple[Service, str], valkey: ValkeyServer
) -> None:
    service, database = shared
    async with clients_of(service.url) as clients:
        workshop = Workshop(clients)
        await workshop.open()
        order = await workshop.order("MANUFACTURING_APPROVED")
        head = n_of(await workshop.admin.get(f"/v1/orders/{order['id']}"))
        await workshop.admin.post(
            f"/v1/orders/{order['id']}/comments",
            {"comment": "flushed"},
            headers={"Prefer": "durability=database"},
        )
        connection = await asyncpg.connect(database)
        try:
            await connection.execute("BEGIN")
            await connection.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")
            first = asyncio.create_task(take(workshop.ivan, order["id"], "first"))
            await until_version(workshop.admin, order["id"], order["version"] + 2)
            second = asyncio.create_task(take(workshop.ivan, order["id"], "second"))
            await until_answered(workshop.admin, head + 3)
            replies = await asyncio.gather(first, second, take(workshop.ivan, order["id"], "second"))
            assert [reply.status for reply in replies] == [503] * 3, replies
            ask(valkey.port, "FLUSHALL")
            service.kill()
        finally:
            connection.terminate()
        assert not takers(database, order["id"])
        service.start(int(service.url.rpartition(":")[2]))
    async with clients_of(service.url) as clients:
        olga = await take(clients.again(workshop.olga), order["id"], "olga")
        assert (olga.status, olga.headers["Durability"]) == (200, "database"), olga
        again = await take(clients.again(workshop.ivan), order["id"], "second")
        assert (again.status, again.json["code"], again.json["operator"]) == (409, "already_taken", "olga")
        assert takers(database, order["id"]) == ["olga"]


def takers(database: str, order_id: str) -> list[Any]:
    rows = query(database, f"SELECT actor FROM order_history WHERE order_id = '{order_id}' AND kind = 'take'")
    return [row[0] for row in rows]


async def test_a_take_that_is_already_so_is_said_by_the_database_however_often_it_is_repeated(
    shared: tuple[Service, str],
) -> None:
    service, _ = shared
    async with clients_of(service.url) as clients:
        workshop = Workshop(clients)
        await workshop.open()
        order = await workshop.order("MANUFACTURING_STARTED")
        for key in ("a", "b", "b", "a"):
            reply = await take(workshop.ivan, order["id"], key)
            assert (reply.status, reply.headers["Durability"]) == (200, "database"), reply
            assert reply.json["version"] == order["version"]
