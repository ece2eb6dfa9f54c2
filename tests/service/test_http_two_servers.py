"""Two servers over one Redis and one PostgreSQL: what is forgotten on one is read again on both."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.engines import execute
from tests.support.processes import Client, Clients, Service, clients_of, served


@pytest.fixture
def pair(tmp_path: Path, engines: dict[str, str]) -> Iterator[tuple[Service, Service]]:
    with served(tmp_path / "one", **engines) as one, served(tmp_path / "two", **engines) as two:
        yield one, two


@contextlib.asynccontextmanager
async def admins(pair: tuple[Service, Service]) -> AsyncIterator[tuple[Clients, Client, Client]]:
    async with clients_of(pair[0].url) as one, clients_of(pair[1].url) as two:
        yield one, one.admin, two.admin


async def opened(admin: Client) -> str:
    reply = await admin.post("/v1/orders", {"customer": "anna", "note": "first"})
    assert reply.status == 201, reply
    return str(reply.json["id"])


async def note_of(admin: Client, order_id: str, position: str | None = None) -> str:
    reply = await admin.get(
        f"/v1/orders/{order_id}", headers={"Facet-Position": position} if position else {}
    )
    assert reply.status == 200, reply
    return str(reply.json["note"])


async def test_an_order_forgotten_on_one_server_is_read_again_on_both(
    pair: tuple[Service, Service], engines: dict[str, str]
) -> None:
    async with admins(pair) as (_, one, two):
        order_id = await opened(one)
        kept = await one.patch(
            f"/v1/orders/{order_id}", {"note": "second"}, headers={"Prefer": "durability=database"}
        )
        position = kept.headers["Facet-Position"]
        assert [await note_of(admin, order_id, position) for admin in (one, two)] == ["second"] * 2
        execute(engines["FACET_DATABASE_URL"], "UPDATE orders SET note = 'by hand'")
        assert [await note_of(admin, order_id) for admin in (one, two)] == ["second"] * 2
        assert (await two.delete(f"/v1/cache/orders/{order_id}")).status == 204
        position = (await two.get(f"/v1/orders/{order_id}")).headers["Facet-Position"]
        assert [await note_of(admin, order_id, position) for admin in (one, two)] == ["by hand"] * 2
        listed = await one.get("/v1/orders", headers={"Facet-Position": position})
        assert listed.status == 200


async def test_a_pending_change_survives_being_forgotten_on_the_other_server(
    pair: tuple[Service, Service], engines: dict[str, str]
) -> None:
    async with admins(pair) as (_, one, two):
        order_id = await opened(one)
        connection = await asyncpg.connect(engines["FACET_DATABASE_URL"])
        try:
            await connection.execute("BEGIN")
            await connection.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")  # nothing is flushed now
            changed = await one.patch(f"/v1/orders/{order_id}", {"note": "pending"})
            assert (changed.status, changed.headers["Durability"]) == (200, "log")
            position = changed.headers["Facet-Position"]
            assert (await two.delete(f"/v1/cache/orders/{order_id}")).status == 204
            assert [await note_of(admin, order_id, position) for admin in (one, two)] == ["pending"] * 2
            seen = (await two.get(f"/v1/cache/orders/{order_id}")).json
            assert (seen["state"], seen["shared"]["version"], seen["shared"]["pending"]) == (
                "pending",
                2,
                True,
            )
        finally:
            await connection.close()
        assert [await note_of(admin, order_id, position) for admin in (one, two)] == ["pending"] * 2
