"""Bodies: each route reads so much and no more, lists are measured before they are read, digests are kept."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest

from server.api.prices.batches import ITEMS_MAX, STONES_TEXT_MAX
from server.http.json_body import ERRORS_MAX
from server.http.request import JSON_BYTES_MAX, LIST_BYTES_MAX
from tests.support import raw_http
from tests.support.meshes import binary_stl, cube, torus
from tests.support.processes import Client, Clients, Reply
from tests.support.workshop import Workshop, pointers, problem

JSON = {"Content-Type": "application/json"}
LISTS = {"/v1/price-batches", "/v1/price-lists"}
BODIES = [
    ("POST", "/v1/orders"),
    ("PATCH", "/v1/orders/x"),
    ("PUT", "/v1/orders/x/status"),
    ("POST", "/v1/orders/x/take"),
    ("POST", "/v1/orders/x/comments"),
    ("POST", "/v1/tokens"),
    ("POST", "/v1/metal-fixes"),
    ("POST", "/v1/price-batches"),
    ("POST", "/v1/price-lists"),
]


async def send(client: Client, method: str, path: str, body: Any, **headers: str) -> Reply:
    return await client.send(method, path, data=body, headers={**JSON, **headers})


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_a_body_is_read_up_to_the_bound_of_its_route(clients: Clients, method: str, path: str) -> None:
    bound = LIST_BYTES_MAX if path in LISTS else JSON_BYTES_MAX
    longer = b'"' + b"x" * (bound - 1) + b'"'
    problem(await send(clients.admin, method, path, BytesIO(longer)), 413, "too_large")

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(longer), 1 << 14):
            yield longer[start : start + (1 << 14)]

    problem(await send(clients.admin, method, path, in_chunks()), 413, "too_large")
    longest = b'"' + b"x" * (bound - 2) + b'"'
    problem(await send(clients.admin, method, path, BytesIO(longest)), 422, "invalid")


async def test_a_list_is_measured_before_it_is_read(clients: Clients) -> None:
    for count in (ITEMS_MAX + 1, 6_000):
        body = b'{"items": [' + b",".join([b"{}"] * count) + b"]}"
        refused = problem(await send(clients.admin, "POST", "/v1/price-batches", body), 422, "invalid")
        assert [error["pointer"] for error in refused["errors"]] == ["/items"]
    body = b'{"items": [' + b",".join([b"{}"] * 80_000) + b"]}"
    refused = problem(await send(clients.admin, "POST", "/v1/price-batches", body), 422, "invalid")
    assert pointers(refused) == {""}


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/price-batches", "/v1/price-lists"])
async def test_a_hundred_errors_are_named_and_that_there_are_more_is_said(
    clients: Clients, path: str
) -> None:
    fields = json.dumps({f"f{n}": n for n in range(1_000)}).encode()
    body = b'{"items": [' + b",".join([b"{}"] * ITEMS_MAX) + b"]}" if path == "/v1/price-batches" else fields
    refused = problem(await send(clients.admin, "POST", path, body), 422, "invalid")
    assert (len(refused["errors"]), refused["errors_cut"]) == (ERRORS_MAX, True)
    assert str(ERRORS_MAX) in refused["detail"]
    few = problem(await send(clients.admin, "POST", "/v1/orders", b'{"a": 1}'), 422, "invalid")
    assert "errors_cut" not in few


async def test_two_hundred_rows_with_every_field_fit(clients: Clients) -> None:
    row = {
        "model": "a" * 64,
        "material": "m" * 40,
        "units": "mm",
        "finish": "f" * 40,
        "plating": "p" * 40,
        "quantity": 1_000_000,
        "rush": False,
        "stones": ("s" * 13 + ":123,") * (STONES_TEXT_MAX // 18 - 1) + "s:1",
    }
    body = json.dumps({"items": [row] * ITEMS_MAX}).encode()
    reply = await send(clients.admin, "POST", "/v1/price-batches", body)
    assert (reply.status, len(reply.json["items"])) == (200, ITEMS_MAX)


# --- The same thing, written otherwise


async def test_a_byte_order_mark_before_json_is_passed_over(clients: Clients) -> None:
    mark = b"\xef\xbb\xbf"
    assert (await send(clients.admin, "POST", "/v1/orders", mark + b'{"customer": "anna"}')).status == 201
    current = (await clients.admin.get("/v1/metal-fixes/current")).json | {"version": "after-a-mark"}
    body = mark + json.dumps(current).encode()
    assert (await send(clients.admin, "POST", "/v1/metal-fixes", body)).status == 201


async def test_identity_is_no_encoding(workshop: Workshop) -> None:
    for coding in ("identity", "Identity", "identity, identity"):
        body, headers = b'{"customer": "anna"}', {"Content-Encoding": coding}
        assert (await send(workshop.shop, "POST", "/v1/orders", body, **headers)).status == 201
        reply = await workshop.shop.send(
            "POST", "/v1/prices?material=brass", data=binary_stl(cube()), headers=headers
        )
        assert reply.status == 200, reply


@pytest.mark.parametrize(
    "content_type",
    ["model/stl", "model/x-stl-binary", "model/x.stl-binary", "model/x-stl", "application/sla", "MODEL/STL"],
)
async def test_older_names_of_a_type_are_known(workshop: Workshop, content_type: str) -> None:
    reply = await workshop.shop.send(
        "POST", "/v1/models", data=binary_stl(cube()), headers={"Content-Type": content_type}
    )
    assert reply.status == 201, reply
    other = await workshop.shop.send(
        "POST", "/v1/models", data=binary_stl(cube()), headers={"Content-Type": "model/x-stl-ascii"}
    )
    problem(other, 415, "content_type_mismatch")


async def test_ids_and_hashes_are_found_in_capitals(workshop: Workshop) -> None:
    ring = binary_stl(torus())
    sha256 = (await workshop.shop.send("POST", "/v1/models", data=ring)).json["model"]["sha256"].upper()
    for path in ("", "?units=cm", "/price?material=brass", "/preview"):
        assert (await workshop.admin.get(f"/v1/models/{sha256}{path}")).status == 200, path
    order = await workshop.order("FILE_UPLOADED", model=sha256, material="brass")
    assert order["model"] == sha256.lower()
    capitals = order["id"].upper()
    for path in ("", "/status", "/history"):
        assert (await workshop.shop.get(f"/v1/orders/{capitals}{path}")).status == 200, path
    found = (await workshop.shop.get(f"/v1/statuses?ids={capitals},{order['id']}")).json
    assert ([each["id"] for each in found["items"]], found["missing"]) == ([order["id"]], [])
    price = (await workshop.shop.get(f"/v1/models/{sha256}/price?material=brass")).json["price"]
    assert (await workshop.shop.get(f"/v1/prices/{price['id'].upper()}")).json["id"] == price["id"]
    edited = await workshop.shop.patch(f"/v1/orders/{capitals}", {"quote": price["id"].upper()})
    assert (edited.status, edited.json["quote"]) == (200, price["id"])
    row = {"items": [{"model": sha256, "material": "brass"}]}
    assert (await workshop.shop.post("/v1/price-batches", row)).json["items"][0]["status"] == 200
    token = (await workshop.admin.post("/v1/tokens", {"role": "shop", "name": "short-lived"})).json
    assert (await workshop.admin.delete(f"/v1/tokens/{token['id'].upper()}")).status == 204


# --- Digests


def digest_of(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


@pytest.mark.parametrize("header", ["Repr-Digest", "Content-Digest"])
async def test_a_body_has_the_digest_it_comes_with(workshop: Workshop, header: str) -> None:
    ring, order = binary_stl(torus()), b'{"customer": "anna"}'
    part = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + ring + b"\r\n--edge--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=edge"}
    for path, body, headers, status in (
        ("/v1/orders", order, JSON, 201),
        ("/v1/prices?material=brass", ring, {}, 200),
        ("/v1/models", ring, {}, 201),
        ("/v1/models", part, form, 201),
    ):
        for given, expected in ((digest_of(body), status), (f"md5=:x:, {digest_of(body)}", status)):
            reply = await workshop.shop.send("POST", path, data=body, headers={**headers, header: given})
            assert reply.status == expected, (path, given, reply)
        wrong = {**headers, header: digest_of(b"another")}
        problem(await workshop.shop.send("POST", path, data=body, headers=wrong), 422, "digest_mismatch")
        for malformed in ("sha-256=abc", "sha-256=:abc=:", f"sha-256={digest_of(body)}"):
            headers = {**headers, header: malformed}
            reply = await workshop.shop.send("POST", path, data=body, headers=headers)
            problem(reply, 400, "invalid_digest")


async def test_what_has_no_body_is_refused_one(workshop: Workshop) -> None:
    order = await workshop.order()
    for method, path in (
        ("GET", f"/v1/orders/{order['id']}"),
        ("DELETE", "/v1/cache/lists"),
        ("GET", "/livez"),
    ):
        reply = await workshop.admin.send(method, path, data=b"{}", headers=JSON)
        problem(reply, 400, "unexpected_body")
        assert (await workshop.admin.send(method, path)).status < 300


async def test_a_parameter_that_nobody_reads_is_refused(workshop: Workshop) -> None:
    order = await workshop.order()
    for method, path, body in (
        ("POST", "/v1/orders", {"customer": "anna"}),
        ("GET", f"/v1/orders/{order['id']}", None),
        ("PUT", f"/v1/orders/{order['id']}/status", {"status": "SUBMITTED"}),
        ("GET", "/v1/materials", None),
        ("GET", "/readyz", None),
    ):
        reply = await workshop.admin.send(method, f"{path}?colour=red", json=body)
        assert pointers(problem(reply, 422, "invalid")) == {"/colour"}


async def test_two_keys_and_a_fragment_are_refused(workshop: Workshop) -> None:
    key = "Idempotency-Key: a\r\nIdempotency-Key: b\r\n"
    headers = f"Content-Type: application/json\r\nContent-Length: 20\r\n{key}".encode()
    request = raw_http.request(b"POST /v1/orders", headers, b'{"customer": "anna"}')
    reply = await raw_http.sent(workshop.nobody.url, request)
    assert reply is not None
    assert (reply.status, reply.json["code"]) == (400, "invalid_idempotency_key")
    reply = await raw_http.sent(workshop.nobody.url, raw_http.request(b"GET /v1/orders?limit=1#&status=X"))
    assert reply is not None
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")


async def test_a_change_can_be_made_unless_the_order_is_so(workshop: Workshop) -> None:
    order = await workshop.order()
    path = f"/v1/orders/{order['id']}"
    for tags in ("*", '"1"', '"7", W/"1"'):
        refused = await workshop.shop.patch(path, {"note": "x"}, headers={"If-None-Match": tags})
        problem(refused, 412, "version_mismatch")
    changed = await workshop.shop.patch(path, {"note": "x"}, headers={"If-None-Match": '"2"'})
    assert (changed.status, changed.json["version"]) == (200, 2)


async def test_a_body_in_another_charset_than_it_says_is_refused(clients: Clients) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16"}
    reply = await clients.admin.send("POST", "/v1/orders", data=b'{"customer": "anna"}', headers=headers)
    problem(reply, 415, "unsupported_media_type")


async def test_a_held_back_body_of_another_length_is_looked_at(workshop: Workshop) -> None:
    ring = binary_stl(torus())
    await workshop.admin.send("POST", "/v1/models", data=ring)
    head = f"Expect: 100-continue\r\nRepr-Digest: {digest_of(ring)}\r\nContent-Length: "
    known = head + str(len(ring)) + "\r\n"
    reply = await raw_http.sent(
        workshop.nobody.url, raw_http.request(b"POST /v1/prices?material=brass", known.encode())
    )
    assert reply is not None
    assert reply.status == 200
    other = raw_http.request(b"POST /v1/prices?material=brass", (head + "5\r\n").encode())
    invited, _, writer = await raw_http.answered_before(workshop.nobody.url, other)
    assert invited == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.close()
    wrong = raw_http.request(
        b"POST /v1/prices?material=brass", (known + "Content-Type: model/obj\r\n").encode()
    )
    reply = await raw_http.sent(workshop.nobody.url, wrong)
    assert reply is not None
    assert reply.json["code"] == "content_type_mismatch"
