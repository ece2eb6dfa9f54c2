"""Receiving bodies: hashed while they arrive, kept in memory up to a bound and on disk past it, cut off when
they stall or trickle."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol, Self

import msgspec

from server.problems import HttpError

MEMORY_BYTES_MAX = 1 << 20
"""A larger upload is written to disk while it arrives."""
FRAMING_BYTES_MAX = 64 * 1024
"""What a multipart body may have around its file."""
UPLOADS_MAX = 256
"""Uploads under way at once; more are told to come back."""
BUFFER_BYTES = 1 << 18


class Source(Protocol):
    """A body or one field of a multipart body."""

    async def read_chunk(self) -> bytes:
        """Some bytes; none at the end."""
        ...


class Upload:
    """One received file. `path` is set when it went to disk; otherwise `data` holds it."""

    def __init__(self) -> None:
        self.data = b""
        self.path: Path | None = None
        self.sha256 = ""
        self.byte_count = 0

    @classmethod
    def of(cls, data: bytes) -> Self:
        """A file that is here already."""
        upload = cls()
        upload.data, upload.byte_count = data, len(data)
        upload.sha256 = hashlib.sha256(data).hexdigest()
        return upload

    @property
    def body(self) -> bytes | Path:
        return self.path if self.path is not None else self.data


class PaceBounds(msgspec.Struct, frozen=True, kw_only=True):
    """A body is cut off after `idle_s_max` without a byte, or when it brings fewer than `rate_bytes_min` a
    second, averaged over `window_s`. 65 MB at 10 Mbit/s pass."""

    idle_s_max: float = 20.0
    window_s: float = 20.0
    rate_bytes_min: int = 16 * 1024


PACE_BOUNDS = PaceBounds()


class Pace:
    """Whether a body comes fast enough."""

    def __init__(self, bounds: PaceBounds = PACE_BOUNDS, now_s: Callable[[], float] | None = None) -> None:
        self._bounds = bounds
        self._now_s = now_s or asyncio.get_running_loop().time
        self._window_began_s = self._now_s()
        self._window_bytes = 0

    async def next(self, source: Source) -> bytes:
        """The next bytes. Raises HttpError 408 when they do not come in time."""
        bounds = self._bounds
        try:
            async with asyncio.timeout(bounds.idle_s_max):
                chunk = await source.read_chunk()
        except TimeoutError:
            raise _too_slow(f"No byte came for {bounds.idle_s_max:g} s.") from None
        now_s = self._now_s()
        self._window_bytes += len(chunk)
        elapsed_s = now_s - self._window_began_s
        if elapsed_s >= bounds.window_s:
            if chunk and self._window_bytes < bounds.rate_bytes_min * elapsed_s:
                raise _too_slow(f"The body comes at less than {bounds.rate_bytes_min} bytes a second.")
            self._window_began_s, self._window_bytes = now_s, 0
        return chunk


class Uploads:
    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self.bytes_max = bytes_max
        self.under_way = 0

    def require_fits(self, length: int | None) -> None:
        """Raises HttpError 413 for a body announced as too long, before any of it is read."""
        if length is not None and length > self.bytes_max + FRAMING_BYTES_MAX:
            raise self._too_large()

    @contextlib.asynccontextmanager
    async def receive(self, source: Source) -> AsyncIterator[Upload]:
        """Raises HttpError 413, 408, 400 or 503. What went to disk is removed at the end unless moved."""
        if self.under_way >= UPLOADS_MAX:
            raise HttpError(503, "busy", f"{self.under_way} uploads are under way.", {"Retry-After": "2"})
        self.under_way += 1
        upload = Upload()
        try:
            await self._receive(source, upload)
            yield upload
        finally:
            self.under_way -= 1
            if upload.path is not None:
                upload.path.unlink(missing_ok=True)

    async def _receive(self, source: Source, upload: Upload) -> None:
        digest, pace = hashlib.sha256(), Pace()
        chunks: list[bytes] = []
        spool: Spool | None = None
        try:
            while chunk := await pace.next(source):
                upload.byte_count += len(chunk)
                if upload.byte_count > self.bytes_max:
                    raise self._too_large()
                digest.update(chunk)
                chunks.append(chunk)
                if spool is None and upload.byte_count > MEMORY_BYTES_MAX:
                    spool = Spool(self._directory)
                    upload.path = spool.path
                if spool is not None and sum(map(len, chunks)) >= BUFFER_BYTES:
                    await spool.write(chunks)
                    chunks = []
            if spool is not None:
                await spool.write(chunks)
        finally:
            if spool is not None:
                spool.close()
        upload.data = b"" if spool is not None else b"".join(chunks)
        upload.sha256 = digest.hexdigest()

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            "too_large",
            f"A model may have at most {self.bytes_max} bytes.",
            remedy="Export the model with a coarser tolerance, or as binary STL.",
        )


class Spool:
    """A file that chunks are appended to, off the event loop."""

    def __init__(self, directory: Path) -> None:
        self._descriptor, name = tempfile.mkstemp(dir=directory)
        self.path = Path(name)

    async def write(self, chunks: list[bytes]) -> None:
        await asyncio.to_thread(self._write_all, chunks)

    def _write_all(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        os.close(self._descriptor)


def _too_slow(detail: str) -> HttpError:
    return HttpError(408, "body_too_slow", detail, {"Connection": "close"})
