"""The ready response says what aiohttp's own would say, to every kind of request."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.http.ready_response import ReadyResponse

Make = Callable[..., web.Response]

CASES: dict[str, Callable[[Make], web.Response]] = {
    "body": lambda make: make(body=b"{}", headers={"Content-Type": "application/json", "ETag": '"1"'}),
    "created": lambda make: make(
        body=b"x", status=201, headers={"Location": "/a", "Content-Type": "text/plain"}
    ),
    "empty": lambda make: make(status=200, headers={"X-A": "b"}),
    "not modified": lambda make: make(status=304, headers={"ETag": '"1"'}),
    "no content": lambda make: make(status=204),
    "large": lambda make: make(body=b"y" * (1 << 16) * 3, headers={"Content-Type": "text/plain"}),
    "unicode header": lambda make: make(body=b"x", headers={"X-Name": "Анна", "Content-Type": "text/plain"}),
}
REQUESTS = {
    "get": "GET {} HTTP/1.1\r\nHost: a\r\n\r\n",
    "head": "HEAD {} HTTP/1.1\r\nHost: a\r\n\r\n",
    "close": "GET {} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "http/1.0": "GET {} HTTP/1.0\r\nHost: a\r\n\r\n",
    "http/1.0 keep-alive": "GET {} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application()
    for index, make_case in enumerate(CASES.values()):
        for path, kind in (("own", web.Response), ("ready", ReadyResponse)):
            app.router.add_get(f"/{path}/{index}", _handler(make_case, kind))

    async def broken(request: web.Request) -> web.Response:
        response = ReadyResponse(body=b"x")
        response.headers["X-A"] = "one\r\nX-B: two"
        return response

    app.router.add_get("/broken", broken)
    server = TestServer(app)
    await server.start_server()
    assert server.port is not None
    yield server.port
    await server.close()


def _handler(
    make_case: Callable[[Make], web.Response], kind: Make
) -> Callable[[web.Request], "asyncio.Future[web.Response]"]:
    async def handle(request: web.Request) -> web.Response:
        return make_case(kind)

    return handle  # type: ignore[return-value]


async def exchange(port: int, request: str) -> bytes:
    """Everything the server sends before it closes; a second request says to close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode() + b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = await reader.read()
    writer.close()
    return received


def comparable(received: bytes) -> tuple[list[bytes], bytes]:
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)(server|date):", line)]
    rest = re.sub(rb"(?i)\r\n(server|date): [^\r]*", b"", rest)
    return [lines[0], *sorted(lines[1:])], rest


@pytest.mark.parametrize("request_kind", REQUESTS)
@pytest.mark.parametrize("case", CASES)
async def test_both_answer_alike(port: int, case: str, request_kind: str) -> None:
    index = list(CASES).index(case)
    own, ready = [
        comparable(await exchange(port, REQUESTS[request_kind].format(f"/{path}/{index}")))
        for path in ("own", "ready")
    ]
    if case == "empty":  # aiohttp says a type even for nothing
        own = [line for line in own[0] if not line.lower().startswith(b"content-type")], own[1]
        ready = [line for line in ready[0] if not line.lower().startswith(b"content-type")], ready[1]
    assert ready == own


async def test_a_header_with_a_line_end_is_never_sent(port: int) -> None:
    received = await exchange(port, "GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
    assert received == b""
