"""Handlers against the composed application: everything that serves, but for the sockets of the service."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from server.app import build
from server.config import load
from server.http.keys import STORAGE
from storage.data_directory import DataDirectory
from storage.database.records import StoredQuote

TOKEN = "an-admin-token-for-the-application"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client(aiohttp_client: Callable[..., Awaitable[Client]], tmp_path: Path) -> AsyncIterator[Client]:
    settings = load({"FACET_DATA_DIR": str(tmp_path / "data"), "FACET_ADMIN_TOKEN": TOKEN})
    settings = msgspec.structs.replace(settings, model_workers=0)
    failures: list[tuple[str, BaseException]] = []
    directory = DataDirectory(settings.data_dir)
    directory.create()
    with directory:
        app = build(settings, directory, lambda name, error: failures.append((name, error)))
        yield await aiohttp_client(app, headers={"Authorization": f"Bearer {TOKEN}"})
    assert failures == []


async def opened(client: Client, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/v1/orders", json={"customer": "anna", **fields})
    assert answer.status == 201
    order: dict[str, Any] = await answer.json()
    return order


async def test_an_order_is_shown_as_it_was_opened(client: Client) -> None:
    order = await opened(client, note="a ring", reference="R-1")
    answer = await client.get(f"/v1/orders/{order['id']}")
    assert (answer.status, await answer.json()) == (200, order)
    assert (order["status"], order["note"], order["version"]) == ("INITIATED", "a ring", 1)


async def test_who_has_the_version_already_gets_no_body(client: Client) -> None:
    order = await opened(client)
    answer = await client.get(f"/v1/orders/{order['id']}", headers={"If-None-Match": '"1"'})
    assert (answer.status, await answer.read()) == (304, b"")


async def test_a_step_moves_the_order_and_the_lists(client: Client) -> None:
    order = await opened(client)
    answer = await client.put(f"/v1/orders/{order['id']}/status", json={"status": "FILE_UPLOADED"})
    assert (answer.status, (await answer.json())["version"]) == (200, 2)
    listed = await (await client.get("/v1/orders", params={"status": "FILE_UPLOADED"})).json()
    assert [item["id"] for item in listed["items"]] == [order["id"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/orders/no-such-order", None, 404, "not_found"),
        ("GET", "/v1/orders?colour=red", None, 422, "invalid"),
        ("POST", "/v1/orders", {"customer": "anna", "colour": "red"}, 422, "invalid"),
        ("POST", "/v1/orders", {"customer": ""}, 422, "invalid"),
        ("DELETE", "/v1/orders", None, 405, "method_not_allowed"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
    ],
)
async def test_a_refusal_is_a_problem_document(
    client: Client, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = await client.request(method, path, json=body)
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["code"]) == (status, code)


async def test_without_a_token_there_is_no_answer(client: Client) -> None:
    answer = await client.get("/v1/orders", headers={"Authorization": ""})
    assert answer.status == 401


async def test_a_quote_says_where_it_came_from(client: Client) -> None:
    storage = client.app[STORAGE]
    quote = StoredQuote("q_1", None, storage.clock.now() + timedelta(days=1), b'{"id":"q_1"}')
    await storage.quotes.issue(quote, "a" * 64)
    await storage.write_behind.wait_for(storage.tail.head, 10)
    storage.quotes.lru.clear()
    answers = [await client.get("/v1/prices/q_1") for _ in range(2)]
    assert [answer.headers["Cache-Status"] for answer in answers] == [
        "facet; fwd=miss; stored; detail=database",
        "facet; hit; detail=local",
    ]
