"""Bodies of a model that are no metal: in the question of a quote, in batches, in orders and on the page."""

import hashlib
import io
from typing import Any

import numpy as np
import pytest

from tests.support import meshes
from tests.support.processes import Reply
from tests.support.workshop import SHA256_UNKNOWN, Workshop, problem

ASK = {"material": "gold-585-yellow"}
STONE = meshes.cube(2.0, (8.0, -1.0, 0.5))


def a_ring() -> meshes.Triangles:
    return meshes.torus(9.0 + np.random.default_rng().random() / 10)


async def priced(workshop: Workshop, body: bytes, **query: str) -> Any:
    reply = await workshop.mes.send("POST", "/v1/prices", data=io.BytesIO(body), params=ASK | query)
    assert reply.status == 200, reply
    return reply.json


async def by_hash(workshop: Workshop, sha256: str, **query: str) -> Reply:
    return await workshop.mes.get(f"/v1/models/{sha256}/price", params=ASK | query)


async def test_a_stone_that_is_left_out_is_not_in_the_price(workshop: Workshop) -> None:
    ring = a_ring()
    body = meshes.binary_stl(np.concatenate([ring, STONE]))
    whole, alone = await priced(workshop, body), await priced(workshop, meshes.binary_stl(ring))
    assert [found["index"] for found in whole["model"]["bodies_found"]] == [1, 2]
    assert alone["model"]["bodies_found"] == []
    assert "leave_out" not in whole["price"]
    without = await priced(workshop, body, leave_out="2")
    assert without["model"]["bodies_found"] == whole["model"]["bodies_found"]
    assert without["price"]["leave_out"] == [2]
    assert without["price"]["net"] == alone["price"]["net"] != whole["price"]["net"]
    assert without["price"]["id"] != whole["price"]["id"]
    sha256 = whole["model"]["sha256"]
    assert (await by_hash(workshop, sha256, leave_out=" 2,2")).json["price"] == without["price"]
    assert (await by_hash(workshop, sha256)).json["price"] == whole["price"]
    explained = await workshop.mes.get(f"/v1/prices/{without['price']['id']}?explain=1")
    assert (explained.status, explained.json["net"]) == (200, alone["price"]["net"])


async def test_what_cannot_be_left_out_is_refused(workshop: Workshop) -> None:
    body = meshes.binary_stl(np.concatenate([a_ring(), STONE]))
    sha256 = (await priced(workshop, body))["model"]["sha256"]
    for wish, code in (("3", "unknown_body"), ("1,2", "no_facets"), ("x", "malformed_leave_out")):
        problem(await by_hash(workshop, sha256, leave_out=wish), 422, code)
    problem(await by_hash(workshop, sha256, leave_out="1" * 500), 422, "invalid")
    problem(await by_hash(workshop, SHA256_UNKNOWN, leave_out="1"), 404, "unknown_model")


async def test_batches_and_orders_leave_out_as_well(workshop: Workshop) -> None:
    body = meshes.binary_stl(np.concatenate([a_ring(), STONE]))
    sha256 = hashlib.sha256(body).hexdigest()
    quote = (await priced(workshop, body, leave_out="2"))["price"]
    items = [{"model": sha256} | ASK, {"model": sha256, "leave_out": "2"} | ASK]
    rows = (await workshop.mes.post("/v1/price-batches", {"items": items})).json["items"]
    assert [row["status"] for row in rows] == [200, 200]
    assert rows[1]["price"] == quote
    assert rows[0]["price"]["net"] != quote["net"]
    order = await workshop.order("SUBMITTED", quote=quote["id"])
    step = await workshop.step(order["id"], "PRICE_CALCULATED")
    assert (step.status, step.json["price"]["net"]) == (200, quote["net"])


@pytest.mark.parametrize(
    ("language", "words"),
    [("en", ("No metal", "Bodies in the file")), ("ru", ("Не металл", "Тела в файле"))],
)
async def test_the_page_asks_for_it_and_shows_the_bodies(
    workshop: Workshop, language: str, words: tuple[str, ...]
) -> None:
    body = meshes.binary_stl(np.concatenate([a_ring(), STONE]))
    quote = (await priced(workshop, body, leave_out="2"))["price"]
    cookie = {"Cookie": f"facet_token={workshop.mes.token}"}
    page = await workshop.nobody.get(f"/?quote={quote['id']}&lang={language}", headers=cookie)
    text = page.raw.decode()
    assert page.status == 200
    assert all(word in text for word in (*words, 'name="leave_out"'))
