"""What is looked at before a Redis is trusted with the log, and a server used without a password."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from server.config import ConfigError, load
from server.demo.private_servers.servers import PostgresServer, ValkeyServer
from server.demo.private_servers.valkey import DURABLE
from server.open_servers import fault_of, refuse_open_servers
from storage.bounds import Bounds
from storage.clock import SystemClock
from storage.errors import Unavailable
from storage.redis.endpoint import endpoint_of
from storage.redis.keys import Keys
from storage.redis.server_check import judged
from storage.services.stack import Storage
from tests.support.acts import Workshop, keyed
from tests.support.commands import facet
from tests.support.gates import locked, until
from tests.support.processes import Clients, clients_of, served
from tests.support.shared_stacks import open_sqlite, storage_on

VALKEY = {"server_name": "valkey", "redis_version": "7.2.4", "valkey_version": "9.1.2", "aof_enabled": "0"}
REDIS = {"redis_version": "7.4.0", "aof_enabled": "0"}
FILLERS = 60_000
MAXMEMORY_BYTES = 24 * 2**20


# What the server says, judged


@pytest.mark.parametrize(
    ("settings", "promise"),
    [
        ({"appendonly": "yes", "appendfsync": "always", "save": ""}, "survives a kill of Redis and power"),
        ({"appendonly": "yes", "appendfsync": "everysec", "save": ""}, "last two seconds"),
        ({"appendonly": "yes", "appendfsync": "no", "save": "60 1"}, "last half minute"),
        (
            {"appendonly": "no", "appendfsync": "always", "save": "60 1"},
            "since the last snapshot (save 60 1)",
        ),
        ({"appendonly": "no", "appendfsync": "always", "save": ""}, "in memory only"),
        ({}, "unknown (CONFIG is forbidden)"),
    ],
)
def test_the_durability_follows_from_the_settings(settings: dict[str, str], promise: str) -> None:
    found = judged(REDIS, settings)
    assert promise in found.durability
    assert found.durability.endswith("live processes hold what is not in the database yet")
    assert found.unfit is None


def test_what_only_config_tells_is_called_unknown_where_it_is_forbidden() -> None:
    assert "is unknown: CONFIG is forbidden" in judged({**REDIS, "aof_enabled": "1"}, {}).durability


def test_a_replica_is_said_to_lag() -> None:
    assert "a failover may lose" in judged({**REDIS, "connected_slaves": "1"}, {"save": ""}).durability


@pytest.mark.parametrize(
    ("said", "name", "fits"),
    [
        (VALKEY, "Valkey 9.1.2", True),
        ({**VALKEY, "valkey_version": "7.2.0"}, "Valkey 7.2.0", True),
        ({**VALKEY, "valkey_version": "7.1.9"}, "Valkey 7.1.9", False),
        ({"redis_version": "7.0.0"}, "Redis 7.0.0", True),
        ({"redis_version": "6.2.14"}, "Redis 6.2.14", False),
    ],
)
def test_old_servers_are_refused(said: dict[str, str], name: str, fits: bool) -> None:
    found = judged(said, {})
    assert (found.name, found.unfit is None) == (name, fits)


@pytest.mark.parametrize(
    ("policy", "maxmemory", "fits", "evicts"),
    [
        ("noeviction", "1000000", True, False),
        ("allkeys-lru", "1000000", False, False),
        ("allkeys-random", "1", False, False),
        ("allkeys-lru", "0", True, False),
        ("volatile-lru", "1000000", True, True),
        ("volatile-ttl", "0", True, False),
    ],
)
def test_only_what_can_evict_the_log_is_refused(
    policy: str, maxmemory: str, fits: bool, evicts: bool
) -> None:
    found = judged({**REDIS, "maxmemory_policy": policy, "maxmemory": maxmemory}, {})
    assert (found.unfit is None, found.evicts) == (fits, evicts)


# A real server


@pytest.fixture
def small_valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """With a bound on its memory; what is evicted then, a test says."""
    settings = {**DURABLE, "appendfsync": "no", "maxmemory": str(MAXMEMORY_BYTES)}
    with ValkeyServer(tmp_path / "valkey", settings=settings) as server:
        yield server


def set_policy(server: ValkeyServer, policy: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", policy)


@contextlib.asynccontextmanager
async def opened(server: ValkeyServer, path: Path) -> AsyncIterator[Storage]:
    """The log in this Redis, the database in this file. A background task that dies fails the test."""
    bounds, clock = Bounds(), SystemClock()
    deaths: list[BaseException] = []
    endpoint = endpoint_of(server.url, "facet", bounds.shared_deadline_s)
    storage = storage_on(endpoint, await open_sqlite(path, bounds), bounds, clock)
    await storage.open(lambda _, error: deaths.append(error))
    try:
        yield storage
    finally:
        await storage.drain(10)
        await storage.close()
    assert deaths == []


def test_a_start_with_a_redis_that_evicts_the_log_ends_with_one_line(
    small_valkey: ValkeyServer, tmp_path: Path
) -> None:
    set_policy(small_valkey, "allkeys-lru")
    refused = facet(
        "serve", "--port", "0", "--data-dir", str(tmp_path / "data"), FACET_REDIS_URL=small_valkey.url
    )
    assert refused.returncode == 2
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("facet: ")
    assert "allkeys-lru" in last
    assert "noeviction" in last
    assert "Traceback" not in refused.stderr


async def test_a_redis_that_begins_to_evict_is_not_written_to_after_a_reconnection(
    small_valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with opened(small_valkey, tmp_path / "facet.db") as storage:
        order = await Workshop(storage).order()
        with redis.Redis.from_url(small_valkey.url) as client:
            set_policy(small_valkey, "allkeys-lfu")
            client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: "allkeys-lfu" in (storage.change_log.last_error or ""))
        assert (await storage.reads.order(order.id)).id == order.id
        with pytest.raises(Unavailable):
            await Workshop(storage).order()
        set_policy(small_valkey, "noeviction")
        await until(lambda: storage.change_log.last_error is None)
        await Workshop(storage).order()


async def test_a_full_redis_with_a_volatile_policy_keeps_the_log_and_what_is_pending(
    small_valkey: ValkeyServer, tmp_path: Path
) -> None:
    set_policy(small_valkey, "volatile-lru")
    async with opened(small_valkey, tmp_path / "facet.db") as storage:
        shop = Workshop(storage)
        stored = await shop.order()
        await shop.persisted()
        keys = Keys("facet", storage.change_log.epoch)
        with redis.Redis.from_url(small_valkey.url) as client, locked(tmp_path / "facet.db"):
            await until(lambda: client.ttl(keys.order(stored.id)) > 0)
            pending = [await shop.order() for _ in range(50)]
            length = client.xlen(keys.log)
            assert await asyncio.to_thread(fill, client) > 1_000
            assert client.xlen(keys.log) == length > 50
            assert client.exists(keys.meta, keys.marks, keys.flushed) == 3
            assert all(client.ttl(keys.order(order.id)) == -1 for order in pending)
            assert all(client.hexists(keys.marks, order.id) for order in pending)
            inspected = await storage.reads.inspect(pending[0].id)
            assert inspected.shared is not None
            assert inspected.shared.pending
        await shop.persisted()
        for order in pending:
            assert await storage.database.load_order(order.id) == order


async def test_a_key_that_redis_evicted_is_still_remembered(
    small_valkey: ValkeyServer, tmp_path: Path
) -> None:
    set_policy(small_valkey, "volatile-lru")
    async with opened(small_valkey, tmp_path / "facet.db") as storage:
        first = await Workshop(storage).create(key=keyed("once"))
        await Workshop(storage).persisted()
    async with opened(small_valkey, tmp_path / "facet.db") as storage:
        with redis.Redis.from_url(small_valkey.url) as client:
            assert client.delete(Keys("facet", storage.change_log.epoch).answer("scope once")) == 1
        again = await Workshop(storage).create(key=keyed("once"))
        assert (again.repeated, again.order.id) == (True, first.order.id)


async def test_a_full_redis_that_evicts_nothing_refuses_changes_and_serves_reads(
    small_valkey: ValkeyServer, tmp_path: Path
) -> None:
    set_policy(small_valkey, "noeviction")
    async with opened(small_valkey, tmp_path / "facet.db") as storage:
        order = await Workshop(storage).order()
        with redis.Redis.from_url(small_valkey.url) as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(Unavailable, match="maxmemory"):
                await Workshop(storage).order()
            assert (await storage.reads.order(order.id)).id == order.id
            client.config_set("maxmemory", "0")
        await Workshop(storage).order()
        assert storage.change_log.last_error is None


def fill(client: "redis.Redis") -> int:
    """With copies that expire, well beyond the bound; how many keys had to go."""
    with client.pipeline(transaction=False) as pipeline:
        for index in range(FILLERS):
            pipeline.set(f"filler:{index}", "x" * 800, ex=3600)
            if index % 1_000 == 999:
                pipeline.execute()
    return int(client.info("stats")["evicted_keys"])


async def test_readiness_and_metrics_tell_which_engines_there_are(
    redis_server: ValkeyServer, fresh_database: str, tmp_path: Path
) -> None:
    settings = {"FACET_REDIS_URL": redis_server.url, "FACET_DATABASE_URL": fresh_database}
    with served(tmp_path / "data", **settings) as service:
        async with clients_of(service.url) as clients:
            found = (await clients.nobody.get("/readyz")).json["dependencies"]
            assert found["database"] == {
                "state": "up",
                "error": None,
                "engine": "postgresql",
                "flusher": True,
            }
            assert found["redis"]["state"] == found["log"]["state"] == "up"
            assert found["redis"]["server"].startswith(("Valkey ", "Redis "))
            assert "appendfsync always" in found["log"]["durability"]
            assert found["log"]["age_s"] < 1
            report = (await clients.admin.get("/v1/cache")).json
            assert (report["flusher"], report["shared"]["joins"]) == (True, 1)
            created = (await clients.admin.post("/v1/orders", {"customer": "anna"})).json
            held = (await clients.admin.get(f"/v1/cache/orders/{created['id']}")).json["shared"]
            assert (held["version"], held["position"]) == (1, int(report["log_head"].partition("-")[2]) + 1)
            redis_server.kill()
            gone = await until_status(clients, "degraded")
            assert gone["troubles"] == ["log"]
            assert gone["dependencies"]["redis"]["state"] == "away"
            assert gone["dependencies"]["redis"]["error"]
            assert (await clients.admin.get("/v1/cache")).json["shared"]["state"] == "away"
            assert (await clients.admin.get(f"/v1/cache/orders/{created['id']}")).json["shared"] is None
            assert b"\nfacet_log_up 0.0\n" in (await clients.nobody.get("/metrics")).raw
            redis_server.start()
            back = await until_status(clients, "ready")
            assert back["dependencies"]["log"]["epoch"] == found["log"]["epoch"] + 1
            assert (await clients.admin.get("/v1/cache")).json["shared"]["rebases"] >= 1


async def test_an_idle_service_notices_that_postgresql_is_gone(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with served(tmp_path / "data", FACET_DATABASE_URL=postgres_server.url) as service:
        async with clients_of(service.url) as clients:
            assert (await clients.nobody.get("/readyz")).json["status"] == "ready"
            postgres_server.pause()
            gone = await until_status(clients, "degraded")
            postgres_server.resume()
            assert gone["troubles"] == ["database"]
            assert gone["dependencies"]["redis"] == {"state": "none"}
            assert (await until_status(clients, "ready"))["dependencies"]["database"]["state"] == "up"


async def until_status(clients: Clients, status: str) -> Any:
    """What readiness says once it says this."""
    async with asyncio.timeout(15):
        while True:
            reply = await clients.nobody.get("/readyz")
            assert reply.status == 200
            if reply.json["status"] == status:
                return reply.json


# Servers that anybody could use


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://localhost",
        "redis://[::1]:6379",
        "unix:///run/valkey.sock",
        "redis://:secret@redis:6379/0",
        "redis://facet:secret@10.0.0.5",
        "redis://redis:6379/0?password=secret",
        "redis+sentinel://:secret@a:1,b:2/facet/0",
        "redis+cluster://127.0.0.1:1,localhost:2",
        "postgresql://facet@localhost/facet",
        "postgresql:///facet",
        "postgresql:///facet?host=/run/postgresql",
        "postgresql://facet@%2Frun%2Fpostgresql/facet",
        "postgresql://facet:secret@database/facet",
        "postgresql://postgres:postgres@127.0.0.1/facet",
        "postgresql://facet@database/facet?passfile=/run/secrets/pgpass",
    ],
)
def test_a_server_on_this_machine_or_with_a_password_may_be_used(url: str) -> None:
    assert fault_of(url) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis://redis:6379/0", "redis is used without a password"),
        ("rediss://10.0.0.5", "10.0.0.5 is used without a password"),
        ("redis://facet@redis", "without a password"),
        ("redis://0.0.0.0", "0.0.0.0 is used without a password"),
        ("redis+sentinel://127.0.0.1:1,b:2/facet/0", "b is used without a password"),
        ("redis+cluster://a:1,b:2", "a is used without a password"),
        ("postgresql://facet@database/facet", "database is used without a password"),
        ("postgresql:///facet?host=database", "database is used without a password"),
        ("postgresql://postgres:postgres@database/facet", "database is used with the password postgres"),
    ],
)
def test_a_server_elsewhere_without_a_password_may_not(url: str, fault: str) -> None:
    found = fault_of(url)
    assert found is not None
    assert fault in found


def test_an_open_server_is_refused_unless_the_setting_says_so() -> None:
    environment = {"FACET_REDIS_URL": "redis://user-without@redis:6379/0"}
    with pytest.raises(ConfigError, match="FACET_REDIS_URL: redis is used without a password"):
        refuse_open_servers(load(environment))
    refuse_open_servers(load({**environment, "FACET_ALLOW_OPEN_SERVERS": "1"}))


def test_a_start_with_an_open_server_ends_with_one_line_that_tells_no_secret(tmp_path: Path) -> None:
    refused = facet(
        *("serve", "--port", "0", "--data-dir", str(tmp_path / "data")),
        FACET_DATABASE_URL="postgresql://postgres:postgres@database.example/facet",
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "FACET_ALLOW_OPEN_SERVERS=1" in refused.stderr
    assert "postgres:postgres" not in refused.stderr
