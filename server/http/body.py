"""Bodies as they arrive: how long each may take, how many are waited for, and that they are what they were
said to be."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web

from server.http.headers import announced_digest
from server.http.problems import HttpError
from storage.memory.fair_share import FairShare

AWAITED_MAX = 1_024
"""Bodies that are waited for at once. Each costs a connection and its handler, some 20 KB."""
SILENT_S_MIN = 2.0
"""When that many are: a body that has brought nothing for this long makes room for a new one."""
IDLE_SPREAD = 0.25
"""Of the time a body may bring nothing, this share is drawn by lot: thousands that were begun together do not
end together."""
HELD_BYTES_FREE = 4 << 10
"""Of a body that is read whole. Most are smaller: they are taken in whatever others hold."""
HELD_BYTES_TOTAL = 8 << 20
"""What all bodies that are read whole may hold beyond that; more are told to come back."""
JSON_ROUND_BYTES = 64 << 10
"""JSON that is read in one round of the event loop, and one body more: some 20 ms at most."""


class ByteSource(Protocol):
    """A body or one part of a form."""

    async def read_chunk(self) -> bytes:
        """Some bytes; none at the end."""


class PaceBounds(msgspec.Struct, frozen=True, kw_only=True):
    """A body is cut off after `idle_s_max` without a byte (and up to IDLE_SPREAD of that), or when it brings
    fewer than `rate_bytes_min` a second, averaged over `window_s`. 65 MB at 10 Mbit/s pass."""

    idle_s_max: float = 20.0
    window_s: float = 20.0
    rate_bytes_min: int = 16 * 1024


PACE_BOUNDS = PaceBounds()


class Bodies:
    """All bodies under way, the one that has brought nothing for longest first."""

    def __init__(self, most: int = AWAITED_MAX) -> None:
        self._most = most
        self._awaited: dict[asyncio.Timeout, float] = {}
        self.held_bytes = 0
        self.json_rounds = FairShare(JSON_ROUND_BYTES)

    def __len__(self) -> int:
        return len(self._awaited)

    def wait(self, deadline: asyncio.Timeout) -> None:
        """This one is waited for until its deadline. Raises HttpError 503 when too many are, and each of them
        has brought something lately."""
        now_s = asyncio.get_running_loop().time()
        if len(self._awaited) >= self._most:
            oldest, since_s = next(iter(self._awaited.items()))
            if now_s - since_s < SILENT_S_MIN:
                raise HttpError(
                    503, "busy", f"{len(self._awaited)} bodies are under way.", {"Retry-After": "2"}
                )
            del self._awaited[oldest]
            oldest.reschedule(now_s)
        self._awaited[deadline] = now_s

    def hold(self, byte_count: int) -> None:
        """Raises HttpError 503 when all together would hold too much."""
        if self.held_bytes + byte_count > HELD_BYTES_TOTAL:
            raise HttpError(503, "busy", "Too much is being received.", {"Retry-After": "2"})
        self.held_bytes += byte_count

    def go_on(self, deadline: asyncio.Timeout) -> None:
        self._awaited.pop(deadline, None)


class Pace:
    """Whether a body comes fast enough."""

    def __init__(
        self,
        bounds: PaceBounds = PACE_BOUNDS,
        now_s: Callable[[], float] | None = None,
        bodies: Bodies | None = None,
    ) -> None:
        self._bounds = bounds
        self._bodies = Bodies() if bodies is None else bodies
        self._idle_s = bounds.idle_s_max * random.uniform(1, 1 + IDLE_SPREAD)
        self._now_s = now_s or asyncio.get_running_loop().time
        self._window_began_s = self._now_s()
        self._window_bytes = 0

    async def next(self, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """What `read` returns. Raises HttpError 408 when it does not come in time, 503."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with asyncio.timeout(self._idle_s) as deadline:
                self._bodies.wait(deadline)
                try:
                    chunk = await read()
                finally:
                    self._bodies.go_on(deadline)
        except TimeoutError:
            raise _too_slow(f"No byte came for {loop.time() - began_s:.3g} s.") from None
        self._count(chunk)
        return chunk

    def _count(self, chunk: bytes) -> None:
        now_s, bounds = self._now_s(), self._bounds
        self._window_bytes += len(chunk)
        elapsed_s = now_s - self._window_began_s
        if elapsed_s >= bounds.window_s:
            if chunk and self._window_bytes < bounds.rate_bytes_min * elapsed_s:
                raise _too_slow(f"The body comes at less than {bounds.rate_bytes_min} bytes a second.")
            self._window_began_s, self._window_bytes = now_s, 0


class RawBody:
    """The request's body as a source of bytes, at its pace, held against the digest it was announced with."""

    def __init__(self, request: web.BaseRequest, bodies: Bodies) -> None:
        """Raises HttpError 400."""
        self._content = request.content
        self._pace = Pace(bodies=bodies)
        self._announced = announced_digest(request)
        self._digest = None if self._announced is None else hashlib.sha256()

    async def read_chunk(self) -> bytes:
        """Raises HttpError 408, 503, and 422 at the end of a body that is another one than was announced;
        ConnectionError."""
        chunk = await self._pace.next(self._read)
        if self._digest is not None:
            self._digest.update(chunk)
            if not chunk and self._digest.digest() != self._announced:
                raise HttpError(422, "digest_mismatch", "The body does not have the digest it came with.")
        return chunk

    async def _read(self) -> bytes:
        try:
            return await self._content.readany()
        except RuntimeError:
            # aiohttp's word for a connection that is lost between the end of a chunk and the next.
            if self._content._protocol.connected:
                raise
            raise ConnectionResetError("The connection is lost.") from None


async def read_whole(source: ByteSource, bytes_max: int, bodies: Bodies, what: str = "A body here") -> bytes:
    """Raises HttpError 413 for one that is longer, 503, and what the source raises."""
    raw, held_bytes = bytearray(), 0
    try:
        while chunk := await source.read_chunk():
            raw += chunk
            if len(raw) > bytes_max:
                raise HttpError(413, "too_large", f"{what} may have at most {bytes_max} bytes.")
            more_bytes = max(len(raw) - HELD_BYTES_FREE - held_bytes, 0)
            bodies.hold(more_bytes)
            held_bytes += more_bytes
        return bytes(raw)
    finally:
        bodies.held_bytes -= held_bytes


def _too_slow(detail: str) -> HttpError:
    return HttpError(408, "body_too_slow", detail, {"Connection": "close"})


BODIES: web.AppKey[Bodies] = web.AppKey("bodies", Bodies)
