"""Batches of prices: every question answered by itself, new quotes together, the whole once."""

import asyncio
import hashlib
from typing import Any

import numpy as np
import pytest

from server.api.prices.batches import ITEMS_MAX
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply
from tests.support.workshop import SHA256_UNKNOWN, Workshop, new_key, pointers, problem

GOLD = {"material": "gold-585-yellow"}


async def uploaded(client: Client, triangles: Any = None) -> str:
    """The hash of a ring that no other test has sent."""
    body = binary_stl(torus(9.0 + np.random.default_rng().random()) if triangles is None else triangles)
    assert (await client.send("POST", "/v1/models", data=body)).status == 201
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
async def rings(workshop: Workshop) -> list[str]:
    return [await uploaded(workshop.partner) for _ in range(2)]


async def batch(client: Client, *items: Any, path: str = "/v1/price-batches", **options: Any) -> Reply:
    return await client.post(path, {"items": list(items)}, **options)


async def counted(workshop: Workshop, name: str) -> int:
    lines = (await workshop.nobody.get("/metrics")).raw.decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return int(float(line.split()[1]))


async def test_models_materials_and_quantities_are_priced_in_one_call(
    workshop: Workshop, rings: list[str]
) -> None:
    asked = [
        {"model": ring, "material": material, "quantity": quantity}
        for ring in rings
        for material in ("gold-585-yellow", "brass")
        for quantity in (1, 12)
    ]
    reply = await batch(workshop.partner, *asked)
    assert reply.status == 200, reply
    rows = reply.json["items"]
    assert [row["status"] for row in rows] == [200] * len(asked)
    for question, row in zip(asked, rows, strict=True):
        params = {name: str(value) for name, value in question.items() if name != "model"}
        alone = await workshop.partner.get(f"/v1/models/{question['model']}/price", params=params)
        assert row["price"] == alone.json["price"]


async def test_each_question_has_its_own_problem_and_spoils_no_other(
    workshop: Workshop, rings: list[str]
) -> None:
    foreign = await uploaded(workshop.mes)
    rows = (
        await batch(
            workshop.partner,
            {"model": rings[0]} | GOLD,
            {"model": SHA256_UNKNOWN} | GOLD,
            {"model": foreign} | GOLD,
            {"model": rings[0], "material": "kryptonite"},
            {"model": rings[0], "units": "ell"} | GOLD,
            {"model": rings[0], "quantity": 10_001} | GOLD,
            {"model": rings[1], "stones": "nonsense"} | GOLD,
            {"model": rings[1]} | GOLD,
        )
    ).json["items"]
    assert [row["status"] for row in rows] == [200, 404, 404, 422, 422, 422, 422, 200]
    codes = [row["problem"]["code"] for row in rows[1:-1]]
    assert codes == [
        "unknown_model",
        "unknown_model",
        "unknown_material",
        "unknown_unit",
        "quantity_out_of_range",
        "malformed_stones",
    ]
    assert all(row["problem"]["detail"] and "price" not in row for row in rows[1:-1])


async def test_a_document_that_is_no_batch_is_refused_as_a_whole(
    workshop: Workshop, rings: list[str]
) -> None:
    good = {"model": rings[0]} | GOLD
    refused = problem(await batch(workshop.partner, good, {"model": "x", "colour": "red"}), 422, "invalid")
    assert pointers(refused) >= {"/items/1/model", "/items/1/colour", "/items/1/material"}
    problem(await batch(workshop.partner, good | {"quantity": 0}), 422, "invalid")
    problem(await batch(workshop.partner), 422, "invalid")
    problem(await batch(workshop.partner, *[good] * (ITEMS_MAX + 1)), 422, "invalid")
    assert (await batch(workshop.partner, *[good] * ITEMS_MAX)).status == 200
    problem(await batch(workshop.customer, good), 403, "forbidden")


async def test_equal_questions_are_one_quote(workshop: Workshop, rings: list[str]) -> None:
    entries = await counted(workshop, "facet_log_entries_total")
    rows = (await batch(workshop.partner, *[{"model": rings[0]} | GOLD] * 5)).json["items"]
    assert len({row["price"]["id"] for row in rows}) == 1
    assert await counted(workshop, "facet_log_entries_total") == entries + 1


async def test_new_quotes_of_a_batch_are_written_together(workshop: Workshop, rings: list[str]) -> None:
    entries = await counted(workshop, "facet_log_entries_total")
    groups = await counted(workshop, "facet_log_groups_total")
    asked = [{"model": rings[0], "quantity": quantity} | GOLD for quantity in range(1, 101)]
    assert (await batch(workshop.partner, *asked)).status == 200
    assert await counted(workshop, "facet_log_entries_total") == entries + 100
    assert await counted(workshop, "facet_log_groups_total") <= groups + 50
    assert (await batch(workshop.partner, *asked)).status == 200
    assert await counted(workshop, "facet_log_entries_total") == entries + 100


async def test_a_repeated_keyed_batch_is_the_first_answer(workshop: Workshop, rings: list[str]) -> None:
    key, good = new_key(), {"model": rings[0]} | GOLD
    missing = {"model": SHA256_UNKNOWN} | GOLD
    first, second = await asyncio.gather(
        *(batch(workshop.partner, good, missing, headers=key) for _ in range(2))
    )
    again = await batch(workshop.partner, good, missing, headers=key)
    assert first.raw == second.raw == again.raw
    assert again.headers["Facet-Position"]
    problem(await batch(workshop.partner, good, headers=key), 422, "idempotency_key_reused")
    path = "/v1/price-batches?explain=1"
    problem(
        await batch(workshop.partner, good, missing, headers=key, path=path), 422, "idempotency_key_reused"
    )


async def test_a_batch_is_explained_on_demand(workshop: Workshop, rings: list[str]) -> None:
    item = {"model": rings[0]} | GOLD
    plain = (await batch(workshop.partner, item)).json["items"][0]["price"]
    (row,) = (await batch(workshop.partner, item, path="/v1/price-batches?explain=1")).json["items"]
    assert all(line["formula"] and line["variables"] for line in row["price"]["lines"])
    assert [line["amount"] for line in row["price"]["lines"]] == [line["amount"] for line in plain["lines"]]
