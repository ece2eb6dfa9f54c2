"""Requests leave nothing to the collector: it need not look at them, which would hold up everybody."""

import asyncio
import gc
import socket
from collections.abc import Iterator

import pytest
import uvloop
from aiohttp import StreamReader, web

from server.http.body import Bodies, RawBody
from server.http.problems import HttpError, problem_response
from server.process.connections import Connection, Connections
from server.process.turns import ROUND_REQUESTS
from tests.support.gates import until

FORM = b"POST / HTTP/1.1\r\nHost: facet\r\nContent-Length: 100\r\n\r\nhalf"
GET = b"GET / HTTP/1.1\r\nHost: facet\r\n\r\n"
CALLERS = 30


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def exchange(sent: bytes, bodies: Bodies, *, lost: bool, half_closed: bool) -> None:
    async def endpoint(request: web.BaseRequest) -> web.StreamResponse:
        """As routes have it: read what there is, refuse in words."""
        body = RawBody(request, bodies)
        try:
            while await body.read_chunk():
                pass
        except HttpError as error:
            response = problem_response(error, "x")
            response.force_close()
            return response
        return web.Response(text="ring")

    loop = asyncio.get_running_loop()
    server = Connections(web.Server(endpoint, lingering_time=0))
    listener = await loop.create_server(server, "127.0.0.1", 0, backlog=1024)
    callers = [socket.create_connection(listener.sockets[0].getsockname()) for _ in range(CALLERS)]
    for caller in callers:
        caller.setblocking(False)
        await loop.sock_sendall(caller, sent)
        if half_closed:
            caller.shutdown(socket.SHUT_WR)
    await until(lambda: server.requests_count == CALLERS)
    for caller in callers:
        if not lost and sent == GET:
            assert b"200 OK" in await loop.sock_recv(caller, 4096)
        elif not lost and caller is callers[0]:
            assert b"408" in await loop.sock_recv(caller, 4096)
        caller.close()
    await until(lambda: not server.connections)
    listener.close()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", ["answered", "half closed", "lost in its body", "makes room"])
def test_requests_leave_nothing_to_be_collected(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.body.SILENT_S_MIN", 0.0)

    async def run() -> list[str]:
        sent = GET if kind in ("answered", "half closed") else FORM
        bodies = Bodies(most=1 if kind == "makes room" else 1_000)
        await exchange(sent, bodies, lost=kind == "lost in its body", half_closed=kind == "half closed")
        kept = (Connection, web.BaseRequest, StreamReader, HttpError)
        return [type(each).__name__ for each in gc.get_objects() if isinstance(each, kept)]

    # aiohttp's one empty body is always there, and what is being answered last may be.
    assert len(uvloop.run(run())) < 5


def test_requests_are_begun_some_in_each_round() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def counting(request: web.BaseRequest) -> web.Response:
            rounds[-1] += 1
            return web.Response(text="ring")

        rounds = [0]
        server = Connections(web.Server(counting))
        listener = await loop.create_server(server, "127.0.0.1", 0, backlog=1024)
        callers = [socket.create_connection(listener.sockets[0].getsockname()) for _ in range(200)]
        for caller in callers:
            caller.sendall(GET)
        while sum(rounds) < 200:
            await asyncio.sleep(0)
            rounds.append(0)
        assert max(rounds) <= ROUND_REQUESTS
        for caller in callers:
            caller.close()
        await until(lambda: not server.connections)
        listener.close()

    uvloop.run(run())
