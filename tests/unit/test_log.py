"""The log in a SQLite file keeps the contract of logs, and what is its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import Incompatible, Invalid, LogUnavailable
from storage.log.entries import Position, encode_entry, parse_position
from storage.log.log import Log
from storage.sqlite.log import SqliteLog
from tests.contracts.log import LATER, LogContract, Opens, plain
from tests.support.gates import execute, locked


class TestSqliteLog(LogContract):
    @pytest.fixture
    async def opens(self, tmp_path: Path) -> AsyncIterator[Opens]:
        opened: list[SqliteLog] = []

        async def opens() -> Log:
            opened.append(SqliteLog(tmp_path / "log.db", 0.05, 5.0))
            await opened[-1].open()
            return opened[-1]

        yield opens
        await opened[-1].close()

    async def test_a_locked_file_refuses_and_accepts_again_when_it_is_free(
        self, log: Log, tmp_path: Path
    ) -> None:
        with locked(tmp_path / "log.db"):
            with pytest.raises(LogUnavailable):
                await log.append([plain(1)])
            with pytest.raises(LogUnavailable):
                await log.trim(0, LATER, 1)
            assert await log.recover() == []
        assert [item.n for item in await log.append([plain(1)])] == [1]

    async def test_what_reached_the_file_is_recovered_when_the_answer_got_lost(
        self, log: Log, tmp_path: Path
    ) -> None:
        """Another connection writes what this one's failed append may have written."""
        await log.append([plain(1)])
        execute(
            tmp_path / "log.db",
            f"INSERT INTO entries VALUES (2, 0, NULL, x'{encode_entry(plain(2)).hex()}')",
        )
        with pytest.raises(LogUnavailable):
            await log.append([plain(2)])
        assert [(item.n, item.entry) for item in await log.recover()] == [(2, plain(2))]
        assert log.head == 2
        assert [item.n for item in await log.append([plain(3)])] == [3]

    async def test_a_file_of_a_newer_release_is_refused(self, opens: Opens, tmp_path: Path) -> None:
        await opens()
        execute(tmp_path / "log.db", "PRAGMA user_version = 99")
        newer = SqliteLog(tmp_path / "log.db", 0.05, 5.0)
        with pytest.raises(Incompatible):
            await newer.open()
        await newer._writer.close()

    async def test_a_commit_reaches_the_disk_before_it_is_acknowledged(self, log: Log) -> None:
        assert isinstance(log, SqliteLog)
        modes = [await log._one(f"PRAGMA {name}") for name in ("journal_mode", "synchronous")]
        assert [mode[0] for mode in modes] == ["wal", 2]


def test_positions_are_written_and_read_as_text() -> None:
    assert str(Position(3, 17)) == "3-17"
    assert parse_position("3-17") == Position(3, 17)


@pytest.mark.parametrize(
    "text", ["", "3", "3-", "-3", "3-x", "3--1", "٣-1", "1-2-3", " 1-2", "9" * 19 + "-1"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_position(text)
