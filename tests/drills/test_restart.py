"""Stopping and starting: warm starts, orderly ends, ends by SIGKILL, and rows that others have changed."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pricing.sample_ring import ring_stl
from storage.clock import SystemClock
from storage.log.entries import parse_position
from storage.orders.new_order import NewOrder
from storage.orders.order import Order
from storage.orders.rules import StatusRequest, advance
from storage.orders.workflow import LINE, Status
from storage.services.stack import Storage
from tests.support.processes import Client, Clients, Service, clients_of, served
from tests.support.stacks import ADMIN, by, opened
from tests.support.stalls import query, stalled

SEEDED = 1_100
WARM = 1_000
STOP_S = 1.0
"""A stop with nothing to wait for takes less."""
HIT = "facet; hit; detail=local"


async def _seed(storage: Storage, number: int) -> None:
    """An order in one of the statuses, all of them in turn."""

    async def draft() -> NewOrder:
        return NewOrder(customer=f"customer-{number % 40}", note=f"order {number}")

    created = await storage.orders.create(draft, by(ADMIN))
    status = tuple(Status)[number % len(Status)]
    if status is Status.INITIATED:
        return

    async def decide(order: Order) -> Any:
        wish = StatusRequest(status=status, comment="seeded", operator="ivan" if status in LINE[5:] else None)
        return advance(order, wish, ADMIN, storage.clock.now())

    await storage.orders.change(created.order.id, decide, by(ADMIN))


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with more orders than a start warms."""
    path = tmp_path_factory.mktemp("restart") / "data"

    async def fill() -> None:
        async with opened(path, SystemClock()) as storage:
            await asyncio.gather(*(_seed(storage, number) for number in range(SEEDED)))

    asyncio.run(fill())
    return path


@pytest.fixture(scope="module")
def restarted(seeded: Path) -> Iterator[Service]:
    with served(seeded) as service:
        yield service


@pytest.fixture
async def visitors(restarted: Service) -> AsyncIterator[Clients]:
    async with clients_of(restarted.url) as clients:
        yield clients


async def loads(clients: Clients) -> dict[str, int]:
    return (await clients.admin.get("/v1/cache")).json["loads"]  # type: ignore[no-any-return]


async def test_first_look_at_every_status_tab_is_a_hit_without_a_database_load(visitors: Clients) -> None:
    client = await visitors.of("operator")
    before = await loads(visitors)
    for status in Status:
        reply = await client.get(f"/v1/orders?status={status}")
        assert (reply.status, reply.headers["Cache-Status"]) == (200, HIT), status
        assert len(reply.json["items"]) == 50, status
    for path in ("/v1/orders", "/v1/orders/counts"):
        assert (await client.get(path)).headers["Cache-Status"] == HIT, path
    assert await loads(visitors) == before


async def test_first_look_at_the_newest_thousand_orders_is_a_hit_without_a_database_load(
    restarted: Service, visitors: Clients
) -> None:
    newest = query(restarted.data_dir, "SELECT id FROM orders ORDER BY created_at DESC, id DESC")
    before = await loads(visitors)
    for (order_id,) in newest[:WARM]:
        reply = await visitors.admin.get(f"/v1/orders/{order_id}/status")
        assert (reply.status, reply.headers["Cache-Status"]) == (200, HIT)
    assert await loads(visitors) == before
    older = await visitors.admin.get(f"/v1/orders/{newest[WARM][0]}/status")
    assert older.headers["Cache-Status"] == "facet; fwd=miss; stored"
    assert (await loads(visitors))["order"] == before["order"] + 1


async def _note_in_list(client: Client, order_id: str) -> list[str]:
    rows = (await client.get("/v1/orders?limit=200")).json["items"]
    return [row["note"] for row in rows if row["id"] == order_id]


async def test_row_changed_by_another_program_is_shown_after_invalidation_by_key(
    service: Service, clients: Clients
) -> None:
    admin = clients.admin
    order_id = (await admin.post("/v1/orders", {"customer": "Anna", "note": "old"})).json["id"]
    await _persisted(admin, order_id)
    query(service.data_dir, "UPDATE orders SET note = 'new' WHERE id = ?", order_id)
    assert (await admin.get(f"/v1/orders/{order_id}")).json["note"] == "old"
    assert await _note_in_list(admin, order_id) == ["old"]
    assert (await admin.delete(f"/v1/cache/orders/{order_id}")).status == 204
    assert (await admin.get(f"/v1/orders/{order_id}")).json["note"] == "new"
    assert await _note_in_list(admin, order_id) == ["new"]


async def test_status_changed_by_another_program_moves_the_order_between_lists_after_invalidation(
    service: Service, clients: Clients
) -> None:
    admin = clients.admin
    order_id = (await admin.post("/v1/orders", {"customer": "Anna"})).json["id"]
    await _persisted(admin, order_id)
    counts = (await admin.get("/v1/orders/counts")).json["counts"]
    query(service.data_dir, "UPDATE orders SET status = 'SUBMITTED' WHERE id = ?", order_id)
    await admin.delete(f"/v1/cache/orders/{order_id}")
    tabs = {
        status: [row["id"] for row in (await admin.get(f"/v1/orders?status={status}")).json["items"]]
        for status in ("INITIATED", "SUBMITTED")
    }
    assert order_id not in tabs["INITIATED"]
    assert order_id in tabs["SUBMITTED"]
    after = (await admin.get("/v1/orders/counts")).json["counts"]
    assert after["SUBMITTED"] == counts["SUBMITTED"] + 1
    assert after["INITIATED"] == counts["INITIATED"] - 1


async def test_invalidation_never_loses_a_pending_change(service: Service, clients: Clients) -> None:
    admin = clients.admin
    order_id = (await admin.post("/v1/orders", {"customer": "Anna", "note": "first"})).json["id"]
    await _persisted(admin, order_id)
    with stalled(service.data_dir):
        await admin.patch(f"/v1/orders/{order_id}", {"note": "second"})
        assert (await admin.delete(f"/v1/cache/orders/{order_id}")).status == 204
        assert (await admin.delete("/v1/cache/lists")).status == 204
        seen = (await admin.get(f"/v1/orders/{order_id}")).json
        assert (seen["version"], seen["note"]) == (2, "second")
        assert await _note_in_list(admin, order_id) == ["second"]
        assert query(service.data_dir, "SELECT note FROM orders WHERE id = ?", order_id) == [("first",)]
    await _persisted(admin, order_id)
    assert query(service.data_dir, "SELECT note FROM orders WHERE id = ?", order_id) == [("second",)]
    assert await _note_in_list(admin, order_id) == ["second"]


async def _persisted(admin: Client, order_id: str) -> None:
    async with asyncio.timeout(20):
        while (await admin.get(f"/v1/cache/orders/{order_id}")).json["state"] != "persisted":
            pass


class Told:
    """Changes that were acknowledged: (order, version, key)."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, int, str]] = []
        self.enough = asyncio.Event()

    def add(self, order_id: str, version: int, key: str) -> None:
        self.changes.append((order_id, version, key))
        if len(self.changes) >= 300:
            self.enough.set()


async def _work(admin: Client, name: str, told: Told) -> None:
    """Open orders and remark on them until the service no longer answers."""
    with contextlib.suppress(aiohttp.ClientError):
        for count in range(100_000):
            key = f"{name}-{count}"
            reply = await admin.post("/v1/orders", {"customer": name}, headers={"Idempotency-Key": key})
            if reply.status == 201:
                told.add(reply.json["id"], 1, key)
                path, headers = f"/v1/orders/{reply.json['id']}/comments", {"Idempotency-Key": f"{key}-c"}
                remark = await admin.post(path, {"comment": "in haste"}, headers=headers)
                if remark.status == 201:
                    told.add(reply.json["id"], 2, f"{key}-c")


def _missing(data_dir: Path, told: Told) -> list[tuple[str, int, str]]:
    """Acknowledged changes that the history does not have exactly once."""
    rows = query(data_dir, "SELECT order_id, version, idempotency_key FROM order_history")
    return [change for change in told.changes if rows.count(change) != 1]


async def test_stop_under_load_drains_and_loses_nothing(tmp_path: Path) -> None:
    told = Told()
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            working = [asyncio.create_task(_work(clients.admin, f"w{n}", told)) for n in range(8)]
            async with asyncio.timeout(60):
                await told.enough.wait()
            code = await asyncio.to_thread(service.stop)
            await asyncio.gather(*working)
    assert code == 0, service.log_text()
    assert _missing(service.data_dir, told) == []
    ((epoch, flushed),) = query(service.data_dir, "SELECT epoch, position FROM log_positions")
    with contextlib.closing(sqlite3.connect(service.data_dir / "log.db")) as log:
        head = log.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()[0]
    assert (flushed, epoch) == (head, 1), "the stop left something to replay"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
async def test_stop_waits_for_a_blocked_database(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            order_id = (await clients.admin.post("/v1/orders", {"customer": "Anna"})).json["id"]
            await _persisted(clients.admin, order_id)
            with stalled(service.data_dir):
                await clients.admin.patch(f"/v1/orders/{order_id}", {"note": "in the last minute"})
                workers = _processes_below(service.pid)
                stopping = asyncio.create_task(asyncio.to_thread(service.stop))
                # Requests are over, then the workers end, and then the database is waited for.
                await _until_refused(clients)
                await asyncio.to_thread(_until_ended, workers, all_of_them=False)
                await asyncio.wait([stopping], timeout=STOP_S)
                assert not stopping.done()
            assert await stopping == 0, service.log_text()
    rows = query(service.data_dir, "SELECT version, note FROM orders WHERE id = ?", order_id)
    assert rows == [(2, "in the last minute")]


async def _until_refused(clients: Clients) -> None:
    """The service no longer listens."""
    async with asyncio.timeout(20):
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                await clients.nobody.get("/livez", headers={"Connection": "close"})


async def test_kill_between_acknowledgement_and_flush_loses_nothing(tmp_path: Path) -> None:
    service, told = Service(tmp_path / "data"), Told()
    service.start()
    async with clients_of(service.url) as clients:
        # The first order leases numbers for those that follow.
        first = (await clients.admin.post("/v1/orders", {"customer": "first"})).json["id"]
        await _persisted(clients.admin, first)
        with stalled(service.data_dir):
            working = [asyncio.create_task(_work(clients.admin, f"w{n}", told)) for n in range(8)]
            async with asyncio.timeout(60):
                await told.enough.wait()
            service.kill()
            await asyncio.gather(*working)
            assert query(service.data_dir, "SELECT count(*) FROM orders") == [(1,)]
    with served(tmp_path / "data") as again:
        async with clients_of(again.url) as clients:
            for order_id, version, key in told.changes[:20]:
                assert (await clients.admin.get(f"/v1/orders/{order_id}")).json["version"] >= version
                if version == 1:
                    headers = {"Idempotency-Key": key}
                    body = {"customer": key.partition("-")[0]}
                    repeated = await clients.admin.post("/v1/orders", body, headers=headers)
                    assert (repeated.status, repeated.json["id"]) == (201, order_id)
            report = (await clients.admin.get("/v1/cache")).json
            assert parse_position(report["log_head"]).n >= len(told.changes)
    assert _missing(tmp_path / "data", told) == []


def _processes_below(pid: int) -> set[int]:
    """All processes that descend from one, as the kernel shows them."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(fields[1])
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # one that waits to be reaped has ended


def _until_ended(pids: set[int], *, all_of_them: bool) -> None:
    """Until all of the processes have ended, or one of them."""
    deadline_s = time.monotonic() + 10
    allowed = 0 if all_of_them else len(pids) - 1
    while time.monotonic() < deadline_s and sum(map(_alive, pids)) > allowed:
        os.sched_yield()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
async def test_killed_service_leaves_no_worker_processes(tmp_path: Path) -> None:
    service = Service(tmp_path / "data")
    service.start()
    async with clients_of(service.url) as clients:
        uploaded = await clients.admin.send("POST", "/v1/models", data=ring_stl(8.0, 1.5, 0, 0.0))
    below = _processes_below(service.pid)
    service.kill()
    assert uploaded.status == 201, uploaded
    assert len(below) >= 2, "the workers that read models"
    _until_ended(below, all_of_them=True)
    assert [pid for pid in below if _alive(pid)] == []
