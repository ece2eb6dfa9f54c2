"""No event on the network ends a server: every kind of connection is reset, closed, stalled and garbled in
turn, plain and over TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import redis

from storage.redis.scripts import APPEND
from tests.support.certificates import self_signed
from tests.support.gates import until_true
from tests.support.network import EVENTS, Connection, Network, network
from tests.support.processes import Client, Service, clients_of
from tests.support.visitors import Customer
from tests.support.workshop import new_key

WHOLE_S = 15.0
"""A stalled connection is noticed by its deadline; a busy machine takes a while to notice."""

REDIS = ("append", "read", "follow", "copies")
POSTGRES = ("reader", "writer")


def redis_kind(data: bytes) -> str | None:
    """Of a connection to Redis."""
    for mark, kind in ((APPEND.sha.encode(), "append"), (b"XREAD", "follow"), (b":copy:", "copies")):
        if mark in data:
            return kind
    return "read" if b"MGET" in data or b"TIME" in data or b"PING" in data else None


def postgres_kind(data: bytes) -> str | None:
    """Of a connection to PostgreSQL."""
    if b"BEGIN\0" in data or b"COMMIT\0" in data:
        return "writer"
    return "reader" if b"SELECT" in data else None


class Place(NamedTuple):
    service: Service
    redis: Network
    postgres: Network


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[None]:
    """It goes on until it is told to stop, and then ends as it should."""
    await asyncio.to_thread(service.start)
    try:
        yield
    except BaseException:
        service.kill()
        raise
    assert await asyncio.to_thread(service.stop) == 0


@contextlib.asynccontextmanager
async def placed(
    folder: Path, redis_url: str, database_url: str, tls: ssl.SSLContext | None, certificate: Path | None
) -> AsyncIterator[Place]:
    redis, database = urlsplit(redis_url), urlsplit(database_url)
    assert redis.port is not None
    assert database.port is not None
    async with (
        network(redis.port, redis_kind, tls) as before_redis,
        network(database.port, postgres_kind, tls, postgres=True) as before_database,
    ):
        way = f"127.0.0.1:{before_redis.port}{redis.path}"
        user = database.netloc.rpartition("@")[0]
        there = database._replace(
            netloc=f"{user}@127.0.0.1:{before_database.port}",
            query="sslmode=require" if tls else database.query,
        ).geturl()
        service = Service(
            folder / "data",
            FACET_REDIS_URL=f"rediss://{way}?ssl_ca_certs={certificate}" if tls else f"redis://{way}",
            FACET_DATABASE_URL=there,
            FACET_MODEL_WORKERS="1",
        )
        async with running(service):
            yield Place(service, before_redis, before_database)


async def whole_again(admin: Client, order_id: str) -> None:
    """A change is accepted and brought to the database, and nothing is amiss any more."""
    headers = {**new_key(), "Prefer": "durability=database"}

    async def is_whole() -> bool:
        changed = await admin.post(f"/v1/orders/{order_id}/comments", {"comment": "whole"}, headers=headers)
        stored = changed.status == 201 and changed.headers["Durability"] == "database"
        return stored and not (await admin.get("/readyz")).json["troubles"]

    await until_true(is_whole, WHOLE_S)


async def opened(before: Network, kind: str) -> None:
    async def is_open() -> bool:
        return bool(before.open[kind])

    await until_true(is_open, WHOLE_S)


async def harm_done(place: Place, before: Network, kind: str, name: str) -> None:
    """Every connection of a kind (or of all) is harmed, and the server has noticed one. Those that it opens
    meanwhile are harmed as well: what is at hand first may lie in stock, below one that it uses, for ever."""
    if kind:
        await opened(before, kind)
    harmed: set[Connection] = set()

    async def is_noticed() -> bool:
        for connection in (before.open[kind] if kind else before.all) - harmed:
            EVENTS[name](connection)
            harmed.add(connection)
        return not harmed <= before.all

    try:
        await until_true(is_noticed, WHOLE_S)
    except TimeoutError:
        pytest.fail(f"{kind} {name} was not noticed: {place.service.log_text()[-3000:]}")


@pytest.mark.parametrize("transport", ["plain", "tls"])
@pytest.mark.slow
async def test_whatever_happens_to_a_connection_the_server_goes_on(
    transport: str, tmp_path: Path, fresh_redis: str, migrated_database: str
) -> None:
    tls, certificate = self_signed(tmp_path) if transport == "tls" else (None, None)
    async with (
        placed(tmp_path, fresh_redis, migrated_database, tls, certificate) as place,
        clients_of(place.service.url) as clients,
    ):
        order_id = (await clients.admin.post("/v1/orders", {"customer": "anna"})).json["id"]
        customer = Customer(clients, order_id)
        async with customer.living():
            for before, kinds in ((place.redis, REDIS), (place.postgres, POSTGRES)):
                for kind in kinds:
                    for name in EVENTS:
                        await harm_done(place, before, kind, name)
                        try:
                            await whole_again(clients.admin, order_id)
                        except TimeoutError:
                            pytest.fail(f"{kind} {name}: {place.service.log_text()[-3000:]}")
            for name in EVENTS:  # to all of them at once
                for before in (place.redis, place.postgres):
                    await harm_done(place, before, "", name)
                await whole_again(clients.admin, order_id)
            place.postgres.lose_answer_to = b"COMMIT\0"
            await whole_again(clients.admin, order_id)
            assert place.postgres.lost == 1
        assert not customer.failures, customer.failures[:3]


async def test_idle_connections_that_are_reset_end_nothing(
    tmp_path: Path, fresh_redis: str, migrated_database: str
) -> None:
    """Nobody uses them: what is lost is noticed at the next use."""
    async with (
        placed(tmp_path, fresh_redis, migrated_database, None, None) as place,
        clients_of(place.service.url) as clients,
    ):
        order_id = (await clients.admin.post("/v1/orders", {"customer": "anna"})).json["id"]
        for before, kinds in ((place.redis, REDIS), (place.postgres, POSTGRES)):
            for kind in kinds:
                await clients.admin.delete("/v1/cache/lists")
                await clients.admin.get("/v1/orders?status=INITIATED")
                await whole_again(clients.admin, order_id)
                for connection in list(before.open[kind]):
                    connection.reset()
                await clients.admin.delete("/v1/cache/lists")
                assert (await clients.admin.get("/v1/orders?status=INITIATED")).status in (200, 503)
                await whole_again(clients.admin, order_id)


async def test_a_lost_commit_reply_without_redis_does_not_end_the_server(
    tmp_path: Path, migrated_database: str
) -> None:
    database = urlsplit(migrated_database)
    assert database.port is not None
    async with network(database.port, postgres_kind, postgres=True) as before:
        user = database.netloc.rpartition("@")[0]
        url = database._replace(netloc=f"{user}@127.0.0.1:{before.port}").geturl()
        service = Service(tmp_path / "data", FACET_DATABASE_URL=url, FACET_MODEL_WORKERS="1")
        async with running(service), clients_of(service.url) as clients:
            order_id = (await clients.admin.post("/v1/orders", {"customer": "anna"})).json["id"]
            for _ in range(3):
                before.lose_answer_to = b"COMMIT\0"
                await whole_again(clients.admin, order_id)
            assert before.lost == 3
            items = (await clients.admin.get(f"/v1/orders/{order_id}/history")).json["items"]
            assert [item["version"] for item in items] == list(range(1, len(items) + 1))


async def test_a_redis_of_another_facet_at_run_time_ends_no_server(
    tmp_path: Path, fresh_redis: str, migrated_database: str
) -> None:
    async with (
        placed(tmp_path, fresh_redis, migrated_database, None, None) as place,
        clients_of(place.service.url) as clients,
    ):
        order_id = (await clients.admin.post("/v1/orders", {"customer": "anna"})).json["id"]
        await whole_again(clients.admin, order_id)
        with redis.Redis.from_url(fresh_redis) as client:
            ours = client.hget("{facet}:meta", "installation")
            client.hset("{facet}:meta", mapping={"installation": "another", "run": "another"})
            place.redis.abort()

            async def is_told() -> bool:
                redis_now = (await clients.nobody.get("/readyz")).json["dependencies"]["redis"]
                return "another Facet" in (redis_now["error"] or "")

            await until_true(is_told, WHOLE_S)
            read = await clients.admin.get(f"/v1/orders/{order_id}")
            assert read.status == 200
            changed = await clients.admin.post(f"/v1/orders/{order_id}/comments", {"comment": "x"})
            assert changed.status == 503
            client.hset("{facet}:meta", mapping={"installation": ours or b""})
        await whole_again(clients.admin, order_id)
