"""Receiving models: hashed while they arrive, kept in memory up to a bound and on disk past it.

Two bounds decide what is kept in memory: one for each body, so that a large one costs no more than a small
one, and one for all of them together, so that a thousand small ones at once are received as well, most of
them on disk.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self

from aiohttp import web

from server.http.body import ByteSource
from server.http.problems import HttpError
from server.uploads.spool import BUFFER_BYTES, Chunks, Spool
from storage.memory.fair_share import FairShare

MEMORY_BYTES_MAX = 1 << 20
"""A larger upload is written to disk while it arrives."""

READ_AHEAD_BYTES = 16 << 10
"""Past twice this, no more is read from a connection until its handler has taken what there is."""

READ_BYTES = 256 << 10
"""What the event loop may read from a connection at once."""

CONNECTION_BYTES_MAX = 2 * (READ_BYTES + 2 * READ_AHEAD_BYTES)
"""What one upload under way may hold beyond what all of them may: what was read last waits for its handler,
and what was read before for the disk."""

FRAMING_BYTES_MAX = 64 * 1024
"""What a multipart body may have around its file."""

MEMORY_BYTES_TOTAL = 32 << 20
"""What all uploads under way may hold in memory; past it they go to disk as they arrive."""

RESERVED_BYTES_MAX = 64 << 20

RESERVED_BYTES_TOTAL = 128 << 20
"""A body that announces its length is held in memory, up to the first of these while there is room in the
second: whether it must be on disk is known at its last byte, and most models are known."""

DISK_BYTES_TOTAL = 8 << 30
"""What all uploads under way may take on disk; more are told to come back."""

UPLOADS_MAX = 4096
"""Uploads under way at once; more are told to come back. Each costs a connection, and what is read ahead of
it."""


class Upload:
    """One received file. `path` is set when it went to disk; otherwise `data` holds it, or, of a large one,
    the chunks it came in."""

    def __init__(self, forget: Callable[[], None] = lambda: None) -> None:
        """`forget` is called when it takes no more place."""
        self._forget = forget
        self._store: Callable[[], Awaitable[None]] | None = None
        self.dropped = False
        self.data = b""
        self.path: Path | None = None
        self.sha256 = ""
        self.byte_count = 0
        self._holders = 1

    @classmethod
    def of(cls, data: bytes) -> Self:
        """A file that is here already."""
        upload = cls()
        upload.data, upload.byte_count = data, len(data)
        upload.sha256 = hashlib.sha256(data).hexdigest()
        return upload

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A file on disk stays there until this is left, also when its request is over."""
        self._holders += 1
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """One holder less. With the last the file goes."""
        self._holders -= 1
        if self._holders == 0:
            self.drop()

    def drop(self) -> None:
        """The file is not needed any more; what is known of it stays."""
        self.dropped = True
        self.data = b""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self._forget()

    def keep_chunks(self, store: Callable[[], Awaitable[None]]) -> None:
        """It is held in chunks, and `store` brings them to disk."""
        self._store = store

    async def stored(self) -> bytes | Path:
        """The whole file: a small one as bytes, a large one where it lies on disk. Raises HttpError 503."""
        if self._store is not None:
            store, self._store = self._store, None
            await store()
        return self.path if self.path is not None else self.data


class Uploads:
    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self.bytes_max = bytes_max
        self.rounds = FairShare()
        self.under_way = 0
        self.memory_bytes = self.disk_bytes = 0
        self.reserved_bytes = 0
        """What the uploads under way hold, or may come to hold."""

    def require_fits(self, length: int | None) -> None:
        """Raises HttpError 413 for a body announced as too long, before any of it is read."""
        if length is not None and length > self.bytes_max + FRAMING_BYTES_MAX:
            raise self.too_large()

    @contextlib.asynccontextmanager
    async def receive(self, source: ByteSource, length: int | None = None) -> AsyncIterator[Upload]:
        """`length`: as announced, at least that of the file. Raises HttpError 413, 408, 400 or 503. What went
        to disk is removed at the end, or when its last holder releases it."""
        if self.under_way >= UPLOADS_MAX:
            raise _busy(f"{self.under_way} uploads are under way.")
        self.under_way += 1
        arriving = _Arriving(self, self._reserve(length or 0))
        try:
            yield await arriving.receive(source)
        finally:
            self.under_way -= 1
            arriving.upload.release()

    def _reserve(self, length: int) -> int:
        """Memory for a body that is large, but not too large to be held: its length, or 0."""
        fits = MEMORY_BYTES_MAX < length <= RESERVED_BYTES_MAX
        if not fits or self.reserved_bytes + length > RESERVED_BYTES_TOTAL:
            return 0
        self.reserved_bytes += length
        return length

    def new_spool(self) -> "Spool":
        return Spool(self._directory)

    def too_large(self) -> HttpError:
        return HttpError(
            413,
            "too_large",
            f"A model may have at most {self.bytes_max} bytes.",
            remedy="Export the model with a coarser tolerance, or as binary STL.",
        )


class _Arriving:
    """One body on its way into memory or onto disk, counted among all of them."""

    def __init__(self, uploads: Uploads, reserved_bytes: int) -> None:
        self._uploads = uploads
        self._reserved_bytes = reserved_bytes
        self.upload = Upload(self._no_longer_counts)
        self._digest = hashlib.sha256()
        self._chunks = Chunks()
        self._memory_bytes = self._disk_bytes = 0
        self._spool: Spool | None = None

    async def receive(self, source: ByteSource) -> Upload:
        while chunk := await source.read_chunk():
            await self._take(chunk)
        await self._finish()
        return self.upload

    def _no_longer_counts(self) -> None:
        self._count(-self._memory_bytes, -self._disk_bytes)
        self._release_reserved()
        self._chunks.take()

    def _release_reserved(self) -> None:
        self._uploads.reserved_bytes -= self._reserved_bytes
        self._reserved_bytes = 0

    async def _take(self, chunk: bytes) -> None:
        upload, uploads = self.upload, self._uploads
        upload.byte_count += len(chunk)
        if upload.byte_count > uploads.bytes_max:
            raise uploads.too_large()
        await uploads.rounds.turn(len(chunk))
        self._digest.update(chunk)
        self._chunks.append(chunk)
        if upload.byte_count <= self._reserved_bytes:
            return
        self._count(len(chunk), 0)
        crowded = uploads.memory_bytes > MEMORY_BYTES_TOTAL
        if self._spool is None and (crowded or upload.byte_count > MEMORY_BYTES_MAX):
            self._spool = self._new_spool()
        if self._spool is not None and (crowded or self._memory_bytes >= BUFFER_BYTES):
            await self._write(self._spool)

    def _new_spool(self) -> "Spool":
        spool = self._uploads.new_spool()
        self.upload.path = spool.path
        return spool

    async def _to_disk(self) -> None:
        """What was held in reserved memory. Raises HttpError 503."""
        await self._write(self._new_spool())
        self._release_reserved()

    async def _write(self, spool: "Spool") -> None:
        """Raises HttpError 503."""
        byte_count = self._chunks.byte_count
        if self._uploads.disk_bytes + byte_count > DISK_BYTES_TOTAL:
            raise _busy("The uploads under way take all the place there is for them.")
        self._count(0, byte_count)
        await spool.write(self._chunks.take())
        self._count(-self._memory_bytes, 0)

    async def _finish(self) -> None:
        if self._spool is not None:
            if self._chunks.byte_count:
                await self._write(self._spool)
        elif self.upload.byte_count > MEMORY_BYTES_MAX:
            self.upload.keep_chunks(self._to_disk)
        else:
            self.upload.data = b"".join(self._chunks.take())
        self.upload.sha256 = self._digest.hexdigest()

    def _count(self, memory_bytes: int, disk_bytes: int) -> None:
        self._memory_bytes += memory_bytes
        self._disk_bytes += disk_bytes
        self._uploads.memory_bytes += memory_bytes
        self._uploads.disk_bytes += disk_bytes


def _busy(detail: str) -> HttpError:
    return HttpError(503, "busy", detail, {"Retry-After": "2"})


UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
