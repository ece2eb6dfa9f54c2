"""A real connection between a client and a server, with a door in it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator


class Proxy:
    """Passes everything on. Once `lose_answer_to` is set, the connection on which the client says these bytes
    is cut as soon as the server has answered them: the server has done it and the client does not know."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.lose_answer_to: bytes | None = None
        self.lost = asyncio.Event()
        self.port = 0
        self._is_cut = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Every connection breaks, and new ones do, until `restore`."""
        self._is_cut = True
        self.end()

    def hold(self) -> None:
        """Connections stay open and nothing passes until `restore`; then what was said arrives late."""
        self._passing.clear()

    def restore(self) -> None:
        self._is_cut = False
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        said = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(65_536):
                await self._passing.wait()
                if self.lose_answer_to is not None and self.lose_answer_to in data:
                    said.set()
                server_writer.write(data)

        async def back() -> None:
            while data := await server_reader.read(65_536):
                await self._passing.wait()
                if said.is_set():
                    self.lost.set()
                    return
                writer.write(data)

        tasks = [asyncio.create_task(direction()) for direction in (forth, back)]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)
        for end in (writer, server_writer):
            end.transport.abort()

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def proxied(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """With `tls`, clients speak TLS to the proxy; the server need not know."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.end()
        for _ in range(10):  # what is left of its connections ends while there is a loop
            await asyncio.sleep(0)
