"""The database's writer is blocked for seconds: changes are acknowledged and seen all the same."""

import asyncio
import json
import sqlite3
import statistics
import time

import pytest

from tests.support.processes import Client, Clients, Reply, Service
from tests.support.stalls import query, stalled

CHANGES, CALLERS = 200, 32


async def approved(clients: Clients, count: int) -> list[str]:
    """Ids of orders that an operator may take."""

    async def one() -> str:
        order_id: str = (await clients.admin.post("/v1/orders", {"customer": "Anna"})).json["id"]
        body = {"status": "MANUFACTURING_APPROVED", "comment": "paid on the telephone"}
        reply = await clients.admin.put(f"/v1/orders/{order_id}/status", body)
        assert reply.status == 200, reply
        return order_id

    return await asyncio.gather(*(one() for _ in range(count)))


async def created(clients: Clients, count: int) -> list[str]:
    replies = await asyncio.gather(
        *(clients.admin.post("/v1/orders", {"customer": "Anna"}) for _ in range(count))
    )
    assert {reply.status for reply in replies} == {201}
    return [reply.json["id"] for reply in replies]


async def until_flushed(clients: Clients) -> None:
    """Waits by asking for a change that is answered only when the database has everything before it."""
    async with asyncio.timeout(20):
        while (await clients.admin.get("/v1/cache")).json["lag"]["entries"]:
            headers = {"Prefer": "durability=database"}
            await clients.admin.post("/v1/orders", {"customer": "Last"}, headers=headers)


async def advance_all(shop: Client, ids: list[str]) -> list[tuple[Reply, float]]:
    """Submit a model for each order, 32 at once; the answers with their seconds."""
    free = asyncio.Semaphore(CALLERS)

    async def one(order_id: str) -> tuple[Reply, float]:
        async with free:
            began_s = time.perf_counter()
            reply = await shop.put(f"/v1/orders/{order_id}/status", {"status": "FILE_UPLOADED"})
            return reply, time.perf_counter() - began_s

    return await asyncio.gather(*(one(order_id) for order_id in ids))


async def test_changes_are_acknowledged_and_readable_while_the_database_is_blocked(
    service: Service, clients: Clients
) -> None:
    shop, ids = await clients.of("shop"), await created(clients, CHANGES)
    await until_flushed(clients)
    with stalled(service.data_dir):
        answers = await advance_all(shop, ids)
        assert {reply.status for reply, _ in answers} == {200}
        assert {reply.headers["Durability"] for reply, _ in answers} == {"log"}
        for order_id in ids:
            seen = (await shop.get(f"/v1/orders/{order_id}")).json
            assert (seen["version"], seen["status"]) == (2, "FILE_UPLOADED")
        statement = "SELECT DISTINCT version, status FROM orders WHERE id IN (SELECT value FROM json_each(?))"
        rows = query(service.data_dir, statement, json.dumps(ids))
        assert rows == [(1, "INITIATED")]
    p99_s = statistics.quantiles([seconds for _, seconds in answers], n=100)[98]
    print(f"p99 of {CHANGES} acknowledgements with a blocked database: {p99_s * 1000:.0f} ms")
    await until_flushed(clients)
    stored = query(
        service.data_dir, "SELECT order_id, count(*) FROM order_history WHERE version = 2 GROUP BY order_id"
    )
    assert dict.fromkeys(ids, 1).items() <= dict(stored).items()


async def test_lists_and_counts_show_a_change_that_the_database_lacks(
    service: Service, clients: Clients
) -> None:
    (order_id,) = await created(clients, 1)
    await until_flushed(clients)
    before = (await clients.admin.get("/v1/orders/counts")).json["counts"]["SUBMITTED"]
    with stalled(service.data_dir):
        for status in ("FILE_UPLOADED", "SUBMITTED"):
            await clients.admin.put(f"/v1/orders/{order_id}/status", {"status": status})
        rows = (await clients.admin.get("/v1/orders?status=SUBMITTED")).json["items"]
        counts = (await clients.admin.get("/v1/orders/counts")).json["counts"]
        assert [row["version"] for row in rows if row["id"] == order_id] == [3]
        assert counts["SUBMITTED"] == before + 1


async def test_cache_shows_an_order_as_pending_until_the_database_has_it(
    service: Service, clients: Clients
) -> None:
    (order_id,) = await created(clients, 1)
    await until_flushed(clients)
    path = f"/v1/cache/orders/{order_id}"
    with stalled(service.data_dir):
        await clients.admin.put(f"/v1/orders/{order_id}/status", {"status": "FILE_UPLOADED"})
        shown = (await clients.admin.get(path)).json
        assert shown["state"] == "pending"
        assert (shown["local"]["version"], shown["shared"]["version"]) == (2, 2)
        assert shown["database"] == {"version": 1, "status": "INITIATED"}
    await until_flushed(clients)
    shown = (await clients.admin.get(path)).json
    assert shown["state"] == "persisted"
    assert shown["database"] == {"version": 2, "status": "FILE_UPLOADED"}
    assert shown["local"]["version"] == 2
    rows = query(service.data_dir, "SELECT version, status FROM orders WHERE id = ?", order_id)
    assert rows == [(2, "FILE_UPLOADED")]


async def test_take_is_not_confirmed_before_the_database_has_it(service: Service, clients: Clients) -> None:
    (order_id,) = await approved(clients, 1)
    await until_flushed(clients)
    ivan, olga = await clients.of("operator", "ivan"), await clients.of("operator", "olga")
    path, key = f"/v1/orders/{order_id}/take", {"Idempotency-Key": "ivan-takes"}
    with stalled(service.data_dir):
        first = await ivan.post(path, headers=key)
        assert (first.status, first.json["code"]) == (503, "outcome_unknown")
        assert "Retry-After" in first.headers
        loser = await olga.post(path)
        assert (loser.status, loser.json["code"], loser.json["operator"]) == (409, "already_taken", "ivan")
        assert query(service.data_dir, "SELECT operator FROM orders WHERE id = ?", order_id) == [(None,)]
    retry = await ivan.post(path, headers=key)
    assert (retry.status, retry.headers["Durability"]) == (200, "database")
    assert retry.json["operator"] == "ivan"
    takes = query(
        service.data_dir,
        "SELECT actor, idempotency_key FROM order_history WHERE order_id = ? AND kind = 'take'",
        order_id,
    )
    assert takes == [("ivan", "ivan-takes")]


async def test_retried_take_joins_the_wait_and_is_confirmed_once_the_database_is_back(
    service: Service, clients: Clients
) -> None:
    (order_id,) = await approved(clients, 1)
    await until_flushed(clients)
    ivan = await clients.of("operator", "ivan-2")
    path = f"/v1/orders/{order_id}/take"
    with stalled(service.data_dir):
        takes = [asyncio.create_task(ivan.post(path, headers={"Idempotency-Key": "t"})) for _ in range(3)]
        async with asyncio.timeout(5):
            while (await clients.admin.get(f"/v1/orders/{order_id}")).json["version"] != 3:
                pass
        assert not any(take.done() for take in takes)
    replies = await asyncio.gather(*takes)
    assert {(reply.status, reply.json["version"]) for reply in replies} == {(200, 3)}


async def test_service_calls_itself_degraded_while_the_database_is_blocked(
    service: Service, clients: Clients
) -> None:
    (order_id,) = await created(clients, 1)
    with stalled(service.data_dir):
        await clients.admin.put(f"/v1/orders/{order_id}/status", {"status": "FILE_UPLOADED"})
        async with asyncio.timeout(10):
            while (ready := (await clients.nobody.get("/readyz"))).json["status"] == "ready":
                pass
        assert (ready.status, ready.json["troubles"]) == (200, ["database"])
    await until_flushed(clients)
    assert (await clients.nobody.get("/readyz")).json["status"] == "ready"


def test_stall_really_blocks_other_writers(service: Service) -> None:
    """What the tests above rest on."""
    with stalled(service.data_dir):
        other = sqlite3.connect(service.data_dir / "facet.db", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE orders SET note = 'x'")
        other.close()
