"""What has come of an upload: chunks in memory, and a file that they are appended to."""

import asyncio
import os
import tempfile
from pathlib import Path

CHUNK_BYTES_MIN = 4096
"""Chunks are kept as they come, without copying; smaller ones are put together: each costs an object."""

BUFFER_BYTES = 1 << 18


class Chunks:
    """What has come of a body, in order."""

    def __init__(self) -> None:
        self.byte_count = 0
        self._whole: list[bytes] = []
        self._small = bytearray()

    def append(self, chunk: bytes) -> None:
        self.byte_count += len(chunk)
        if len(chunk) < CHUNK_BYTES_MIN:
            self._small += chunk
            if len(self._small) < BUFFER_BYTES:
                return
            chunk = b""
        if self._small:
            self._whole.append(bytes(self._small))
            self._small.clear()
        if chunk:
            self._whole.append(chunk)

    def take(self) -> list[bytes]:
        """All of it; nothing is left."""
        taken = [*self._whole, bytes(self._small)]
        self.byte_count, self._whole, self._small = 0, [], bytearray()
        return taken


class Spool:
    """A file that chunks are appended to, off the event loop. Open only while it is written to: a thousand
    uploads need a thousand connections already."""

    def __init__(self, directory: Path) -> None:
        descriptor, name = tempfile.mkstemp(dir=directory)
        os.close(descriptor)
        self.path = Path(name)

    async def write(self, chunks: list[bytes]) -> None:
        await asyncio.to_thread(self._write_all, chunks)

    def _write_all(self, chunks: list[bytes]) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)  # never made again once removed
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
