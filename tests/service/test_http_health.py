"""Health, metrics, request ids, and what a request to no known address gets."""

import json
import re
from pathlib import Path

import pytest

from tests.support.processes import ADMIN_TOKEN, Clients, Service, clients_of, served
from tests.support.workshop import Workshop, problem


async def test_a_ready_service_says_so_with_every_dependency(clients: Clients) -> None:
    reply = await clients.nobody.get("/readyz")
    body = reply.json
    assert (reply.status, body["status"], body["troubles"]) == (200, "ready", [])
    assert body["dependencies"].keys() == {"database", "files", "log", "redis"}
    assert body["dependencies"]["database"]["state"] == "up"
    assert body["dependencies"]["log"]["state"] == "up"
    assert body["dependencies"]["redis"]["state"] == "none"
    assert reply.headers["Cache-Control"] == "no-store"
    assert (await clients.nobody.get("/livez")).json == {"status": "alive"}
    assert (await clients.nobody.get("/startupz")).json == {"status": "started"}


async def samples(clients: Clients) -> dict[str, float]:
    reply = await clients.nobody.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in reply.raw.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_count_what_happens(workshop: Workshop) -> None:
    before = await samples(workshop.clients)
    order = await workshop.order()
    await workshop.shop.get("/v1/orders?status=INITIATED")
    for _ in range(3):
        assert (await workshop.shop.get(f"/v1/orders/{order['id']}")).status == 200
    await workshop.shop.get("/v1/orders/0190a1b2-0000-7000-8000-000000000000")
    after = await samples(workshop.clients)

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    route = 'method="GET",route="/v1/orders/{id}"'
    assert grew(f'facet_http_requests_total{{{route},status="200"}}') == 3
    assert grew(f'facet_http_requests_total{{{route},status="404"}}') == 1
    assert grew(f"facet_http_request_duration_seconds_count{{{route}}}") == 4
    assert grew("facet_local_hits_total") >= 3
    assert grew("facet_log_entries_total") == 1
    assert grew('facet_orders{status="INITIATED"}') == 1
    assert after['facet_orders_oldest_age_seconds{status="INITIATED"}'] >= 0
    assert after["facet_database_up"] == 1


async def test_all_metrics_have_the_prefix_and_no_id_is_a_label(workshop: Workshop) -> None:
    order = await workshop.order()
    await workshop.shop.get(f"/v1/orders/{order['id']}")
    found = await samples(workshop.clients)
    assert all(name.startswith("facet_") for name in found)
    assert order["id"] not in str(found.keys())


async def test_metrics_are_for_administrators_when_the_setting_says_so(tmp_path: Path) -> None:
    with served(tmp_path / "data", FACET_METRICS_PROTECTED="1") as service:
        async with clients_of(service.url) as clients:
            problem(await clients.nobody.get("/metrics"), 401, "unauthenticated")
            problem(await (await clients.of("shop")).get("/metrics"), 403, "forbidden")
            assert (await clients.admin.get("/metrics")).status == 200


# --- Request ids


@pytest.mark.parametrize("given", ["a", "trace-1.2:3_4", "X" * 64])
async def test_a_callers_request_id_comes_back(clients: Clients, given: str) -> None:
    for path in ("/livez", "/v1/me", "/v1/nothing"):
        reply = await clients.admin.get(path, headers={"X-Request-Id": given})
        assert reply.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", " ", "X" * 65, 'a"b', "a b", "\u00e9", "<script>"])
async def test_a_request_id_that_is_not_plain_is_replaced(clients: Clients, given: str) -> None:
    reply = await clients.admin.get("/v1/nothing", headers={"X-Request-Id": given})
    members = problem(reply, 404, "not_found")
    assert members["request_id"] != given
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9]+", members["request_id"])


async def test_request_ids_differ(clients: Clients) -> None:
    ids = {(await clients.nobody.get("/livez")).headers["X-Request-Id"] for _ in range(5)}
    assert len(ids) == 5


# --- Addresses and methods


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/orders/", "/v2/orders", "/favicon.ico", "/v1/orders/x/y"]
)
async def test_an_unknown_address_is_not_found(clients: Clients, path: str) -> None:
    problem(await clients.admin.get(path), 404, "not_found")


METHODS = {
    "/v1/orders": {"GET", "HEAD", "POST"},
    "/v1/orders/counts": {"GET", "HEAD"},
    "/v1/orders/x": {"GET", "HEAD", "PATCH"},
    "/v1/orders/x/status": {"GET", "HEAD", "PUT"},
    "/v1/orders/x/take": {"POST"},
    "/v1/prices": {"POST"},
    "/v1/price-lists": {"GET", "HEAD", "POST"},
    "/v1/price-lists/current": {"GET", "HEAD"},
    "/v1/tokens/x": {"DELETE"},
    "/livez": {"GET", "HEAD"},
    "/": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", METHODS)
@pytest.mark.parametrize("method", ["DELETE", "PUT", "OPTIONS", "TRACE", "PROPFIND"])
async def test_a_method_that_an_address_lacks_is_answered_with_those_it_has(
    clients: Clients, path: str, method: str
) -> None:
    if method in METHODS[path]:
        return
    reply = await clients.admin.send(method, path)
    problem(reply, 405, "method_not_allowed")
    assert set(reply.headers["Allow"].split(", ")) == METHODS[path]


async def test_head_is_get_without_the_body(workshop: Workshop) -> None:
    order = await workshop.order()
    for path in (f"/v1/orders/{order['id']}", "/v1/orders?limit=1", "/livez", "/docs", "/openapi.json"):
        got, head = await workshop.shop.get(path), await workshop.shop.send("HEAD", path)
        assert (head.status, head.raw) == (200, b"")
        assert head.headers["Content-Length"] == str(len(got.raw))
        assert head.headers.get("ETag") == got.headers.get("ETag")
    missing = await workshop.shop.send("HEAD", "/v1/nothing")
    assert (missing.status, missing.raw) == (404, b"")


async def test_nothing_that_was_asked_here_made_the_service_fail(service: Service) -> None:
    lines = [json.loads(line) for line in service.log_text().splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert ADMIN_TOKEN not in service.log_text()
