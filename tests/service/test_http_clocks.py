"""Servers on machines whose clocks are wrong: no answer depends on it, and somebody is told."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Client, Clients, Service, clients_of, served
from tests.support.workshop import Workshop

BEHIND_S, AHEAD_S = -120.0, 400.0
ORDERS = 7


@pytest.fixture
def three(tmp_path: Path, engines: dict[str, str]) -> Iterator[list[Service]]:
    with (
        served(tmp_path / "right", **engines) as right,
        served(tmp_path / "behind", TEST_SKEW_S=str(BEHIND_S), **engines) as behind,
        served(tmp_path / "ahead", TEST_SKEW_S=str(AHEAD_S), **engines) as ahead,
    ):
        yield [right, behind, ahead]


@pytest.fixture
async def clients(three: list[Service]) -> AsyncIterator[Clients]:
    async with clients_of(three[0].url) as clients:
        yield clients


async def walked(who: Client, path: str) -> list[Any]:
    rows: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await who.get(f"{path}&cursor={cursor}")).json
        rows += page["items"]
        cursor = page["next"]
    return rows


async def test_a_walk_by_the_last_change_loses_nothing_on_any_server(
    three: list[Service], clients: Clients
) -> None:
    shop = await clients.of("shop")
    ids = []
    for count in range(ORDERS):
        reply = await shop.at(three[count % 3].url).post("/v1/orders", {"customer": "anna"})
        ids.append(reply.json["id"])
    position = reply.headers["Facet-Position"]
    for service in three:
        there = shop.at(service.url)
        assert (await there.get("/v1/orders", headers={"Facet-Position": position})).status == 200
        for direction in ("", "-"):
            rows = await walked(there, f"/v1/orders?sort={direction}updated_at&limit=2")
            assert sorted(row["id"] for row in rows) == sorted(ids)


async def test_moments_of_one_order_never_go_back_and_are_the_same_everywhere(
    three: list[Service], clients: Clients
) -> None:
    workshop = Workshop(clients)
    await workshop.open()
    order = await workshop.order("PRICE_CALCULATED")
    moments = []
    for count in range(6):
        there = workshop.seller.at(three[count % 3].url)
        reply = await there.post(f"/v1/orders/{order['id']}/comments", {"comment": "looked at"})
        assert reply.status == 201, reply
        moments.append(datetime.fromisoformat(reply.json["updated_at"]))
    assert moments == sorted(moments)
    assert moments[-1] - moments[0] < timedelta(seconds=min(-BEHIND_S, AHEAD_S) / 2)
    undone = await workshop.mes.at(three[2].url).post(f"/v1/orders/{order['id']}/undo")
    assert undone.status == 200, undone  # within 30 s, by whichever clock


async def test_a_clock_that_is_far_off_is_told(three: list[Service], clients: Clients) -> None:
    told = []
    for service in three:
        ready = (await clients.nobody.at(service.url).get("/readyz")).json
        metrics = (await clients.nobody.at(service.url).get("/metrics")).raw.decode()
        line = next(row for row in metrics.splitlines() if row.startswith("facet_clock_difference_seconds "))
        assert abs(float(line.split()[1]) - ready["clock_difference_s"]) < 1
        told.append((round(ready["clock_difference_s"]), ready["troubles"]))
    assert told == [(0, []), (BEHIND_S, []), (AHEAD_S, ["clock"])]
