"""Fixtures with real Valkey and PostgreSQL servers, started here and ended here. Where there is neither, the
tests fail: nothing is skipped.

TEST_REDIS_URL and TEST_DATABASE_URL name servers to use in place of the shared ones. The servers that a test
may kill are always its module's own.
"""

import asyncio
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import redis

from server.demo.private_servers.servers import PostgresServer, ValkeyCluster, ValkeySentinel, ValkeyServer
from storage.postgresql.migrate import migrate_postgresql


def _worker_number() -> int:
    """Tests run in several processes: each has a number, counted from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole run; given from outside, a database of it for each worker."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield urlunsplit(urlsplit(given)._replace(path=f"/{_worker_number()}"))
        return
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def fresh_redis(redis_url: str) -> str:
    """The shared server, emptied before the test."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        client.script_flush()
    return redis_url


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """To be killed, paused and restarted: a test that needs it running starts it."""
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def redis_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeySentinel]:
    with ValkeySentinel(tmp_path_factory.mktemp("sentinel")) as sentinel:
        yield sentinel


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole run. Tests use `fresh_database`."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server.url


@pytest.fixture
def new_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Makes empty databases; all are gone after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"facet_{secrets.token_hex(6)}"
        execute(postgres_url, f'CREATE DATABASE "{name}"')
        made.append(name)
        return urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))

    yield make
    for name in made:
        execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def fresh_database(new_database: Callable[[], str]) -> str:
    """The URL of an empty database of this test."""
    return new_database()


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database: to copy it is much quicker than to migrate another."""
    name = f"facet_template_{secrets.token_hex(6)}"
    execute(postgres_url, f'CREATE DATABASE "{name}"')
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(migrate_postgresql(url))).result()
    yield name
    execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def migrated_database(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated database of this test, an installation of its own."""
    name = f"facet_{secrets.token_hex(6)}"
    execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}"')
    url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    execute(url, f"UPDATE installation SET id = '{uuid.uuid4()}'")
    yield url
    execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """To be killed, paused and restarted: a test that needs it running starts it."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def engines(fresh_redis: str, migrated_database: str) -> dict[str, str]:
    """Settings of a server over an empty Redis and a PostgreSQL in which there are only tables."""
    return {
        "FACET_REDIS_URL": fresh_redis,
        "FACET_DATABASE_URL": migrated_database,
        "FACET_MODEL_WORKERS": "1",
    }


def query(url: str, statement: str, *, deadline_s: float = 10.0) -> list[asyncpg.Record]:
    """The rows of one statement, on a connection of its own; also where an event loop runs."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, timeout=deadline_s)
        try:
            return list(await connection.fetch(statement, timeout=deadline_s))
        finally:
            connection.terminate()

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the caller's may be running
        return thread.submit(lambda: asyncio.run(ask())).result()


def execute(url: str, statement: str, *, deadline_s: float = 10.0) -> None:
    query(url, statement, deadline_s=deadline_s)
