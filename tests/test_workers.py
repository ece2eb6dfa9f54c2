"""Several processes on one socket, replaced under load: no request fails and no change is lost."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from storage.data_directory import Holder
from tests.commands import facet
from tests.engines import query
from tests.processes import POLL_S, Client, Service, clients_of, served
from tests.visitors import Tally, visited

DEADLINE_S = 60.0
RESTARTS = 10
REQUESTS_BETWEEN = 200
"""So many requests are answered between two restarts."""


@pytest.fixture
def engines(fresh_redis: str, fresh_database: str) -> dict[str, str]:
    return {"FACET_REDIS_URL": fresh_redis, "FACET_DATABASE_URL": fresh_database}


@pytest.fixture
def service(tmp_path: Path, engines: dict[str, str]) -> Iterator[Service]:
    with served(tmp_path / "data", FACET_WORKERS="2", **engines) as service:
        yield service


async def until(reached: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    """Polls, with a deadline, while the clients go on."""
    deadline_s = time.monotonic() + DEADLINE_S
    never = asyncio.Event()
    while not reached():
        assert time.monotonic() < deadline_s, what()
        try:
            await asyncio.wait_for(never.wait(), POLL_S)
        except TimeoutError:
            pass


async def answered(tally: Tally, more: int) -> None:
    enough = tally.requests + more
    await until(lambda: tally.requests >= enough, lambda: tally)


def lost(database_url: str, tally: Tally) -> set[tuple[str, int]]:
    """Acknowledged changes that the history lacks."""
    rows = query(database_url, "SELECT order_id, version FROM order_history")
    return tally.acknowledged - {(row["order_id"], row["version"]) for row in rows}


def workers(service: Service) -> set[int]:
    return {holder.pid for holder in service.serving()}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def reloaded(service: Service) -> None:
    """A rolling restart from its begin to its end: two other processes serve."""
    before = workers(service)
    service.signal(signal.SIGHUP)
    await until(
        lambda: (
            len(workers(service)) == 2 and not workers(service) & before and not any(map(is_running, before))
        ),
        service.log_text,
    )


async def test_ten_rolling_restarts_under_load_fail_no_request_and_lose_no_change(
    service: Service, engines: dict[str, str]
) -> None:
    async with visited(lambda: service.url) as tally:
        for _ in range(RESTARTS):
            await answered(tally, REQUESTS_BETWEEN)
            await reloaded(service)
        await answered(tally, REQUESTS_BETWEEN)
    print(tally)
    assert tally.failures == [], tally
    assert service.stop() == 0
    assert len(tally.acknowledged) > RESTARTS * REQUESTS_BETWEEN / 4
    assert lost(engines["FACET_DATABASE_URL"], tally) == set()
