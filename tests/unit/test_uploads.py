"""What uploads under way may take of memory and disk, and how long their files stay."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from server.http.problems import HttpError
from server.uploads.receiving import Uploads

TOTAL = 10_000
BODY = b"x" * 8_000


class Chunks:
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read_chunk(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    """All together may hold little in memory."""
    monkeypatch.setattr("server.uploads.receiving.MEMORY_BYTES_TOTAL", TOTAL)
    monkeypatch.setattr("server.uploads.receiving.DISK_BYTES_TOTAL", 2 * len(BODY))
    return Uploads(tmp_path, 1 << 20)


def held(uploads: Uploads) -> tuple[int, int]:
    return uploads.memory_bytes, uploads.disk_bytes


async def test_small_uploads_go_to_disk_while_many_are_under_way(uploads: Uploads) -> None:
    async with uploads.receive(Chunks(BODY)) as first:
        assert (first.path, first.data) == (None, BODY)
        async with uploads.receive(Chunks(BODY[:3_000], BODY[3_000:])) as second:
            assert held(uploads) == (len(BODY), len(BODY))
            assert second.path is not None
            assert second.path.read_bytes() == BODY
            assert second.sha256 == first.sha256
        async with uploads.receive(Chunks(b"small")) as third:
            assert third.path is None
    async with uploads.receive(Chunks(BODY)) as fourth:
        assert fourth.path is None
    assert held(uploads) == (0, 0)


async def test_past_the_place_on_disk_uploads_are_told_to_come_back(uploads: Uploads) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(uploads.receive(Chunks(BODY)))
        with pytest.raises(HttpError) as refused:
            await stack.enter_async_context(uploads.receive(Chunks(BODY)))
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "2"})
    assert held(uploads) == (0, 0)
    assert uploads.under_way == 0


async def test_a_file_stays_while_somebody_holds_it(uploads: Uploads, tmp_path: Path) -> None:
    async with uploads.receive(Chunks(BODY)):
        async with uploads.receive(Chunks(BODY)) as upload:
            assert upload.path is not None
            holding = upload.held()
            holding.__enter__()
        assert upload.path.read_bytes() == BODY
        holding.__exit__(None, None, None)
        assert list(tmp_path.iterdir()) == []
        assert held(uploads) == (len(BODY), 0)


async def test_a_file_that_is_dropped_takes_no_place_while_its_request_goes_on(uploads: Uploads) -> None:
    async with uploads.receive(Chunks(BODY)) as first, uploads.receive(Chunks(BODY)) as second:
        first.drop()
        second.drop()
        assert held(uploads) == (0, 0)
        assert (first.data, second.path and second.path.exists()) == (b"", False)
    assert held(uploads) == (0, 0)
