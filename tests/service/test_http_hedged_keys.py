"""One request sent to several servers at once under one key: it happens once and has one answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import query
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply, Service, clients_of, served
from tests.support.workshop import Workshop

ROUNDS = 6


@pytest.fixture
def three(tmp_path: Path, engines: dict[str, str]) -> Iterator[list[Service]]:
    with (
        served(tmp_path / "one", **engines) as one,
        served(tmp_path / "two", **engines) as two,
        served(tmp_path / "three", **engines) as three,
    ):
        yield [one, two, three]


class Hedging:
    """Sends what the workshop sends to every server at once."""

    def __init__(self, workshop: Workshop, urls: list[str]) -> None:
        self.workshop = workshop
        self.urls = urls
        self._count = 0

    async def send(
        self, who: Client, method: str, path: str, *, headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[Reply, list[Reply]]:
        self._count += 1
        keyed = {"Idempotency-Key": f"hedged-{self._count}", **(headers or {})}
        replies = await asyncio.gather(
            *(who.at(url).send(method, path, headers=keyed, **body) for url in self.urls)
        )
        return replies[0], list(replies)


@pytest.fixture
async def hedging(three: list[Service]) -> AsyncIterator[Hedging]:
    async with clients_of(three[0].url) as clients:
        workshop = Workshop(clients)
        await workshop.open()
        position = (await clients.admin.get("/v1/orders")).headers["Facet-Position"]
        for service in three:  # every server has heard of the tokens
            seen = {"Facet-Position": position}
            assert (await clients.admin.at(service.url).get("/v1/orders", headers=seen)).status == 200
        yield Hedging(workshop, [service.url for service in three])


def assert_one_answer(replies: list[Reply], status: int) -> None:
    assert [reply.status for reply in replies] == [status] * len(replies), replies
    assert len({reply.raw for reply in replies}) == 1, replies


@pytest.mark.slow
async def test_everything_that_takes_a_key_answers_once_on_whichever_server(
    hedging: Hedging, engines: dict[str, str]
) -> None:
    workshop = hedging.workshop
    shop, ivan, admin = workshop.shop, workshop.ivan, workshop.admin
    for count in range(ROUNDS):
        new = {"customer": "anna", "reference": f"r-{count}"}
        created, replies = await hedging.send(shop, "POST", "/v1/orders", json=new)
        assert_one_answer(replies, 201)
        path, version = f"/v1/orders/{created.json['id']}", created.headers["ETag"]
        match = {"If-Match": version, "Facet-Position": created.headers["Facet-Position"]}
        _, replies = await hedging.send(shop, "PATCH", path, headers=match, json={"note": "n"})
        assert_one_answer(replies, 200)
        remarked, replies = await hedging.send(shop, "POST", f"{path}/comments", json={"comment": "c"})
        assert_one_answer(replies, 201)
        match = {"If-Match": remarked.headers["ETag"]}
        _, replies = await hedging.send(
            shop, "PUT", f"{path}/status", headers=match, json={"status": "FILE_UPLOADED"}
        )
        assert_one_answer(replies, 200)
        _, replies = await hedging.send(shop, "POST", f"{path}/undo")
        assert_one_answer(replies, 200)

        order = await workshop.order("MANUFACTURING_APPROVED")
        path = f"/v1/orders/{order['id']}"
        match = {"If-Match": f'"{order["version"]}"'}
        taken, replies = await hedging.send(ivan, "POST", f"{path}/take", headers=match)
        assert_one_answer(replies, 200)
        assert {reply.headers["Durability"] for reply in replies} == {"database"}
        match = {"If-Match": taken.headers["ETag"]}
        _, replies = await hedging.send(ivan, "POST", f"{path}/release", headers=match)
        assert_one_answer(replies, 200)

        token = {"role": "operator", "name": f"operator-{count}"}
        _, replies = await hedging.send(admin, "POST", "/v1/tokens", json=token)
        assert_one_answer(replies, 201)
        current = (await admin.get("/v1/price-lists/current")).json
        listed = {**current, "version": f"v-{count}"}
        _, replies = await hedging.send(admin, "POST", "/v1/price-lists", json=listed)
        assert_one_answer(replies, 201)
        fix = {**(await admin.get("/v1/metal-fixes/current")).json, "version": f"fix-{count}"}
        _, replies = await hedging.send(admin, "POST", "/v1/metal-fixes", json=fix)
        assert_one_answer(replies, 201)
        body = binary_stl(torus(8.0 + count))
        _, replies = await hedging.send(shop, "POST", "/v1/models", data=body)
        assert_one_answer(replies, 201)
        _, replies = await hedging.send(shop, "POST", "/v1/prices?material=gold-585-yellow", data=body)
        assert_one_answer(replies, 200)
    url = engines["FACET_DATABASE_URL"]
    await shop.post("/v1/orders", {"customer": "last"}, headers={"Prefer": "durability=database"})
    doubled = query(
        url,
        "SELECT idempotency_key, count(*) FROM order_history WHERE idempotency_key IS NOT NULL"
        " GROUP BY idempotency_key HAVING count(*) > 1",
    )
    assert not doubled
