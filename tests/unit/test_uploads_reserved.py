"""Large bodies that announce their length: held in memory without a copy, on disk only when somebody needs
them there, and never more of them than there is room for."""

import hashlib
from pathlib import Path

import pytest

from server.uploads import receiving as bounds
from server.uploads.receiving import Uploads

SOME_BYTES = 1 << 18
LARGE_BYTES = bounds.MEMORY_BYTES_MAX + SOME_BYTES


class Given:
    """A body in these pieces."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read_chunk(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


def pieces(byte_count: int, each: int = SOME_BYTES) -> list[bytes]:
    count, rest = divmod(byte_count, each)
    return [bytes([n % 256]) * each for n in range(count)] + ([b"e" * rest] if rest else [])


def receiving(directory: Path) -> Uploads:
    return Uploads(directory, 1 << 30)


async def test_an_announced_body_touches_the_disk_only_when_it_is_needed_there(tmp_path: Path) -> None:
    uploads, chunks = receiving(tmp_path), pieces(LARGE_BYTES)
    async with uploads.receive(Given(*chunks), LARGE_BYTES) as upload:
        assert (upload.byte_count, upload.sha256) == (
            LARGE_BYTES,
            hashlib.sha256(b"".join(chunks)).hexdigest(),
        )
        assert list(tmp_path.iterdir()) == []
        assert (uploads.reserved_bytes, uploads.memory_bytes, uploads.disk_bytes) == (LARGE_BYTES, 0, 0)
        path = await upload.stored()
        assert isinstance(path, Path)
        assert path.read_bytes() == b"".join(chunks)
        assert await upload.stored() == path
        assert (uploads.reserved_bytes, uploads.disk_bytes) == (0, LARGE_BYTES)
    assert list(tmp_path.iterdir()) == []
    assert (uploads.reserved_bytes, uploads.memory_bytes, uploads.disk_bytes) == (0, 0, 0)


async def test_what_is_never_stored_is_given_back_as_well(tmp_path: Path) -> None:
    uploads = receiving(tmp_path)
    async with uploads.receive(Given(*pieces(LARGE_BYTES)), LARGE_BYTES) as upload:
        upload.drop()
        assert uploads.reserved_bytes == 0
    assert uploads.reserved_bytes == 0


async def test_memory_for_large_bodies_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.uploads.receiving.RESERVED_BYTES_TOTAL", 2 * LARGE_BYTES - 1)
    uploads, chunks = receiving(tmp_path), pieces(LARGE_BYTES)
    async with (
        uploads.receive(Given(*chunks), LARGE_BYTES) as first,
        uploads.receive(Given(*chunks), LARGE_BYTES) as second,
    ):
        assert uploads.reserved_bytes == LARGE_BYTES
        assert (first.path, second.path is not None) == (None, True)
        path = await second.stored()
        assert isinstance(path, Path)
        assert path.read_bytes() == b"".join(chunks)
    async with uploads.receive(Given(*chunks), bounds.RESERVED_BYTES_MAX + 1) as huge:
        assert huge.path is not None


async def test_a_body_that_brings_more_than_it_announced_is_whole_and_bounded(tmp_path: Path) -> None:
    uploads, chunks = receiving(tmp_path), pieces(3 * LARGE_BYTES)
    async with uploads.receive(Given(*chunks), LARGE_BYTES) as upload:
        path = await upload.stored()
        assert isinstance(path, Path)
        assert path.read_bytes() == b"".join(chunks)
    assert (uploads.reserved_bytes, uploads.memory_bytes, uploads.disk_bytes) == (0, 0, 0)


async def test_tiny_pieces_are_put_together_in_order(tmp_path: Path) -> None:
    uploads, chunks = receiving(tmp_path), pieces(LARGE_BYTES, 333)
    chunks[500:500] = [b"large" * 10_000]
    total = sum(map(len, chunks))
    async with uploads.receive(Given(*chunks), total) as upload:
        path = await upload.stored()
        assert isinstance(path, Path)
        assert path.read_bytes() == b"".join(chunks)
