"""A second opinion about every model: what callers see of it, and that nothing is sold against it."""

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service.test_pool import children, fork_servers
from tests.support.gates import until, until_true
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply, Service, clients_of, served
from tests.support.stalls import query
from tests.support.workshop import Workshop, problem

ASK = {"material": "gold-585-yellow"}
WAIT = {"Prefer": "wait=60"}


def a_ring(around: int = 24) -> bytes:
    return binary_stl(torus(9.0 + np.random.default_rng().random(), around=around))


async def price(client: Client, body: bytes, headers: dict[str, str] | None = None) -> Any:
    reply = await client.send("POST", "/v1/prices", data=io.BytesIO(body), params=ASK, headers=headers)
    assert reply.status == 200, reply
    return reply.json


async def by_hash(client: Client, sha256: str, headers: dict[str, str] | None = None) -> Reply:
    return await client.get(f"/v1/models/{sha256}/price", params=ASK, headers=headers or {})


async def verified(client: Client, sha256: str) -> Any:
    reply = await by_hash(client, sha256, WAIT)
    assert reply.status == 200, reply
    return reply.json["model"]["verification"]


async def test_the_first_answer_does_not_wait_and_a_later_one_has_the_opinion(workshop: Workshop) -> None:
    first = await price(workshop.mes, a_ring())
    sha256 = first["model"]["sha256"]
    etag = (await by_hash(workshop.mes, sha256)).headers["ETag"]
    assert first["model"]["verification"] == {"state": "pending"}
    assert first["price"]["verification"] == "pending"
    found = await verified(workshop.mes, sha256)
    assert (found["state"], found["closed"], found["bodies"]) == ("agreed", True, 1)
    assert found["by"].startswith("trimesh 5")
    assert found["volume_mm3"] == pytest.approx(first["model"]["volume_mm3"], rel=1e-6)
    later = await by_hash(workshop.mes, sha256, {"If-None-Match": etag})
    assert (later.status, later.json["model"]["verification"]) == (200, found)
    assert later.json["price"] == first["price"]  # as it was issued
    model = await workshop.mes.get(f"/v1/models/{sha256}")
    assert model.json["model"]["verification"] == found


async def test_who_prefers_to_wait_is_told_at_once(workshop: Workshop) -> None:
    first = await price(workshop.mes, a_ring(), WAIT)
    assert first["model"]["verification"]["state"] == first["price"]["verification"] == "agreed"


async def test_the_price_of_an_order_waits_for_the_opinion(workshop: Workshop) -> None:
    quoted = await price(workshop.mes, a_ring())
    assert quoted["price"]["verification"] == "pending"
    order = await workshop.order("SUBMITTED", quote=quoted["price"]["id"])
    reply = await workshop.step(order["id"], "PRICE_CALCULATED")
    assert (reply.status, reply.json["price"]["source"]) == (200, "quote"), reply
    assert (await verified(workshop.mes, quoted["model"]["sha256"]))["state"] == "agreed"


async def test_without_its_file_a_model_has_no_opinion_and_nobody_waits(tmp_path: Path) -> None:
    with served(tmp_path / "data") as service:
        async with clients_of(service.url) as clients:
            sha256 = (await price(clients.admin, a_ring()))["model"]["sha256"]
            for path in (service.data_dir / "models").rglob(sha256):
                path.unlink()
            found = await verified(clients.admin, sha256)
    assert (found["state"], "no longer kept" in found["reason"]) == ("not_possible", True)


async def test_only_administrators_see_and_decide(workshop: Workshop) -> None:
    sha256 = (await price(workshop.mes, a_ring(), WAIT))["model"]["sha256"]
    for client in (workshop.mes, workshop.partner):
        problem(await client.get("/v1/models?verification=differs"), 403, "forbidden")
        problem(await client.put(f"/v1/models/{sha256}/verification", {"accepted": True}), 403, "forbidden")
    problem(await workshop.admin.get("/v1/models"), 422, "invalid")
    problem(await workshop.admin.get("/v1/models?verification=agreed"), 422, "invalid")
    decided = await workshop.admin.put(f"/v1/models/{sha256}/verification", {"accepted": True})
    problem(decided, 409, "nothing_to_decide")


# --- Two servers, with a fault in their workers


@pytest.fixture
def planted(
    tmp_path: Path, engines: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[tuple[Service, Service]]:
    settings = engines | {"TEST_PLANT_WORKERS": request.param}
    with served(tmp_path / "one", **settings) as one, served(tmp_path / "two", **settings) as two:
        yield one, two


@contextlib.asynccontextmanager
async def workshops(pair: tuple[Service, Service]) -> AsyncIterator[tuple[Workshop, Workshop]]:
    async with clients_of(pair[0].url) as one, clients_of(pair[1].url) as two:
        here, there = Workshop(one), Workshop(two)
        await here.open()
        await there.open()
        yield here, there


@pytest.mark.parametrize("planted", ["half_a_permille_more"], indirect=True)
async def test_what_only_a_second_opinion_can_see_withdraws_the_quote_everywhere(
    planted: tuple[Service, Service],
) -> None:
    async with workshops(planted) as (here, there):
        quoted = await price(here.mes, a_ring())
        quote, sha256 = quoted["price"]["id"], quoted["model"]["sha256"]
        assert quoted["price"]["priceable"] == "auto"
        orders = [await shop.order("SUBMITTED", quote=quote) for shop in (here, there)]
        found = await verified(there.mes, sha256)
        assert (found["state"], "The volume is" in found["reason"]) == ("differs", True)
        for shop, order in zip((here, there), orders, strict=True):
            reply = await shop.mes.put(f"/v1/orders/{order['id']}/status", {"status": "PRICE_CALCULATED"})
            problem(reply, 422, "quote_withdrawn")
            ordered = await shop.shop.post("/v1/orders", {"customer": "anna", "quote": quote})
            problem(ordered, 422, "quote_withdrawn")
            shown = await shop.mes.get(f"/v1/prices/{quote}")
            assert (shown.json["net"], bool(shown.json["withdrawn"])) == (quoted["price"]["net"], True)
            anew = (await by_hash(shop.mes, sha256)).json["price"]
            assert (anew["priceable"], anew["net"], anew["id"] != quote) == ("manual", None, True)
            assert "second_opinion_differs" in [warning["code"] for warning in anew["warnings"]]
            listed = (await shop.admin.get("/v1/models?verification=differs")).json["items"]
            assert [model["sha256"] for model in listed] == [sha256]
        await decided_by_hand(here, there, quoted, orders)


async def decided_by_hand(here: Workshop, there: Workshop, quoted: Any, orders: list[Any]) -> None:
    sha256 = quoted["model"]["sha256"]
    said = {"accepted": True, "comment": "measured again"}
    decided = await here.admin.put(f"/v1/models/{sha256}/verification", said)
    assert decided.status == 200, decided
    position = decided.headers["Facet-Position"]
    for shop, order in zip((here, there), orders, strict=True):
        model = await shop.mes.get(f"/v1/models/{sha256}", headers={"Facet-Position": position})
        shown = model.json["model"]["verification"]
        assert (shown["state"], shown["decided"]["by"], shown["decided"]["comment"]) == (
            "differs",
            "admin",
            "measured again",
        )
        assert (await shop.admin.get("/v1/models?verification=differs")).json["items"] == []
        assert "withdrawn" not in (await shop.mes.get(f"/v1/prices/{quoted['price']['id']}")).json
        stepped = await shop.step(order["id"], "PRICE_CALCULATED")
        assert stepped.json["price"]["net"] == quoted["price"]["net"]


@pytest.mark.parametrize("planted", ["one_percent_more", "facet_dropped"], indirect=True)
async def test_a_fault_of_ours_differs_on_every_process(planted: tuple[Service, Service]) -> None:
    async with workshops(planted) as (here, there):
        sha256 = (await price(here.mes, a_ring()))["model"]["sha256"]
        for shop in (there, here):
            assert (await verified(shop.mes, sha256))["state"] == "differs"
            quoted = (await by_hash(shop.mes, sha256)).json["price"]
            assert (quoted["priceable"], quoted["net"]) == ("manual", None)
            order = await shop.order("SUBMITTED", model=sha256, **ASK)
            reply = await shop.mes.put(f"/v1/orders/{order['id']}/status", {"status": "PRICE_CALCULATED"})
            problem(reply, 409, "not_priceable")


# --- Killed in between


def opinion_workers(service: Service) -> list[int]:
    """Those of the pool that gives way to all others."""
    workers = [worker for server in fork_servers(service.pid) for worker in children(server)]
    return [pid for pid in workers if niceness_of(pid) == 19]


def niceness_of(pid: int) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
    return None


async def test_a_killed_worker_costs_no_opinion_and_a_killed_server_finds_it_again(tmp_path: Path) -> None:
    service = Service(tmp_path / "data")
    service.start()
    async with clients_of(service.url) as clients:
        body = a_ring(around=1500)
        sha256 = (await price(clients.admin, body))["model"]["sha256"]
        asking = asyncio.create_task(verified(clients.admin, sha256))
        await until(lambda: opinion_workers(service))
        os.kill(opinion_workers(service)[0], signal.SIGKILL)
        assert (await asking)["state"] == "agreed"
        last = (await price(clients.admin, a_ring()))["model"]["sha256"]
        await until_true(lambda: _is_stored(service, last))
    service.kill()
    service.start()
    async with clients_of(service.url) as clients:
        assert (await verified(clients.admin, last))["state"] == "agreed"
        assert (await verified(clients.admin, sha256))["state"] == "agreed"
    service.stop()


async def _is_stored(service: Service, sha256: str) -> bool:
    return bool(query(service.data_dir, "SELECT 1 FROM models WHERE sha256 = ?", sha256))
