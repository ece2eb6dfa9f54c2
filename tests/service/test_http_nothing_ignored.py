"""Every documented request with one thing more, which nobody reads: refused by its name, nothing done."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from server.app import served_routes
from tests.support.meshes import binary_stl, torus
from tests.support.processes import ADMIN_TOKEN, Client, Reply
from tests.support.workshop import Workshop

RING = binary_stl(torus())
UNKNOWN = "unheard_of"


class Example(NamedTuple):
    """A request that is done when nothing is added: what is in it beside what the route demands."""

    query: dict[str, str] = {}  # noqa: RUF012
    body: Any = None


EXAMPLES: dict[str, Example] = {
    "GET /v1/statuses": Example({"ids": "{order}"}),
    "GET /v1/models": Example({"verification": "differs"}),
    "PUT /v1/models/{sha256}/verification": Example(body={"accepted": True}),
    "GET /v1/models/{sha256}/price": Example({"material": "brass"}),
    "POST /v1/prices": Example({"material": "brass"}),
    "POST /v1/price-batches": Example(body={"items": [{"model": "{model}", "material": "brass"}]}),
    "POST /v1/price-lists": Example(body={}),
    "POST /v1/metal-fixes": Example(body={}),
    "POST /v1/orders": Example(body={"customer": "anna"}),
    "PATCH /v1/orders/{id}": Example(body={"note": "x"}),
    "PUT /v1/orders/{id}/status": Example(body={"status": "FILE_UPLOADED"}),
    "POST /v1/orders/{id}/comments": Example(body={"comment": "x"}),
    "POST /v1/tokens": Example(body={"role": "shop", "name": "web"}),
    "POST /v1/backups": Example(body={"path": "/nonexistent/backup"}),
}
NESTED = {
    "POST /v1/price-batches": ("items", 0),
    "PUT /v1/orders/{id}/status": ("price",),
}
"""Records inside of bodies."""


ROUTES: dict[str, Any] = {route.name: route for route in served_routes()}


@pytest.fixture
async def things(workshop: Workshop) -> dict[str, str]:
    """What paths name, all of it there."""
    model = (await workshop.shop.send("POST", "/v1/models", data=RING)).json["model"]["sha256"]
    quote = (await workshop.shop.get(f"/v1/models/{model}/price?material=brass")).json["price"]["id"]
    token = (await workshop.admin.post("/v1/tokens", {"role": "shop", "name": "x"})).json["id"]
    order = await workshop.order()
    job = await workshop.admin.send(
        "POST", "/v1/prices?material=brass", data=RING, headers={"Prefer": "respond-async"}
    )
    link = (await workshop.seller.post(f"/v1/orders/{order['id']}/links")).json["url"].rpartition("/")[2]
    return {
        "order": order["id"],
        "model": model,
        "quote": quote,
        "token": token,
        "job": job.json["id"],
        "link": link,
    }


def path_of(route: Any, things: dict[str, str]) -> str:
    kinds = {"/v1/prices/": "quote", "/v1/tokens/": "token", "/v1/jobs/": "job"}
    thing = next((kind for prefix, kind in kinds.items() if route.path.startswith(prefix)), "order")
    values = {"id": things[thing], "sha256": things["model"], "link": things["link"]}
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], route.path)


def filled(value: Any, things: dict[str, str]) -> Any:
    text = json.dumps(value)
    return json.loads(text.replace("{order}", things["order"]).replace("{model}", things["model"]))


async def send(
    client: Client, route: Any, things: dict[str, str], *, query: dict[str, str], **options: Any
) -> Reply:
    path = path_of(route, things)
    headers = {"Cookie": f"facet_token={ADMIN_TOKEN}"} | options.pop("headers", {})
    address = f"{path}?{urlencode(query)}" if query else path
    return await client.send(route.method, address, headers=headers, allow_redirects=False, **options)


def is_refused(reply: Reply, name: str = UNKNOWN) -> bool:
    return 400 <= reply.status < 500 and f"/{name}".encode() in reply.raw


def plain(route: Any, things: dict[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Query and options of the example."""
    example = filled(EXAMPLES.get(route.name, Example())._asdict(), things)
    if route.uploads:
        parts = [("model", RING), *(() if route.path.startswith("/v1/") else (("material", b"brass"),))]
        return example["query"], form(parts)
    if route.form is not None:
        return example["query"], {"data": {"token": ADMIN_TOKEN} if route.path == "/login" else None}
    return example["query"], {} if example["body"] is None else {"json": example["body"]}


def form(parts: list[tuple[str, bytes]]) -> dict[str, Any]:
    body = b"".join(
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts
    )
    return {
        "data": body + b"--edge--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=edge"},
    }


@pytest.mark.parametrize("name", ROUTES)
async def test_a_parameter_that_nobody_reads_is_refused(
    workshop: Workshop, things: dict[str, str], name: str
) -> None:
    route = ROUTES[name]
    query, options = plain(route, things)
    for added in ({UNKNOWN: "1"}, {UNKNOWN: ""}):
        reply = await send(workshop.admin, route, things, query=query | added, **options)
        assert is_refused(reply), (name, reply)
    if route.method == "GET":
        reply = await workshop.admin.send("HEAD", f"{path_of(route, things)}?{UNKNOWN}=1")
        assert 400 <= reply.status < 500


def bodies(route: Any, body: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """The body with an unknown field, at each level, and where that is."""
    yield body | {UNKNOWN: 1}, UNKNOWN
    place = NESTED.get(route.name)
    if place == ("items", 0):
        yield {"items": [body["items"][0] | {UNKNOWN: 1}]}, f"items/0/{UNKNOWN}"
    elif place == ("price",):
        price = {"net": {"amount": "1.00", "currency": "EUR", UNKNOWN: 1}, "reason": "x", UNKNOWN: 1}
        priced = {"status": "PRICE_CALCULATED", "price": price}
        yield priced, f"price/{UNKNOWN}"
        yield priced, f"price/net/{UNKNOWN}"


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.body is not None])
async def test_a_field_that_nobody_reads_is_refused(
    workshop: Workshop, things: dict[str, str], name: str
) -> None:
    route = ROUTES[name]
    query, options = plain(route, things)
    before = (await workshop.admin.get(f"/v1/orders/{things['order']}")).json
    for body, pointer in bodies(route, options.get("json", {})):
        reply = await send(workshop.admin, route, things, query=query, json=body)
        assert is_refused(reply, pointer), (name, reply)
    assert (await workshop.admin.get(f"/v1/orders/{things['order']}")).json == before


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.form is not None])
async def test_a_part_of_a_form_that_nobody_reads_is_refused(
    workshop: Workshop, things: dict[str, str], name: str
) -> None:
    route = ROUTES[name]
    query, options = plain(route, things)
    if not route.uploads:
        fields = (options["data"] or {}) | {UNKNOWN: "1"}
        reply = await send(workshop.admin, route, things, query=query, data=fields)
        assert is_refused(reply), (name, reply)
        return
    parts = [("model", RING)] + ([] if query or route.path == "/v1/models" else [("material", b"brass")])
    for place in range(len(parts) + 1):
        sent = form([*parts[:place], (UNKNOWN, b"1"), *parts[place:]])
        reply = await send(workshop.admin, route, things, query=query, **sent)
        assert is_refused(reply), (name, place, reply)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, route in ROUTES.items()
        if route.body is None and route.form is None and not route.uploads
    ],
)
async def test_a_body_that_nobody_reads_is_refused(
    workshop: Workshop, things: dict[str, str], name: str
) -> None:
    route = ROUTES[name]
    query, _ = plain(route, things)
    reply = await send(workshop.admin, route, things, query=query, json={UNKNOWN: 1})
    assert (reply.status, reply.json["code"]) == (400, "unexpected_body"), (name, reply)


async def test_the_examples_are_done_when_nothing_is_added(
    workshop: Workshop, things: dict[str, str]
) -> None:
    """Otherwise what is refused above might be refused for something else."""
    left_out = {
        "POST /v1/price-lists",
        "POST /v1/metal-fixes",
        "POST /v1/backups",
        "GET /v1/models/{sha256}/file",
    }
    for name, route in ROUTES.items():
        if name in left_out or "dead-letters/" in name or (route.method == "DELETE" and "{" in route.path):
            continue
        query, options = plain(route, things)
        reply = await send(workshop.admin, route, things, query=query, **options)
        assert reply.status < 400 or reply.status == 409, (name, reply)
