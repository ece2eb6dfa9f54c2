"""Connections whose other end does not read, or has sent all it will send."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from server.http.body import Bodies, RawBody
from server.process import connections
from server.process.connections import Connection, Connections
from tests.support.gates import until

PAGE = b"x" * 39_000
GET = b"GET /page HTTP/1.1\r\nHost: facet\r\n\r\n"


class Served:
    """A server in this process that counts what it answers."""

    def __init__(self, url: tuple[str, int], server: Connections) -> None:
        self.address = url
        self.answered = 0
        self.read = b""
        self.errors: list[Exception] = []
        self.server = server

    @property
    def connection(self) -> Connection:
        (connection,) = self.server.connections
        assert isinstance(connection, Connection)
        return connection


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async def page(request: web.BaseRequest) -> web.Response:
        counting.answered += 1
        body = RawBody(request, Bodies())
        try:
            while chunk := await body.read_chunk():
                counting.read += chunk
        except Exception as error:
            counting.errors.append(error)
            raise
        return web.Response(body=PAGE)

    server = Connections(web.Server(page))
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    counting = Served(listener.sockets[0].getsockname(), server)
    yield counting
    listener.close()
    await server.shutdown(0.1)


@contextlib.contextmanager
def silent_reader(served: Served) -> Iterator[socket.socket]:
    """A connection with a small window, on which nothing is read unless asked."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(served.address)
        connection.setblocking(False)
        yield connection


async def test_who_does_not_read_is_answered_no_further(served: Served) -> None:
    loop = asyncio.get_running_loop()
    with silent_reader(served) as connection:
        sending = asyncio.ensure_future(loop.sock_sendall(connection, GET * 2_000))
        await until(lambda: bool(served.server.connections) and served.connection._paused)
        answered = served.answered
        for _ in range(200):
            await asyncio.sleep(0)
        assert served.answered == answered < 500
        transport = served.connection.transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 3 * len(PAGE)
        # Whoever reads on is answered on.
        received = 0
        while received < 100 * len(PAGE):
            received += len(await loop.sock_recv(connection, 1 << 20))
        assert served.answered > answered or served.answered == 2_000
        sending.cancel()


async def test_who_does_not_read_at_all_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_WINDOW_S", 0.05)
    loop = asyncio.get_running_loop()
    with silent_reader(served) as connection:
        sending = asyncio.ensure_future(loop.sock_sendall(connection, GET * 2_000))
        await until(lambda: served.answered > 0)
        await until(lambda: not served.server.connections)
        sending.cancel()


async def test_who_reads_slowly_is_served(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_WINDOW_S", 0.02)
    monkeypatch.setattr(connections, "READ_RATE_BYTES_MIN", 1)
    loop = asyncio.get_running_loop()
    with silent_reader(served) as connection:
        await loop.sock_sendall(connection, GET * 300)
        while served.answered < 300:
            assert await loop.sock_recv(connection, 1 << 16)


async def test_who_has_sent_everything_is_answered(served: Served) -> None:
    for count in (1, 3, 100):
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(GET * count)
        writer.write_eof()
        answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200 OK") == count
        writer.close()
    await until(lambda: not served.server.connections)


async def test_half_a_request_is_not_waited_for(served: Served) -> None:
    for half in (b"", GET[:10], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345"):
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(half)
        writer.write_eof()
        await reader.read()
        writer.close()
    await until(lambda: not served.server.connections)


@pytest.mark.parametrize("end", [b"", b"\r\n"])
async def test_a_head_has_a_bound_whether_it_ends_or_not(served: Served, end: bytes) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 4_000) for number in range(12))
    assert b" 431 " in await head_of_answer(served, GET[:-2] + fields + end)
    assert served.answered == 0
    smaller = fields[: 28 << 10].rpartition(b"\r\n")[0]
    assert b" 200 " in await head_of_answer(served, GET[:-2] + smaller + b"\r\n\r\n")


async def head_of_answer(served: Served, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*served.address)
    try:
        writer.write(sent)
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


async def test_what_is_pipelined_is_answered_in_its_order_with_its_bodies(served: Served) -> None:
    posts = [
        b"POST /%d HTTP/1.1\r\nHost: facet\r\nContent-Length: %d\r\n\r\n" % (number, size) + b"x" * size
        for number, size in enumerate((0, 1, 100, 9_000, 70_000, 3, 300_000, 0, 8_192, 8_193) * 3)
    ]
    chunked = b"POST /c HTTP/1.1\r\nHost: facet\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"8\r\nabcdefgh\r\n" * 20_000 + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
    reader, writer = await asyncio.open_connection(*served.address)
    try:
        writer.write(b"".join(posts) + chunked + GET)
        for _ in range(len(posts) + 2):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(PAGE))
        assert served.server.turns.held_bytes == 0
    finally:
        writer.close()


async def test_a_body_in_tiny_chunks_is_refused(served: Served) -> None:
    head = b"POST /c HTTP/1.1\r\nHost: facet\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 200 " in await head_of_answer(served, head + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")
    assert b" 200 " not in await head_of_answer(served, head + b"1\r\na\r\n" * 100_000)
    padded = b"1;" + b"x" * 4_000 + b"\r\na\r\n"
    assert b" 200 " not in await head_of_answer(served, head + padded * 100)


@pytest.mark.parametrize("begins_at_once", [True, False])
async def test_a_sender_who_goes_before_the_turn_of_its_request_is_no_failure_of_the_service(
    served: Served, begins_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_reader(served):
        await until(lambda: bool(served.server.connections))
        connection = served.connection
        monkeypatch.setattr(connection.turns, "may_begin", lambda: begins_at_once)
        connection.data_received(b"POST /page HTTP/1.1\r\nHost: facet\r\nContent-Length: 9\r\n\r\nhalf")
        connection.connection_lost(None)
        await until(lambda: not served.server.connections)
        for _ in range(200):
            await asyncio.sleep(0)
        assert served.answered == begins_at_once
        assert [type(error) for error in served.errors] == [ConnectionResetError] * begins_at_once


async def test_a_connection_lost_at_the_end_of_a_chunk_is_no_failure_of_the_service(served: Served) -> None:
    with silent_reader(served):
        await until(lambda: bool(served.server.connections))
        connection = served.connection
        head = b"POST /page HTTP/1.1\r\nHost: facet\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.data_received(head + b"4\r\nhalf")
        await until(lambda: served.read == b"half")
        connection.data_received(b"\r\n")
        connection._lost(None)
        await until(lambda: bool(served.errors))
        assert [type(error) for error in served.errors] == [ConnectionResetError]
