"""Stones over HTTP: asked for in the query, lines of the quote, kept with the order that names the quote."""

import hashlib
from typing import Any

import numpy as np
import pytest

from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply
from tests.support.workshop import Workshop, problem

ASK = {"material": "gold-585-yellow", "stones": "zirconia-large:1,own-small:12"}


def a_ring() -> bytes:
    """A ring that no other test has sent."""
    return binary_stl(torus(9.0 + np.random.default_rng().random()))


async def price(client: Client, body: bytes, **query: str) -> Reply:
    return await client.send("POST", "/v1/prices", data=body, params=ASK | query)


def line(quote: Any, code: str) -> str:
    (found,) = [line["amount"]["amount"] for line in quote["lines"] if line["code"] == code]
    return str(found)


async def test_stones_are_in_the_quote_and_its_lines(workshop: Workshop) -> None:
    body = a_ring()
    quote = (await price(workshop.shop, body)).json["price"]
    assert quote["stones"] == [{"code": "own-small", "count": 12}, {"code": "zirconia-large", "count": 1}]
    assert (line(quote, "stones"), line(quote, "setting")) == ("2.20", "60.00")
    other = (await price(workshop.shop, body, stones="own-small:12, zirconia-large:1")).json["price"]
    without = (await price(workshop.shop, body, stones="")).json["price"]
    by_hash = await workshop.shop.get(f"/v1/models/{hashlib.sha256(body).hexdigest()}/price", params=ASK)
    assert other == by_hash.json["price"] == quote
    assert (without["stones"], without["id"] == quote["id"]) == ([], False)


@pytest.mark.parametrize(
    ("stones", "code"),
    [
        ("own-small", "malformed_stones"),
        ("own-small:0", "stones_out_of_range"),
        ("moonstone:1", "unknown_stone"),
        ("x" * 3_000, "invalid"),
    ],
)
async def test_what_cannot_be_set_is_refused(workshop: Workshop, stones: str, code: str) -> None:
    problem(await price(workshop.shop, b"never looked at", stones=stones), 422, code)


async def test_an_order_is_priced_with_the_stones_of_its_quote(workshop: Workshop) -> None:
    quote = (await price(workshop.shop, a_ring(), rush="true")).json["price"]
    order = await workshop.order("SUBMITTED", quote=quote["id"])
    priced = (await workshop.step(order["id"], "PRICE_CALCULATED")).json["price"]
    assert (priced["source"], priced["gross"]) == ("quote", quote["gross"])


async def test_materials_name_the_stones_with_what_they_cost(workshop: Workshop) -> None:
    shown = {row["code"]: row for row in (await workshop.customer.get("/v1/materials")).json["stones"]}
    assert shown["own-small"] == {
        "code": "own-small",
        "name": "Customer's stone up to 2 mm, set",
        "price_each": "0",
        "setting_each": "3.50",
    }
