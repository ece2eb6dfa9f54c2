"""The doctor's look at Redis and PostgreSQL: each alone, and whether they fit each other."""

import asyncio
from pathlib import Path

import pytest
import redis

from server.commands.doctor import Finding, examine
from server.config import load
from storage.redis.keys import Keys
from tests.support.acts import Workshop
from tests.support.engines import execute
from tests.support.shared_stacks import opened_shared


@pytest.fixture
def environment(fresh_redis: str, fresh_database: str, tmp_path: Path) -> dict[str, str]:
    return {
        "FACET_REDIS_URL": fresh_redis,
        "FACET_DATABASE_URL": fresh_database,
        "FACET_DATA_DIR": str(tmp_path),
        "FACET_PORT": "0",
    }


async def findings(environment: dict[str, str]) -> dict[str, Finding]:
    found = await asyncio.to_thread(examine, load(environment))
    return {finding.what: finding for finding in found}


async def test_before_the_first_start_both_answer_and_are_empty(environment: dict[str, str]) -> None:
    found = await findings(environment)
    assert all(found[what].ok for what in ("redis", "postgresql", "schema"))
    assert "appendfsync always" in found["redis"].detail
    assert "noeviction" in found["redis"].detail
    assert "fsync on" in found["postgresql"].detail
    assert found["schema"].detail == "none yet, 0 orders"
    assert "log" not in found
    assert "database" not in found


async def test_a_log_that_the_database_follows_is_well_and_one_that_it_does_not_is_not(
    environment: dict[str, str], fresh_redis: str, fresh_database: str
) -> None:
    async with opened_shared(fresh_redis, fresh_database) as storage:
        await Workshop(storage).order()
        await Workshop(storage).persisted()
        epoch = storage.change_log.epoch
    found = await findings(environment)
    assert found["log"] == Finding(True, "log", f"at {epoch}-1; PostgreSQL lacks 0 entries")
    assert found["schema"].detail.endswith(", 1 orders")
    with redis.Redis.from_url(fresh_redis) as client:
        client.hset(Keys("facet", 0).meta, "head", 0)
        behind = (await findings(environment))["log"]
        assert (behind.ok, behind.detail) == (
            False,
            f"at {epoch}-0, PostgreSQL at {epoch}-1: the next start rebuilds it",
        )
        client.flushdb()
    assert (await findings(environment))["log"].ok
    execute(fresh_database, "UPDATE alembic_version SET version_num = '9999'")
    assert not (await findings(environment))["schema"].ok


async def test_servers_that_are_away_or_open_are_said(environment: dict[str, str]) -> None:
    away = {"FACET_REDIS_URL": "redis://127.0.0.1:1", "FACET_DATABASE_URL": "postgresql://f@127.0.0.1:1/f"}
    found = await findings({**environment, **away})
    assert not found["redis"].ok
    assert not found["postgresql"].ok
    found = await findings({**environment, "FACET_REDIS_URL": "redis://redis.invalid"})
    assert not found["access"].ok
