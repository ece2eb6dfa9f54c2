"""Receiving bodies: hashed while they arrive, kept in memory up to a bound and on disk past it, cut off when
they stall or trickle."""

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from server.problems import HttpError

IDLE_S_MAX = 20.0
"""A body is cut off after this long without a byte."""
RATE_WINDOW_S = 20.0
RATE_BYTES_MIN = 16 * 1024
"""... or when it brings fewer bytes a second than this, averaged over the window. 65 MB at 10 Mbit/s pass."""
MEMORY_BYTES_MAX = 1 << 20
"""A larger upload is written to disk while it arrives."""
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

    @property
    def body(self) -> bytes | Path:
        return self.path if self.path is not None else self.data


class Pace:
    """Whether a body comes fast enough."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._window_began_s = self._loop.time()
        self._window_bytes = 0

    async def next(self, source: Source) -> bytes:
        """The next bytes. Raises HttpError 408 when they do not come in time."""
        try:
            async with asyncio.timeout(IDLE_S_MAX):
                chunk = await source.read_chunk()
        except TimeoutError:
            raise _too_slow(f"No byte came for {IDLE_S_MAX:g} s.") from None
        now_s = self._loop.time()
        self._window_bytes += len(chunk)
        elapsed_s = now_s - self._window_began_s
        if elapsed_s >= RATE_WINDOW_S:
            if chunk and self._window_bytes < RATE_BYTES_MIN * elapsed_s:
                raise _too_slow(f"The body comes at less than {RATE_BYTES_MIN // 1024} KiB/s.")
            self._window_began_s, self._window_bytes = now_s, 0
        return chunk


class Uploads:
    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self.bytes_max = bytes_max
        self.under_way = 0

    @contextlib.asynccontextmanager
    async def receive(self, source: Source, length: int | None) -> AsyncIterator[Upload]:
        """Raises HttpError 413, 408, 400 or 503. What went to disk is removed at the end unless moved."""
        if length is not None and length > self.bytes_max:
            raise self._too_large()
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
