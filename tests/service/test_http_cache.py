"""The cache over HTTP: what it holds, invalidation by key, warming; and that no answer is ever older."""

import hashlib
from typing import Any

import numpy as np
import pytest

from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client
from tests.support.workshop import Workshop, problem

NOBODY_HAS_IT = "0190a1b2-0000-7000-8000-000000000000"
DURABLE = {"Prefer": "durability=database"}


async def report(workshop: Workshop) -> Any:
    reply = await workshop.admin.get("/v1/cache")
    assert reply.status == 200, reply
    return reply.json


async def source_of(client: Client, path: str) -> str:
    return (await client.get(path)).headers["Cache-Status"]


async def test_the_report_says_what_every_tier_holds(workshop: Workshop) -> None:
    before = await report(workshop)
    order = await workshop.order()
    for _ in range(3):
        await workshop.shop.get(f"/v1/orders/{order['id']}")
    after = await report(workshop)
    assert after["local"]["entries"] == before["local"]["entries"] + 1
    assert after["local"]["bytes"] > before["local"]["bytes"]
    assert after["local"]["hits"] >= before["local"]["hits"] + 3
    assert after["loads"] == before["loads"] | {"reference": after["loads"]["reference"]}
    assert int(after["log_head"].split("-")[1]) == int(before["log_head"].split("-")[1]) + 1
    assert after["lag"].keys() == {"entries", "seconds"}
    assert after["backlog"].keys() == {"entries", "bytes", "entries_max", "bytes_max", "age_s_max"}
    assert (after["dead_letters"], after["parked"]) == (0, [])


async def test_the_database_catches_up_with_the_log(workshop: Workshop) -> None:
    order = await workshop.order()
    await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "x"}, headers=DURABLE)
    after = await report(workshop)
    assert after["flushed"] == after["log_head"]
    assert (after["lag"]["entries"], after["backlog"]["entries"], after["pending"]) == (0, 0, 0)


async def test_an_order_is_served_locally_until_its_key_is_invalidated(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    path = f"/v1/orders/{order['id']}"
    edited = (await workshop.shop.patch(path, {"note": "kept"}, headers=DURABLE)).json
    assert await source_of(workshop.shop, path) == "facet; hit; detail=local"
    loads = (await report(workshop))["loads"]["order"]
    reply = await workshop.admin.delete(f"/v1/cache{path.removeprefix('/v1')}")
    assert (reply.status, reply.raw) == (204, b"")
    assert (await report(workshop))["loads"]["order"] == loads + 1
    assert (await workshop.shop.get(path)).json == edited


async def test_invalidation_never_loses_a_pending_change(workshop: Workshop) -> None:
    order = await workshop.order()
    for status in ("FILE_UPLOADED", "SUBMITTED", "PRICE_CALCULATED", "MANUFACTURING_APPROVED"):
        changed = (await workshop.step(order["id"], status)).json
        assert (await workshop.admin.delete(f"/v1/cache/orders/{order['id']}")).status == 204
        assert (await workshop.shop.get(f"/v1/orders/{order['id']}")).json == changed
        listed = await workshop.shop.get("/v1/orders", params={"status": status, "limit": "1"})
        assert listed.json["items"][0]["version"] == changed["version"]


async def test_each_tier_says_which_version_it_holds(workshop: Workshop) -> None:
    order = await workshop.order()
    await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "x"}, headers=DURABLE)
    held = (await workshop.admin.get(f"/v1/cache/orders/{order['id']}")).json
    assert (held["state"], held["local"]["version"], held["shared"]) == ("persisted", 2, None)
    assert held["database"] == {"version": 2, "status": "INITIATED"}
    assert held["local"]["age_s"] >= 0


@pytest.mark.parametrize("order_id", [NOBODY_HAS_IT, "x"])
async def test_an_order_that_nobody_has_is_held_nowhere(workshop: Workshop, order_id: str) -> None:
    problem(await workshop.admin.get(f"/v1/cache/orders/{order_id}"), 404, "not_found")
    problem(await workshop.admin.delete(f"/v1/cache/orders/{order_id}"), 404, "not_found")


async def test_a_forgotten_list_is_loaded_again_and_is_the_same(workshop: Workshop) -> None:
    await workshop.order(customer="list keeper")
    path = "/v1/orders?customer=list%20keeper"
    first = await workshop.shop.get(path)
    assert await source_of(workshop.shop, path) == "facet; hit; detail=local"
    assert (await workshop.admin.delete("/v1/cache/lists")).status == 204
    again = await workshop.shop.get(path)
    assert again.headers["Cache-Status"] == "facet; fwd=miss; stored"
    assert again.raw == first.raw


async def test_a_forgotten_model_is_read_again(workshop: Workshop) -> None:
    body = binary_stl(torus(9.0 + np.random.default_rng().random()))
    digest = hashlib.sha256(body).hexdigest()
    problem(await workshop.admin.delete(f"/v1/cache/models/{digest}"), 404, "unknown_model")
    uploaded = await workshop.partner.send("POST", "/v1/models", data=body)
    assert (await workshop.admin.delete(f"/v1/cache/models/{digest}")).status == 204
    assert (await workshop.partner.get(f"/v1/models/{digest}")).json == uploaded.json


async def test_a_warm_cache_answers_active_lists_without_the_database(workshop: Workshop) -> None:
    await workshop.order("SUBMITTED")
    assert (await workshop.admin.delete("/v1/cache/lists")).status == 204
    warmed = (await workshop.admin.post("/v1/cache/warm")).json
    assert warmed["orders"] >= 1
    assert warmed["lists"] > 10
    loads = (await report(workshop))["loads"]["list"]
    for path in (
        "/v1/orders?status=SUBMITTED",
        "/v1/orders",
        "/v1/orders/counts",
        "/v1/orders?status=SHIPPED",
    ):
        assert await source_of(workshop.shop, path) == "facet; hit; detail=local", path
    assert (await report(workshop))["loads"]["list"] == loads


async def test_the_first_request_after_a_start_misses_nothing_it_was_warmed_for(workshop: Workshop) -> None:
    reply = await workshop.shop.get("/v1/orders?status=PACKAGING")
    assert reply.headers["Cache-Status"] == "facet; hit; detail=local"


async def test_a_history_is_read_once_and_forgotten_at_a_change(workshop: Workshop) -> None:
    order = await workshop.order()
    await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "x"}, headers=DURABLE)
    path = f"/v1/orders/{order['id']}/history"
    assert await source_of(workshop.shop, path) == "facet; fwd=miss; stored"
    assert await source_of(workshop.shop, path) == "facet; hit; detail=local"
    await workshop.step(order["id"], "FILE_UPLOADED")
    assert [item["version"] for item in (await workshop.shop.get(path)).json["items"]] == [1, 2, 3]


async def test_there_are_no_dead_letters_and_none_to_replay(workshop: Workshop) -> None:
    assert (await workshop.admin.get("/v1/cache/dead-letters")).json == {"items": [], "next": None}
    problem(await workshop.admin.post("/v1/cache/dead-letters/1/replay"), 404, "not_found")


async def test_a_wrong_id_is_remembered_as_wrong_only_until_the_order_exists(workshop: Workshop) -> None:
    loads = (await report(workshop))["loads"]["order"]
    for _ in range(5):
        problem(await workshop.shop.get(f"/v1/orders/{NOBODY_HAS_IT}"), 404, "not_found")
    assert (await report(workshop))["loads"]["order"] <= loads + 1
