"""One application, asked over connections with and without the hot path: the same bytes, the same answers."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from server.app import build
from server.config import load
from server.http import request as http_request
from server.http.hot_path import HOT_PATH, HotPath
from server.http.keys import STORAGE
from server.observability.metrics import METRICS
from server.process.connections import Connection, Connections
from server.process.listening import Runner, runner_of
from storage.data_directory import DataDirectory
from storage.services.stack import Storage
from tests.support.gates import until
from tests.support.processes import ADMIN_TOKEN

SETTLED_TURNS = 25
"""Of the event loop, in which nothing happens to a request that waits for more of itself."""
PATIENCE_S = 30.0
LINGERING_S = 0.0005
"""For a body that does not come."""
FILLS_MAX = 4
FIRST_ID = 10**9
"""So that all ids of requests have one length, and all answers."""
_SOURCE = re.compile(rb"Cache-Status: [^\r]*")
_OWN = re.compile(rb"Date: [^\r]*|[0-9a-f]{8}-1[0-9]{9}")


class Wire(asyncio.Transport):
    """The other end of a connection, in memory. Takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.closed = False
        self.protocol: Connection

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class SlowWire(Wire):
    """Takes nothing until it is told to: the reader is slow."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = bytearray()

    def write(self, data: Any) -> None:
        assert not self.closed
        begins = not self.unsent
        self.unsent += data
        if begins:
            self.protocol.pause_writing()

    def take(self) -> None:
        self.written += self.unsent
        self.unsent.clear()
        self.protocol.resume_writing()

    def close(self) -> None:
        self.written += self.unsent
        self.unsent.clear()
        super().close()

    def abort(self) -> None:
        self.unsent.clear()
        super().close()

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)


class Told(NamedTuple):
    """What a connection was answered, less what is each answer's own; whether it has ended; what was
    counted."""

    answers: bytes
    closed: bool
    counted: dict[tuple[str, str, int], int]


class TwoWays:
    def __init__(self, app: web.Application, runner: Runner) -> None:
        self.app = app
        self.storage: Storage = app[STORAGE]
        hot_path = app[HOT_PATH]
        assert hot_path is not None
        self.hot_path: HotPath = hot_path
        self.hot = runner._answering
        self.cold = Connections(runner._answering)

    async def tell(self, way: Connections, chunks: Sequence[bytes], *, slow: bool = False) -> Told:
        """A new connection is sent these chunks, one after the other, each when nothing more comes. `slow`:
        by a caller that reads late, and then has sent all it will send."""
        before = dict(self.app[METRICS].requests)
        wire = SlowWire() if slow else Wire()
        connection = way()
        assert isinstance(connection, Connection)
        wire.protocol = connection
        connection._lingering_time = LINGERING_S
        connection.connection_made(wire)
        await asyncio.sleep(0)  # its task waits for a request now
        for chunk in chunks:
            if wire.closed:
                break
            connection.data_received(chunk)
            await settled(connection, wire)
        if isinstance(wire, SlowWire) and not wire.closed:
            connection.eof_received()
            await _read_to_the_end(wire)
        after = self.app[METRICS].requests
        counted = {what: n - before.get(what, 0) for what, n in after.items() if n != before.get(what, 0)}
        closed = wire.closed
        wire.close()
        await _ended(connection)
        return Told(_OWN.sub(b"?", bytes(wire.written)), closed, counted)

    async def compare(self, chunks: Sequence[bytes], *, slow: bool = False) -> tuple[Told, Told]:
        """Again when something has changed between the two, or when one has filled what the other found
        filled: then all but where it came from must be the same already."""
        for _ in range(FILLS_MAX):
            head = self.storage.tail.head
            hot = await self.tell(self.hot, chunks, slow=slow)
            cold = await self.tell(self.cold, chunks, slow=slow)
            if _but_source(hot) != _but_source(cold):
                # One unreadable request costs those that came in one chunk with it their answers, where it is
                # parsed with them: how a stream is cut is the network's affair.
                parts = [part for chunk in chunks for part in _heads(chunk)]
                cut = await self.tell(self.cold, parts, slow=slow)
                cold = cut if _but_source(hot) == _but_source(cut) else cold
            alike = hot == cold or _but_source(hot) != _but_source(cold)
            if head == self.storage.tail.head and alike and _codings(hot) == _codings(cold):
                break
        return hot, cold


def _codings(told: Told) -> list[bytes]:
    """One way may serve a body for the first time and the other for the second."""
    return re.findall(rb"\r\nContent-Encoding: ([^\r]*)", told.answers)


def _but_source(told: Told) -> Told:
    return told._replace(answers=_SOURCE.sub(b"?", told.answers))


def _heads(chunk: bytes) -> list[bytes]:
    """The same, cut behind each head."""
    return [part for part in re.split(rb"(?<=\r\n\r\n)", chunk) if part]


async def _read_to_the_end(wire: SlowWire) -> None:
    """Late, and all of it."""
    async with asyncio.timeout(PATIENCE_S):
        while not wire.closed:
            for _ in range(SETTLED_TURNS):
                await asyncio.sleep(0)
            if wire.unsent:
                wire.take()


async def settled(connection: Connection, wire: Wire) -> None:
    """Until all that can be answered is. Who waits for a reader is read from, late."""
    async with asyncio.timeout(PATIENCE_S):
        turns = late = 0
        while turns < SETTLED_TURNS:
            await asyncio.sleep(0)
            waiter = connection._waiter
            idle = waiter is not None and not waiter.done()
            if connection.transport is None or (idle and not connection._held and not connection._messages):
                return
            late += 1
            if isinstance(wire, SlowWire) and wire.unsent and late % SETTLED_TURNS == 0:
                wire.take()
            request = connection._current_request
            waits = request is not None and not request.content.is_eof() and not connection._held
            turns = turns + 1 if waits else 0


async def _ended(connection: Connection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: connection._manager is None)


@contextlib.asynccontextmanager
async def two_ways(folder: Path) -> AsyncIterator[TwoWays]:
    settings = load({"FACET_DATA_DIR": str(folder), "FACET_ADMIN_TOKEN": ADMIN_TOKEN})
    settings = msgspec.structs.replace(settings, model_workers=1)
    failures: list[tuple[str, BaseException]] = []
    directory = DataDirectory(settings.data_dir)
    directory.create()
    http_request._count = itertools.count(FIRST_ID)
    with directory:
        app = build(settings, directory, lambda name, error: failures.append((name, error)))
        runner = runner_of(app, settings)
        await runner.setup()
        try:
            yield TwoWays(app, runner)
        finally:
            await runner.cleanup()
    assert failures == []
