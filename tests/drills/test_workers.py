"""Several processes on one socket, replaced under load: no request fails and no change is lost."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commands import facet
from tests.support.engines import execute, query
from tests.support.processes import Client, Service, clients_of, served
from tests.support.visitors import visited
from tests.support.worker_acts import answered, is_running, lost, until, workers

REQUESTS_BETWEEN = 200
"""So many requests are answered between two events."""


@pytest.fixture
def service(tmp_path: Path, engines: dict[str, str]) -> Iterator[Service]:
    with served(tmp_path / "data", FACET_WORKERS="2", **engines) as service:
        yield service


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


async def test_the_parent_ends_after_its_workers(service: Service) -> None:
    held, other = sorted(workers(service))
    os.kill(held, signal.SIGSTOP)
    service.signal(signal.SIGTERM)
    await until(lambda: not is_running(other), service.log_text)
    assert service._process.poll() is None
    os.kill(held, signal.SIGCONT)
    assert service.wait() == 0
    assert not is_running(held)


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


async def test_workers_whose_parent_was_killed_finish_and_leave_the_port_free(
    service: Service, engines: dict[str, str]
) -> None:
    accepted_unapplied = workers(service)
    async with visited(lambda: service.url) as tally:
        await answered(tally, REQUESTS_BETWEEN)
        service.kill()
        await until(lambda: not any(map(is_running, accepted_unapplied)))
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


async def test_reloading_when_all_workers_have_just_died_tells_the_parent(
    service: Service, engines: dict[str, str]
) -> None:
    os.kill(service.pid, signal.SIGSTOP)  # it has not heard of it yet
    before = workers(service)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    reload = facet("reload", f"--data-dir={service.data_dir}", **engines)
    os.kill(service.pid, signal.SIGCONT)
    assert (reload.returncode, reload.stderr) == (0, "")
    assert str(service.pid) in reload.stdout
    await until(lambda: len(workers(service) - before) == 2, service.log_text)


async def test_reloading_a_server_whose_parent_was_killed_is_one_line_and_exit_code_2(
    service: Service, engines: dict[str, str]
) -> None:
    worker = min(workers(service))
    os.kill(worker, signal.SIGSTOP)  # so that its lock still names the parent
    service.kill()
    try:
        refused = facet("reload", f"--data-dir={service.data_dir}", **engines)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "no server with several workers" in refused.stderr


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
    tmp_path: Path, engines: dict[str, str], fresh_database: str
) -> None:
    engines["FACET_DATABASE_URL"] = fresh_database
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
