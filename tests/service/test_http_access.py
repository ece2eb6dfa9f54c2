"""Who gets in, who sees what, and how tokens come and go."""

from typing import Any

import pytest

from tests.support.processes import ADMIN_TOKEN, Client, Clients, Reply
from tests.support.workshop import Workshop, new_key, pointers, problem, set_status

OPEN_PATHS = ("/livez", "/readyz", "/startupz", "/docs", "/openapi.json", "/metrics", "/")


@pytest.mark.parametrize("path", OPEN_PATHS)
async def test_some_paths_need_no_token(clients: Clients, path: str) -> None:
    assert (await clients.nobody.get(path)).status == 200


async def test_every_other_path_needs_one(clients: Clients) -> None:
    document = (await clients.nobody.get("/openapi.json")).json
    guarded = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "security" in operation
    ]
    assert len(guarded) > 30
    for method, path in guarded:
        reply = await clients.nobody.send(method, path.replace("{", "").replace("}", ""))
        problem(reply, 401, "unauthenticated")
        assert reply.headers["WWW-Authenticate"] == 'Bearer realm="facet"'


WRONG_CREDENTIALS = (
    "Bearer nobody",
    "Bearer",
    "Bearer ",
    f"Basic {ADMIN_TOKEN}",
    ADMIN_TOKEN,
    "",
    "Bearer \xff\xfe",
)


@pytest.mark.parametrize("header", WRONG_CREDENTIALS)
async def test_a_token_that_is_not_known_is_refused(clients: Clients, header: str) -> None:
    reply = await clients.nobody.get("/v1/me", headers={"Authorization": header})
    problem(reply, 401, "invalid_token")
    assert reply.headers["WWW-Authenticate"] == 'Bearer realm="facet"'


async def test_the_scheme_is_written_in_any_case(clients: Clients) -> None:
    reply = await clients.nobody.get("/v1/me", headers={"Authorization": f"bEARER  {ADMIN_TOKEN} "})
    assert reply.status == 200


async def test_a_token_says_who_one_is(workshop: Workshop) -> None:
    assert (await workshop.ivan.get("/v1/me")).json == {"name": "ivan", "role": "operator", "customer": None}
    assert (await workshop.partner.get("/v1/me")).json["customer"] == "acme"


# --- Tokens


async def test_a_secret_is_shown_once_and_works_until_revoked(workshop: Workshop) -> None:
    reply = await workshop.admin.post("/v1/tokens", {"role": "mes", "name": "line 2"})
    issued = reply.json
    assert (reply.status, reply.headers["Cache-Control"]) == (201, "no-store")
    assert reply.headers["Location"] == f"/v1/tokens/{issued['id']}"
    listed = (await workshop.admin.get("/v1/tokens")).json["items"]
    (shown,) = [token for token in listed if token["id"] == issued["id"]]
    assert shown == {key: value for key, value in issued.items() if key != "token"}
    assert issued["token"] not in str(listed)
    bearer = {"Authorization": f"Bearer {issued['token']}"}
    assert (await workshop.nobody.get("/v1/me", headers=bearer)).json["name"] == "line 2"
    assert (await workshop.admin.delete(f"/v1/tokens/{issued['id']}")).status == 204
    problem(await workshop.nobody.get("/v1/me", headers=bearer), 401, "invalid_token")
    problem(await workshop.admin.delete(f"/v1/tokens/{issued['id']}"), 404, "not_found")


async def test_a_repeated_keyed_request_shows_the_same_secret(workshop: Workshop) -> None:
    key, body = new_key(), {"role": "shop", "name": "shop 2"}
    first = await workshop.admin.post("/v1/tokens", body, headers=key)
    again = await workshop.admin.post("/v1/tokens", body, headers=key)
    assert (again.status, again.json) == (201, first.json)
    listed = (await workshop.admin.get("/v1/tokens")).json["items"]
    assert [token["name"] for token in listed].count("shop 2") == 1
    other = await workshop.admin.post("/v1/tokens", {"role": "shop", "name": "shop 3"}, headers=key)
    problem(other, 422, "idempotency_key_reused")


async def test_equal_tokens_without_a_key_have_different_secrets(workshop: Workshop) -> None:
    body = {"role": "shop", "name": "shop 4"}
    secrets = {(await workshop.admin.post("/v1/tokens", body)).json["token"] for _ in range(3)}
    assert len(secrets) == 3


WRONG_TOKENS: list[tuple[dict[str, Any], set[str]]] = [
    ({"role": "partner", "name": "acme"}, {"/customer"}),
    ({"role": "customer", "name": "anna"}, {"/customer"}),
    ({"role": "shop", "name": "shop", "customer": "anna"}, {"/customer"}),
    ({"role": "king", "name": ""}, {"/role", "/name"}),
    ({"name": "x" * 201}, {"/role", "/name"}),
    ({"role": "shop", "name": "shop", "token": "mine"}, {"/token"}),
]


@pytest.mark.parametrize(("body", "wrong"), WRONG_TOKENS)
async def test_a_token_that_makes_no_sense_is_refused(
    workshop: Workshop, body: dict[str, Any], wrong: set[str]
) -> None:
    assert pointers(problem(await workshop.admin.post("/v1/tokens", body), 422, "invalid")) == wrong


ADMINS_ONLY = (
    ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/x"),
    ("GET", "/v1/cache"),
    ("GET", "/v1/cache/orders/x"),
    ("DELETE", "/v1/cache/orders/x"),
    ("DELETE", "/v1/cache/lists"),
    ("DELETE", "/v1/cache/models/x"),
    ("POST", "/v1/cache/warm"),
    ("GET", "/v1/cache/dead-letters"),
    ("POST", "/v1/cache/dead-letters/x/replay"),
    ("GET", "/v1/price-lists"),
    ("GET", "/v1/price-lists/current"),
    ("POST", "/v1/price-lists"),
    ("POST", "/v1/metal-fixes"),
)


@pytest.mark.parametrize(("method", "path"), ADMINS_ONLY)
async def test_administration_is_for_administrators(workshop: Workshop, method: str, path: str) -> None:
    for role, client in workshop.everybody().items():
        if role != "admin":
            problem(await client.send(method, path), 403, "forbidden")


# --- Tenants


async def test_an_order_of_another_customer_does_not_exist(workshop: Workshop) -> None:
    order = await workshop.order(customer="somebody else")
    path = f"/v1/orders/{order['id']}"

    def changes(client: Client) -> list[Any]:
        return [
            client.get(path),
            client.get(f"{path}/status"),
            client.get(f"{path}/history"),
            client.get(path, headers={"If-None-Match": "*"}),
            client.get(f"{path}/status", headers={"If-None-Match": '"1"', "Prefer": "wait=1"}),
            client.post(f"{path}/comments", {"comment": "mine?"}),
        ]

    for client in (workshop.customer, workshop.partner):
        for request in changes(client):
            problem(await request, 404, "not_found")
    for request in (
        workshop.partner.patch(path, {"note": "mine?"}),
        workshop.partner.patch(path, {"note": "mine?"}, headers={"If-Match": '"7"'}),
        set_status(workshop.partner, order["id"], "FILE_UPLOADED"),
        workshop.partner.post(f"{path}/undo"),
    ):
        problem(await request, 404, "not_found")
    assert (await workshop.shop.get(path)).json == order


async def test_a_hidden_order_and_one_that_nobody_has_look_the_same(workshop: Workshop) -> None:
    order = await workshop.order(customer="somebody else")
    hidden = await workshop.customer.get(f"/v1/orders/{order['id']}")
    absent = await workshop.customer.get("/v1/orders/0190a1b2-0000-7000-8000-000000000000")
    assert without_request_id(hidden) == without_request_id(absent)
    assert hidden.headers.keys() == absent.headers.keys()


def without_request_id(reply: Reply) -> Any:
    return {name: value for name, value in reply.json.items() if name != "request_id"}


async def test_tenants_list_and_count_their_own_orders(workshop: Workshop) -> None:
    mine = await workshop.order(customer="acme")
    await workshop.order(customer="somebody else")
    items = (await workshop.partner.get("/v1/orders?limit=200")).json["items"]
    assert mine["id"] in {order["id"] for order in items}
    assert {order["customer"] for order in items} == {"acme"}
    counts = (await workshop.partner.get("/v1/orders/counts")).json["counts"]
    assert sum(counts.values()) == len(items)
    asked = await workshop.partner.get("/v1/orders", params={"customer": "somebody else"})
    assert pointers(problem(asked, 422, "invalid")) == {"/customer"}
    for query in ("q=somebody", f"number={mine['number'] + 1}", "operator=none&status=INITIATED"):
        for order in (await workshop.partner.get(f"/v1/orders?{query}")).json["items"]:
            assert order["customer"] == "acme"


async def test_statuses_of_other_customers_are_missing(workshop: Workshop) -> None:
    mine, other = await workshop.order(), await workshop.order(customer="somebody else")
    ids = f"{other['id']},{mine['id']}"
    reply = (await workshop.customer.get("/v1/statuses", params={"ids": ids})).json
    assert [item["id"] for item in reply["items"]] == [mine["id"]]
    assert reply["missing"] == [other["id"]]


async def test_a_partner_opens_orders_for_itself(workshop: Workshop) -> None:
    reply = await workshop.partner.post("/v1/orders", {"note": "hello"})
    assert (reply.status, reply.json["customer"]) == (201, "acme")
    problem(await workshop.partner.post("/v1/orders", {"customer": "anna"}), 403, "forbidden")


@pytest.mark.parametrize("role", ["customer", "operator", "mes"])
async def test_who_may_not_open_orders_is_told_so(workshop: Workshop, role: str) -> None:
    reply = await workshop.everybody()[role].post("/v1/orders", {"customer": "anna"})
    problem(reply, 403, "forbidden")


async def test_a_customer_reads_and_does_nothing_else(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    path = f"/v1/orders/{order['id']}"
    assert (await workshop.customer.get(path)).json == order
    assert (await workshop.customer.get(f"{path}/history")).status == 200
    for request in (
        workshop.customer.patch(path, {"note": "x"}),
        set_status(workshop.customer, order["id"], "CANCELLED", comment="x"),
        workshop.customer.post(f"{path}/take"),
        workshop.customer.post(f"{path}/release"),
        workshop.customer.post(f"{path}/undo"),
        workshop.customer.post(f"{path}/links"),
        workshop.customer.send("POST", "/v1/prices?material=silver-925", data=b"x"),
        workshop.customer.get("/v1/operators"),
    ):
        problem(await request, 403, "forbidden")


async def test_a_partner_is_not_told_who_works_here(workshop: Workshop) -> None:
    problem(await workshop.partner.get("/v1/operators"), 403, "forbidden")
