"""Each state of Redis and the database is noticed by itself, told truly by every server, and left by itself
within five seconds; and its log has a line at the beginning and one at the end."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from server.demo.private_servers.servers import PostgresServer, ValkeyServer, ask
from storage.redis.change_log import JOINED_S
from tests.support.gates import until_true
from tests.support.processes import Client, Service, clients_of, served

NOTICED_S = 5.0
PATIENCE_S = 3.0
"""More, on a busy machine."""


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> Iterator[ValkeyServer]:
    redis_server.start()
    ask(redis_server.port, "FLUSHALL")
    yield redis_server
    for words in (("timeout", "0"), ("min-replicas-to-write", "0"), ("maxmemory", "0")):
        ask(redis_server.port, "CONFIG", "SET", *words)
    ask(redis_server.port, "ACL", "SETUSER", "default", "+@all")


@pytest.fixture
def pair(
    tmp_path: Path, valkey: ValkeyServer, postgres_server: PostgresServer
) -> Iterator[tuple[Service, Service]]:
    postgres_server.start()
    name = f"facet_{tmp_path.name.replace('-', '_')[:40]}"
    settings = {
        "FACET_REDIS_URL": valkey.url,
        "FACET_DATABASE_URL": postgres_server.create_database(name),
        "FACET_MODEL_WORKERS": "1",
    }
    with served(tmp_path / "one", **settings) as one, served(tmp_path / "two", **settings) as two:
        yield one, two


@pytest.fixture
async def admins(pair: tuple[Service, Service]) -> AsyncIterator[list[Client]]:
    async with clients_of(pair[0].url) as clients:
        yield [clients.admin, clients.admin.at(pair[1].url)]


async def told(admins: list[Client], troubles: list[str]) -> None:
    """Every server says so, without anybody changing anything."""

    async def are_told() -> bool:
        replies = [(await admin.get("/readyz")).json["troubles"] for admin in admins]
        return all(reply == troubles for reply in replies)

    await until_true(are_told, NOTICED_S + PATIENCE_S)


async def metric(admin: Client, name: str) -> float:
    text = (await admin.get("/metrics")).raw.decode()
    return float(next(row for row in text.splitlines() if row.startswith(f"{name} ")).split()[1])


def lines(service: Service, logger: str) -> list[Any]:
    rows = [json.loads(row) for row in service.log_text().splitlines() if row.startswith("{")]
    return [row for row in rows if row["logger"] == logger and row["level"] != "debug"]


REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "without replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "not permitted": (("ACL", "SETUSER", "default", "-xadd", "-set"), ("ACL", "SETUSER", "default", "+@all")),
}


@pytest.mark.parametrize("refusal", list(REFUSALS))
async def test_a_redis_that_refuses_changes_is_told_by_every_server(
    pair: tuple[Service, Service], admins: list[Client], valkey: ValkeyServer, refusal: str
) -> None:
    order = (await admins[0].post("/v1/orders", {"customer": "anna"})).json["id"]
    await told(admins, [])
    before = [len(lines(service, "facet.redis")) for service in pair]
    begin, end = REFUSALS[refusal]
    ask(valkey.port, *begin)
    await told(admins, ["log"])
    for admin in admins:
        assert await metric(admin, "facet_log_up") == 0
        for _ in range(20):
            reply = await admin.post(f"/v1/orders/{order}/comments", {"comment": "x"})
            assert reply.status == 503
            assert reply.headers["Retry-After"]
    ask(valkey.port, *end)
    await told(admins, [])
    for admin in admins:
        assert await metric(admin, "facet_log_up") == 1
        assert (await admin.post(f"/v1/orders/{order}/comments", {"comment": "x"})).status == 201
    for service, count in zip(pair, before, strict=True):

        async def both_said(service: Service = service, count: int = count) -> bool:
            return len(lines(service, "facet.redis")) == count + 2

        await until_true(both_said)
        begun, ended = lines(service, "facet.redis")[count:]
        assert begun["message"].startswith("Redis accepts no changes: ")
        assert ended["message"].startswith("Redis accepts changes again (met ")


async def test_a_database_that_only_reads_is_told_by_every_server(
    pair: tuple[Service, Service], admins: list[Client], postgres_server: PostgresServer
) -> None:
    order = (await admins[0].post("/v1/orders", {"customer": "anna"})).json["id"]
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
        await told(admins, ["database"])
        assert [await metric(admin, "facet_database_up") for admin in admins] == [0, 0]
        changed = await admins[0].post(f"/v1/orders/{order}/comments", {"comment": "x"})
        assert (changed.status, changed.headers["Durability"]) == (201, "log")
        assert (await admins[1].get(f"/v1/orders/{order}")).status == 200
    finally:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
    await told(admins, [])
    headers = {"Prefer": "durability=database"}
    changed = await admins[0].post(f"/v1/orders/{order}/comments", {"comment": "y"}, headers=headers)
    assert changed.headers["Durability"] == "database"


async def test_what_one_server_cannot_bring_to_the_database_is_told_by_the_others_too(
    pair: tuple[Service, Service], admins: list[Client], postgres_server: PostgresServer
) -> None:
    """It answers and would take changes, but not this one."""
    order = (await admins[0].post("/v1/orders", {"customer": "anna"})).json["id"]
    database = await asyncpg.connect(next(service._settings["FACET_DATABASE_URL"] for service in pair))
    try:
        await database.execute("BEGIN")
        await database.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")
        assert (await admins[0].post(f"/v1/orders/{order}/comments", {"comment": "x"})).status == 201
        await told(admins, ["database"])
    finally:
        await database.close()
    await told(admins, [])


async def test_no_change_is_refused_because_redis_has_ended_an_idle_connection(
    pair: tuple[Service, Service], admins: list[Client], valkey: ValkeyServer
) -> None:
    """Redis ends them all, whatever this server does to keep them in use."""
    order = (await admins[0].post("/v1/orders", {"customer": "anna"})).json["id"]
    for count in range(6):
        await told(admins, [])
        await asyncio.gather(*(held_well(admin) for admin in admins))
        await asyncio.to_thread(ask, valkey.port, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for admin in admins:
            key = {"Idempotency-Key": f"{count}"}
            reply = await admin.post(f"/v1/orders/{order}/comments", {"comment": "x"}, headers=key)
            assert reply.status == 201, reply


async def held_well(admin: Client) -> None:
    """Its connections have been open for a while, as when nobody came for long."""
    began_s = asyncio.get_running_loop().time()

    async def is_a_while_ago() -> bool:
        await admin.get("/livez")
        return asyncio.get_running_loop().time() - began_s > JOINED_S

    await until_true(is_a_while_ago)


async def test_an_idle_connection_is_kept_in_use(
    pair: tuple[Service, Service], admins: list[Client], valkey: ValkeyServer
) -> None:
    def oldest_idle_s() -> int:
        rows = ask(valkey.port, "CLIENT", "LIST", "TYPE", "normal").splitlines()
        fields = [dict(word.split("=", 1) for word in row.split() if "=" in word) for row in rows]
        links = [row for row in fields if row["name"] == "facet" and row["cmd"] not in ("set", "get")]
        assert len(links) >= 6, "three of each server"
        return max(int(row["idle"]) for row in links)

    async with asyncio.timeout(20):
        for _ in range(200):
            assert await asyncio.to_thread(oldest_idle_s) <= 1
