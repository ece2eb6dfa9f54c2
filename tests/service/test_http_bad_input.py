"""What cannot be meant is refused in words, with a stable code, and the service goes on serving."""

import asyncio
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from server.http.request import JSON_BYTES_MAX
from tests.support import raw_http
from tests.support.processes import Clients, Reply, Service
from tests.support.workshop import Workshop, case_name, pointers, problem, set_status

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", autouse=True)
def nothing_failed(service: Service) -> Any:
    """Whatever the tests here sent, the service logged no failure of its own."""
    yield
    lines = [json.loads(line) for line in service.log_text().splitlines()]
    failures = [json.dumps(line, indent=1) for line in lines if line["level"] in ("error", "critical")]
    assert not failures, "\n".join(failures).replace("\\n", "\n")


async def post_raw(clients: Clients, body: bytes, path: str = "/v1/orders") -> Reply:
    return await clients.admin.send("POST", path, data=BytesIO(body), headers=JSON)


MALFORMED = {
    "nothing": b"",
    "a letter": b"x",
    "half": b'{"customer": "anna"',
    "two": b"{}{}",
    "a comment": b'{"customer": "anna"} // me',
    "a trailing comma": b'{"customer": "anna",}',
    "single quotes": b"{'customer': 'anna'}",
    "NaN": b'{"customer": "anna", "quantity": NaN}',
    "Infinity": b'{"customer": "anna", "quantity": -Infinity}',
    "a huge exponent": b'{"customer": "anna", "quantity": 1e999}',
    "a duplicate key": b'{"customer": "anna", "customer": "boris"}',
    "a duplicate key inside": b'{"customer": "anna", "note": {"a": 1, "a": 2}}',
    "a duplicate key, escaped": b'{"customer": "anna", "custome\\u0072": "boris"}',
    "not UTF-8": b'{"customer": "\xff"}',
    "overlong UTF-8": b'{"customer": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"customer": "\xed\xa0\x80"}',
    "UTF-16": '{"customer": "anna"}'.encode("utf-16"),
    "two byte order marks": b'\xef\xbb\xbf\xef\xbb\xbf{"customer": "anna"}',
    "a byte order mark inside": b'{"customer": \xef\xbb\xbf"anna"}',
    "a lone surrogate": b'{"customer": "\\ud800"}',
    "a lone surrogate as key": b'{"\\udfff": 1}',
    "U+0000": b'{"customer": "an\\u0000na"}',
    "U+0000 as it is": b'{"customer": "an\x00na"}',
    "a control character": b'{"customer": "an\nna"}',
    "an integer past 63 bits": b'{"customer": "anna", "quantity": 9223372036854775808}',
    "a very long integer": b'{"customer": "anna", "quantity": ' + b"9" * 60_000 + b"}",
    "arrays 33 deep": b"[" * 33 + b"]" * 33,
    "arrays 12000 deep": b"[" * 12_000,
    "objects 10000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_two_readers_could_understand_differently_is_not_json(clients: Clients, name: str) -> None:
    problem(await post_raw(clients, MALFORMED[name]), 400, "malformed_json")


async def test_a_body_past_its_bound_is_too_large(clients: Clients) -> None:
    body = b'{"customer": "anna", "note": "' + b"x" * JSON_BYTES_MAX + b'"}'
    problem(await post_raw(clients, body), 413, "too_large")

    async def in_chunks() -> Any:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    reply = await clients.admin.send("POST", "/v1/orders", data=in_chunks(), headers=JSON)
    problem(reply, 413, "too_large")


WRONG_BODIES: list[tuple[Any, set[str]]] = [
    ([], {""}),
    (None, {""}),
    ("anna", {""}),
    (0, {""}),
    ({}, {"/customer"}),
    ({"customer": None}, {"/customer"}),
    ({"customer": ""}, {"/customer"}),
    ({"customer": " \t\u00a0"}, {"/customer"}),
    ({"customer": "x" * 201}, {"/customer"}),
    ({"customer": 5, "quantity": "5", "colour": "red"}, {"/customer", "/quantity", "/colour"}),
    ({"customer": "anna", "quantity": 0}, {"/quantity"}),
    ({"customer": "anna", "quantity": 10_001}, {"/quantity"}),
    ({"customer": "anna", "quantity": 1.5}, {"/quantity"}),
    ({"customer": "anna", "quantity": True}, {"/quantity"}),
    ({"customer": "anna", "quantity": 2**63 - 1}, {"/quantity"}),
    ({"customer": "anna", "model": "AG" * 32}, {"/model"}),
    ({"customer": "anna", "model": "ab" * 32 + "\n"}, {"/model"}),
    ({"customer": "anna", "due_at": "tomorrow"}, {"/due_at"}),
    ({"customer": "anna", "due_at": 1_700_000_000}, {"/due_at"}),
    ({"customer": "anna", "due_at": "2027-05-01T12:00:00"}, {"/due_at"}),
    ({"customer": "anna", "due_at": "0001-01-01T00:00:00+14:00"}, {"/due_at"}),
    ({"customer": "anna", "due_at": "9999-12-31T23:59:59-12:00"}, {"/due_at"}),
    ({"customer": "anna", "due_at": "1969-12-31T23:59:59Z"}, {"/due_at"}),
    ({"customer": "anna", "due_at": "2200-01-01T00:00:00Z"}, {"/due_at"}),
    ({"customer": "anna", "note": "x" * 2_001, "reference": ""}, {"/note", "/reference"}),
    (
        {"customer": "anna", "material": "kryptonite", "units": "ell", "finish": "x"},
        {"/material", "/units", "/finish"},
    ),
    ({"customer": "anna", "a/b~c": 1, "": 2}, {"/a~1b~0c", "/"}),
    ({"customer": "anna", "status": "CLOSED", "id": "mine", "number": 1}, {"/status", "/id", "/number"}),
    ({"customer": ["anna"], "note": {"text": "x"}}, {"/customer", "/note"}),
]


@pytest.mark.parametrize(("body", "wrong"), WRONG_BODIES, ids=case_name)
async def test_every_error_of_a_body_is_named_at_once(clients: Clients, body: Any, wrong: set[str]) -> None:
    reply = await post_raw(clients, json.dumps(body).encode())
    assert pointers(problem(reply, 422, "invalid")) == wrong


async def test_a_quote_that_nobody_issued_is_named(clients: Clients) -> None:
    reply = await clients.admin.post("/v1/orders", {"customer": "anna", "quote": "q_0"})
    assert pointers(problem(reply, 422, "unknown_quote")) == {"/quote"}


async def test_texts_of_the_greatest_length_are_kept_as_they_are(workshop: Workshop) -> None:
    fields = {"note": "🙂" * 2_000, "reference": "\U0010ffff" * 200, "due_at": "2199-12-31T23:59:59.999999Z"}
    order = await workshop.order(customer="ё" * 200, **fields)
    assert {name: order[name] for name in fields} == fields
    await workshop.admin.delete(f"/v1/cache/orders/{order['id']}")
    assert (await workshop.shop.get(f"/v1/orders/{order['id']}")).json == order


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""]
)
async def test_json_is_sent_as_json(clients: Clients, content_type: str) -> None:
    reply = await clients.admin.send(
        "POST", "/v1/orders", data=b'{"customer": "anna"}', headers={"Content-Type": content_type}
    )
    problem(reply, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
async def test_json_has_parameters_and_relatives(clients: Clients, content_type: str) -> None:
    reply = await clients.admin.send(
        "POST", "/v1/orders", data=b'{"customer": "anna"}', headers={"Content-Type": content_type}
    )
    assert reply.status == 201


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
async def test_a_body_is_sent_without_encoding(clients: Clients, encoding: str) -> None:
    for method, path in (
        ("POST", "/v1/orders"),
        ("POST", "/v1/prices?material=silver-925"),
        ("PUT", "/v1/orders/x/status"),
    ):
        reply = await clients.admin.send(
            method, path, data=b"\x1f\x8b", headers={**JSON, "Content-Encoding": encoding}
        )
        problem(reply, 415, "content_encoding_unsupported")


WRONG_STEPS: list[tuple[Any, set[str]]] = [
    ({}, {"/status"}),
    ({"status": "DONE"}, {"/status"}),
    ({"status": "submitted"}, {"/status"}),
    ({"status": None, "comment": "", "operator": 5}, {"/status", "/comment", "/operator"}),
    ({"status": "CANCELLED", "comment": "x" * 2_001}, {"/comment"}),
    ({"status": "SUBMITTED", "operator": "ivan"}, {"/operator"}),
    ({"status": "PRICE_CALCULATED", "price": {}}, {"/price/net", "/price/reason"}),
    (
        {"status": "PRICE_CALCULATED", "price": {"net": {}, "reason": 1, "vat": 0}},
        {"/price/net/amount", "/price/net/currency", "/price/reason", "/price/vat"},
    ),
]


@pytest.mark.parametrize(("body", "wrong"), WRONG_STEPS, ids=case_name)
async def test_a_step_that_makes_no_sense_is_refused(workshop: Workshop, body: Any, wrong: set[str]) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await workshop.admin.put(f"/v1/orders/{order['id']}/status", body)
    assert pointers(problem(reply, 422, "invalid")) == wrong


@pytest.mark.parametrize("action", ["take", "release", "undo", "links"])
async def test_an_action_takes_no_unknown_field(workshop: Workshop, action: str) -> None:
    order = await workshop.order()
    reply = await workshop.admin.post(f"/v1/orders/{order['id']}/{action}", {"please": True})
    assert pointers(problem(reply, 422, "invalid")) == {"/please"}


async def test_an_order_that_does_not_exist_has_no_steps(workshop: Workshop) -> None:
    problem(await set_status(workshop.admin, "x", "SUBMITTED"), 404, "not_found")


# --- Addresses, byte by byte

WRONG_IDS = (
    b"%00",
    b"..",
    b"%2e%2e",
    b"%2E%2e%2f",
    b"%ff",
    b"%c0%af",
    b"%",
    b"%zz",
    b"x" * 4_000,
    b"%0d%0a",
    b"%20",
    b"'",
    b";",
    b"*",
    b"\xff",
    b"\xd1\x91",
    b"%F0%9F%92%8D",
    b"0190A1B2-0000-7000-8000-000000000000",
    b"{0190a1b2-0000-7000-8000-000000000000}",
    b"%252e",
    b"~",
    b"0",
)
PLACES = (
    b"GET /v1/orders/%b",
    b"GET /v1/orders/%b/status",
    b"GET /v1/orders/%b/history",
    b"DELETE /v1/cache/orders/%b",
    b"GET /v1/cache/orders/%b",
    b"GET /v1/prices/%b",
    b"GET /v1/models/%b",
    b"GET /v1/models/%b/file",
    b"GET /v1/models/%b/price?material=silver-925",
    b"DELETE /v1/cache/models/%b",
    b"DELETE /v1/tokens/%b",
    b"POST /v1/cache/dead-letters/%b/replay",
    b"GET /c/%b",
)


@pytest.mark.parametrize("place", PLACES)
async def test_an_id_of_any_bytes_is_just_not_found(service: Service, place: bytes) -> None:
    for wrong in WRONG_IDS:
        reply = await raw_http.sent(service.url, raw_http.request(place % wrong))
        assert reply is not None
        assert reply.status in (400, 404, 405), (wrong, reply)
        if reply.headers["Content-Type"] != "text/html; charset=utf-8":
            assert_problem(reply, wrong)


def assert_problem(reply: raw_http.RawReply | None, what: object) -> Any:
    assert reply is not None, what
    assert reply.headers["Content-Type"] == "application/problem+json", (what, reply)
    assert reply.json["status"] == reply.status
    assert reply.json["code"]
    assert reply.json["request_id"] == reply.headers["X-Request-Id"]
    return reply.json


@pytest.mark.parametrize(
    "query",
    [b"%", b"%ff", b"ids=%00", b"ids=%ff,%fe", b"ids=,,,", b"ids=" + b"%f0" * 900, b"=&&=;", b"ids[]=1"],
)
async def test_a_query_of_any_bytes_is_answered_or_refused(service: Service, query: bytes) -> None:
    for place in (
        b"GET /v1/statuses?",
        b"GET /v1/orders?",
        b"GET /v1/orders/counts?",
        b"GET /?",
        b"GET /docs?",
    ):
        reply = await raw_http.sent(service.url, raw_http.request(place + query))
        assert reply is not None
        assert reply.status in (200, 400, 422), reply
        if reply.status != 200:
            assert_problem(reply, query)


POST = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n"
MALFORMED_REQUESTS = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b" / HTTP/1.1\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a wrong version": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "a wrong protocol": b"GET / SMTP/1.1\r\nHost: x\r\n\r\n",
    "a header without a colon": b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n",
    "a header with a space in its name": b"GET /livez HTTP/1.1\r\nHo st: x\r\n\r\n",
    "a header with a NUL": b"GET /livez HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "a folded header": b"GET /livez HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
    "a very long header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "a very long address": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a length in words": POST + b"Content-Length: five\r\n\r\nhello",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer encoding": POST + b"Transfer-Encoding: magic\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED_REQUESTS)
async def test_what_is_no_request_is_refused_in_words(service: Service, clients: Clients, name: str) -> None:
    reply = await raw_http.sent(service.url, MALFORMED_REQUESTS[name])
    assert_problem(reply, name)
    assert reply is not None
    assert 400 <= reply.status < 500
    assert (await clients.nobody.get("/livez")).status == 200


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nhello\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"-1\r\n\r\n", b"5;x\r\nhel"]
)
async def test_broken_chunks_are_refused_or_cut_off(
    service: Service, clients: Clients, chunks: bytes
) -> None:
    for line in (b"POST /v1/orders", b"POST /v1/prices?material=silver-925"):
        headers = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        reply = await raw_http.sent(service.url, raw_http.request(line, headers, chunks), end=True)
        if reply is not None:
            assert reply.status == 400
            assert_problem(reply, chunks)
    assert (await clients.nobody.get("/livez")).status == 200


async def test_an_expectation_other_than_100_continue_fails(service: Service) -> None:
    for line in (b"POST /v1/orders", b"POST /v1/models", b"GET /livez", b"GET /nothing"):
        reply = await raw_http.sent(service.url, raw_http.request(line, b"Expect: a miracle\r\n"))
        assert_problem(reply, line)
        assert reply is not None
        assert (reply.status, reply.json["code"]) == (417, "expectation_failed")


async def test_a_body_is_invited_only_from_who_may_send_it(service: Service) -> None:
    head = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\nExpect: 100-continue\r\n"
    answer, _, writer = await raw_http.answered_before(
        service.url, head + raw_http.AS_ADMIN + b"Content-Type: application/json\r\n\r\n"
    )
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.close()
    upload = head.replace(b"/v1/orders", b"/v1/models")
    answer, _, writer = await raw_http.answered_before(service.url, upload + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    writer.close()


ABANDONED = (
    b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n",
    raw_http.request(
        b"POST /v1/orders", b"Content-Length: 100\r\nContent-Type: application/json\r\n", b'{"cust'
    ),
    raw_http.request(b"POST /v1/models", b"Content-Length: 5000000\r\n", b"solid " + b"x" * 2_000_000),
    raw_http.request(b"POST /v1/models", b"Transfer-Encoding: chunked\r\n", b"7d000\r\n" + b"x" * 300_000),
    raw_http.request(
        b"POST /v1/models",
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900\r\n",
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsolid',
    ),
)


async def test_callers_that_vanish_leave_the_service_serving_and_nothing_behind(
    service: Service, workshop: Workshop
) -> None:
    for data in ABANDONED * 4:
        await raw_http.abandoned(service.url, data)
    for data in ABANDONED:
        await raw_http.sent(service.url, data, end=True)
    order = await workshop.order("SUBMITTED")
    assert order["status"] == "SUBMITTED"
    await gone(service.data_dir)


async def gone(data_dir: Path) -> None:
    """Returns when no unfinished upload is left on disk."""
    uploads = data_dir / "uploads"
    async with asyncio.timeout(10):
        while list(uploads.iterdir()):  # noqa: ASYNC110 - another process removes them
            await asyncio.sleep(0)
