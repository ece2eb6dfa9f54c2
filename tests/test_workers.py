"""Several processes on one socket, replaced under load: no request fails and no change is lost."""

import asyncio
import functools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import facet
from tests.engines import execute, query
from tests.processes import POLL_S, Client, Service, clients_of, served
from tests.visitors import Balancer, Tally, visited

DEADLINE_S = 120.0
RESTARTS = 10
REQUESTS_BETWEEN = 200
"""So many requests are answered between two restarts."""


@pytest.fixture
def engines(fresh_redis: str, fresh_database: str) -> dict[str, str]:
    return {
        "FACET_REDIS_URL": fresh_redis,
        "FACET_DATABASE_URL": fresh_database,
        "FACET_MODEL_WORKERS": "1",
    }


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


async def test_a_killed_worker_is_replaced_and_no_acknowledged_change_is_lost(
    service: Service, engines: dict[str, str]
) -> None:
    async with visited(lambda: service.url) as tally:
        await answered(tally, REQUESTS_BETWEEN)
        victim = min(workers(service))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(workers(service) - {victim}) == 2, service.log_text)
        await answered(tally, REQUESTS_BETWEEN)
    assert service.stop() == 0
    assert lost(engines["FACET_DATABASE_URL"], tally) == set()


async def test_a_new_worker_that_cannot_start_replaces_nobody(
    service: Service, engines: dict[str, str], postgres_url: str
) -> None:
    before = workers(service)
    name = engines["FACET_DATABASE_URL"].rpartition("/")[2]
    execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    reload = facet("reload", f"--data-dir={service.data_dir}", **engines)
    assert reload.returncode == 0, reload.stderr
    await until(lambda: "the others stay as they are" in service.log_text(), service.log_text)
    assert workers(service) == before
    execute(postgres_url, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    async with clients_of(service.url) as clients:
        assert (await clients.admin.get("/v1/orders")).status == 200


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


async def test_workers_whose_parent_was_killed_finish_and_leave_the_port_free(
    service: Service, engines: dict[str, str]
) -> None:
    orphans = workers(service)
    async with visited(lambda: service.url) as tally:
        await answered(tally, REQUESTS_BETWEEN)
        service.kill()
        await until(lambda: not any(map(is_running, orphans)))
    assert lost(engines["FACET_DATABASE_URL"], tally) == set()
    host, _, port = service.url.removeprefix("http://").partition(":")
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind((host, int(port)))
        successor.listen()


async def test_a_stopping_worker_answers_once_more_on_a_connection_and_says_that_it_is_the_last_time(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    with served(tmp_path / "data", FACET_WORKERS="2", FACET_GRACE_S="3600", **engines) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: facet\r\n\r\n")
        await reader.readuntil(b"}")
        service.signal(signal.SIGTERM)
        await until(lambda: not service.serving())
        writer.write(b"GET /livez HTTP/1.1\r\nHost: facet\r\n\r\n")
        last = await reader.read()  # to the connection's end
        assert last.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in last
        writer.close()
        assert await asyncio.to_thread(service.wait) == 0


async def test_a_second_signal_does_not_wait_for_those_who_are_connected(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    with served(tmp_path / "data", FACET_WORKERS="2", FACET_GRACE_S="3600", **engines) as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: facet\r\n\r\n")
        await reader.readuntil(b"}")
        service.signal(signal.SIGINT)
        await until(lambda: not service.serving())
        service.signal(signal.SIGINT)
        assert await asyncio.to_thread(service.wait) == 0
        writer.close()


def test_a_worker_that_cannot_start_is_one_line_and_exit_code_2(tmp_path: Path, redis_url: str) -> None:
    refused = facet(
        "serve",
        f"--data-dir={tmp_path}",
        "--port=0",
        FACET_WORKERS="3",
        FACET_REDIS_URL=redis_url,
        FACET_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing",
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("facet: PostgreSQL is not available")


def test_reloading_without_workers_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    refused = facet("reload", f"--data-dir={tmp_path}")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


async def test_one_scrape_shows_every_worker(service: Service, engines: dict[str, str]) -> None:
    async with clients_of(service.url) as clients:
        text = (await clients.nobody.get("/metrics")).raw.decode()
    found = {family.name: family.samples for family in text_string_to_metric_families(text)}
    assert {s.labels["process"]: s.value for s in found["facet_worker_up"]} == {"1": 1.0, "2": 1.0}
    for name, samples in found.items():
        assert {sample.labels.get("process") for sample in samples} <= {"1", "2"}, name
    assert {s.labels["process"] for s in found["facet_backlog_entries"]} == {"1", "2"}
    listed = facet("token", "list", f"--data-dir={service.data_dir}", **engines)
    assert listed.returncode == 0, listed.stderr


async def test_servers_that_begin_together_set_the_installation_up_once_and_open_each_others_links(
    tmp_path: Path, engines: dict[str, str]
) -> None:
    pair = [Service(tmp_path / name, **engines, FACET_ADMIN_TOKEN="") for name in ("one", "two")]
    await asyncio.gather(*(asyncio.to_thread(service.start) for service in pair))
    try:
        secrets = [path for path in (tmp_path / "one", tmp_path / "two") if (path / "admin-token").exists()]
        assert len(secrets) == 1
        token = (secrets[0] / "admin-token").read_text().strip()
        for table in ("tokens", "price_lists", "metal_fixes", "secrets"):
            rows = query(engines["FACET_DATABASE_URL"], f"SELECT count(*) FROM {table}")
            assert rows[0][0] == 1, table
        async with aiohttp.ClientSession() as session:
            one, two = (Client(session, service.url, token) for service in pair)
            made = await one.post("/v1/orders", {"customer": "anna"})
            link = await one.post(f"/v1/orders/{made.json['id']}/links", {})
            assert link.status in (200, 201), link
            path = "/c/" + link.json["url"].partition("/c/")[2]
            position = {"Facet-Position": made.headers["Facet-Position"]}
            assert (await two.get(path, headers=position)).status == 200
    finally:
        for service in pair:
            service.stop()
