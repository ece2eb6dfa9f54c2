"""A network that misbehaves: a proxy that knows which connection is for what, and does one of them harm."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable

CHUNK_BYTES = 1 << 16
NONSENSE = b"\x00\xff$-7\r\n*nonsense\r\n" * 64
POSTGRES_TLS = struct.pack("!ii", 8, 80877103)
"""What a client of PostgreSQL sends first when it wants TLS."""

Sort = Callable[[bytes], str | None]
"""What a connection is for, from what its client says; None: that does not tell."""


class Connection:
    """One client's connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._server = server
        self.passing = True
        self.kind = ""

    def reset(self) -> None:
        """A RST to the client: as when the machine in between has forgotten the connection."""
        reset(self._client)
        self._server.transport.abort()

    def close(self) -> None:
        """A FIN to the client."""
        self._client.close()
        self._server.transport.abort()

    def say_nonsense(self) -> None:
        self._client.write(NONSENSE)

    def stall(self) -> None:
        """Nothing passes any more, and nobody takes leave."""
        self.passing = False

    def abort(self) -> None:
        for end in (self._client, self._server):
            end.transport.abort()


EVENTS: dict[str, Callable[[Connection], None]] = {
    "reset": Connection.reset,
    "closed": Connection.close,
    "stalled": Connection.stall,
    "garbled": Connection.say_nonsense,
}


class Network:
    """Stands before one server."""

    def __init__(self, port: int, sort: Sort, tls: ssl.SSLContext | None, *, postgres: bool = False) -> None:
        self._server_port = port
        self._sort = sort
        self._tls = tls
        self._postgres = postgres
        self.lose_answer_to: bytes | None = None
        self.lost = 0
        self.port = 0
        self.open: dict[str, set[Connection]] = defaultdict(set)
        self.all: set[Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._postgres and self._tls is not None and await reader.readexactly(8) == POSTGRES_TLS:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(self._tls)
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
            return
        connection = Connection(writer, server_writer)
        self.all.add(connection)
        losing = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(CHUNK_BYTES):
                kind = self._sort(data)
                if kind is not None and kind != connection.kind:
                    self.open[connection.kind].discard(connection)
                    connection.kind = kind
                    self.open[kind].add(connection)
                if self.lose_answer_to is not None and self.lose_answer_to in data:
                    losing.set()
                if connection.passing:
                    server_writer.write(data)

        async def back() -> None:
            while data := await server_reader.read(CHUNK_BYTES):
                if losing.is_set():
                    self.lose_answer_to = None
                    self.lost += 1
                    return
                if connection.passing:
                    writer.write(data)

        await _either(forth, back)
        self.open[connection.kind].discard(connection)
        self.all.discard(connection)
        connection.abort()

    def abort(self) -> None:
        for connection in list(self.all):
            connection.abort()

    async def close(self) -> None:
        self.abort()
        await asyncio.gather(*self._serving, return_exceptions=True)


async def _either(*directions: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(direction()) for direction in directions]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def reset(writer: asyncio.StreamWriter) -> None:
    """A RST to the other end."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.asynccontextmanager
async def network(
    port: int, sort: Sort, tls: ssl.SSLContext | None = None, *, postgres: bool = False
) -> AsyncIterator[Network]:
    """With `tls` clients speak TLS to the proxy; the server need not know."""
    stands = Network(port, sort, tls, postgres=postgres)
    listens_tls = None if postgres else tls
    server = await asyncio.start_server(stands.accept, "127.0.0.1", 0, ssl=listens_tls)
    stands.port = server.sockets[0].getsockname()[1]
    try:
        yield stands
    finally:
        server.close()
        await stands.close()
