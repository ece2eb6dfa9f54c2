"""Processes replaced one after the other under load: no request fails and no change is lost."""

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Service, served
from tests.support.visitors import Balancer, visited
from tests.support.worker_acts import answered, lost, reloaded, until

RESTARTS = 10
REQUESTS_BETWEEN = 200
"""So many requests are answered between two restarts."""


@pytest.fixture
def service(tmp_path: Path, engines: dict[str, str]) -> Iterator[Service]:
    settings = {**engines, "FACET_WORKERS": "2", "FACET_GRACE_S": "0.5"}
    with served(tmp_path / "data", **settings) as service:
        yield service


@pytest.mark.slow
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


@pytest.mark.slow
async def test_two_servers_restarted_in_turn_fail_no_request_of_clients_that_ask_who_is_ready(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    with served(tmp_path / "one", **engines) as one, served(tmp_path / "two", **engines) as two:
        async with Balancer([one.url, two.url]) as balancer, visited(balancer.find) as tally:
            for server in (one, two, one, two):
                await answered(tally, REQUESTS_BETWEEN)
                port = int(server.url.rpartition(":")[2])
                assert await asyncio.to_thread(server.stop) == 0
                await asyncio.to_thread(server.start, port)
                await until(functools.partial(balancer.is_ready, server.url))
            await answered(tally, REQUESTS_BETWEEN)
        print(tally)
        assert tally.failures == [], tally
    assert lost(engines["FACET_DATABASE_URL"], tally) == set()
