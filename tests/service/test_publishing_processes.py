"""A price list or a metal fix published on one process: every process prices by it at once, issued quotes
stay as they are, and no model is read again."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply, Service, clients_of, served

PROCESSES = 3
SEEN_S = 1.0
"""In this time every process prices by what was published."""

RING = binary_stl(torus(9.25))
SHA256 = hashlib.sha256(RING).hexdigest()
ASK = {"material": "gold-585-yellow", "quantity": "2"}


@pytest.fixture
def services(tmp_path: Path, engines: dict[str, str]) -> Iterator[list[Service]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(served(tmp_path / f"process-{number}", **engines))
            for number in range(PROCESSES)
        ]


@pytest.fixture
async def admins(services: list[Service]) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [(await stack.enter_async_context(clients_of(service.url))).admin for service in services]


async def by_hash(client: Client, position: str | None = None) -> Any:
    headers = {"Facet-Position": position} if position else {}
    reply = await client.get(f"/v1/models/{SHA256}/price", params=ASK, headers=headers)
    assert reply.status == 200, reply
    return reply.json["price"]


async def computed(clients: list[Client]) -> int:
    """Models read by all processes together, ever."""
    total = 0
    for client in clients:
        lines = (await client.get("/metrics")).raw.decode().splitlines()
        (line,) = [line for line in lines if line.startswith("facet_model_computations_total ")]
        total += int(float(line.split()[1]))
    return total


async def published(client: Client, kind: str) -> tuple[str, Reply]:
    """A dearer version of what is current."""
    current = (await client.get(f"/v1/{kind}/current")).json
    version = f"test {uuid4()}"
    if kind == "price-lists":
        dearer = current | {"version": version, "rates": current["rates"] | {"markup": "0.50"}}
    else:
        dearer = current | {"version": version, "gold_per_oz": "4000.00"}
    reply = await client.post(f"/v1/{kind}", dearer)
    assert reply.status == 201, reply
    return version, reply


async def upload(client: Client) -> Any:
    reply = await client.send("POST", "/v1/prices", data=RING, params=ASK)
    assert reply.status == 200, reply
    return reply.json["price"]


async def test_what_is_published_on_one_process_is_what_all_price_by(admins: list[Client]) -> None:
    before = await upload(admins[0])
    position = (await admins[0].get(f"/v1/prices/{before['id']}")).headers["Facet-Position"]
    assert [await by_hash(admin, position) for admin in admins] == [before] * PROCESSES
    issued = [before]
    for publisher, kind, field in ((1, "price-lists", "price_list"), (2, "metal-fixes", "metal_fix")):
        version, reply = await published(admins[publisher], kind)
        await seen_by_all(admins, field, version)
        issued.append(await dearer_everywhere(admins, issued[-1]))
        await unchanged(admins, issued, reply.headers["Facet-Position"])
    await at_once_for_who_names_the_position(admins)
    assert await computed(admins) == 1


async def seen_by_all(admins: list[Client], field: str, version: str) -> None:
    async with asyncio.timeout(SEEN_S):
        for admin in admins:
            while (await by_hash(admin))[field] != version:
                pass  # each question takes its time: this does not spin


async def dearer_everywhere(admins: list[Client], before: Any) -> Any:
    """One new quote for all, by hash and by upload."""
    after = [await by_hash(admin) for admin in admins] + [await upload(admin) for admin in admins]
    assert after == [after[0]] * (2 * PROCESSES)
    assert after[0]["id"] != before["id"]
    assert Decimal(after[0]["net"]["amount"]) > Decimal(before["net"]["amount"])
    return after[0]


async def unchanged(admins: list[Client], issued: list[Any], position: str) -> None:
    """Quotes by id are what they were, on processes that know what was published."""
    for quote in issued:
        for admin in admins:
            shown = await admin.get(f"/v1/prices/{quote['id']}", headers={"Facet-Position": position})
            assert shown.json == quote


async def at_once_for_who_names_the_position(admins: list[Client]) -> None:
    for number in range(5):
        version, reply = await published(admins[number % PROCESSES], "price-lists")
        position = reply.headers["Facet-Position"]
        asked = await asyncio.gather(*(by_hash(admin, position) for admin in admins))
        assert [price["price_list"] for price in asked] == [version] * PROCESSES
