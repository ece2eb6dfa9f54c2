"""A key that was answered is known, whenever that was; one that is new is not looked for in the log."""

from pathlib import Path
from typing import Any

import pytest

from storage.errors import LogUnavailable
from storage.log.entries import AnswerKept, AnyEntry, Position
from storage.services.stack import Storage
from storage.sqlite.log import SqliteLog
from tests.support.changes import START, id_of, remembered
from tests.support.gates import Gate, until
from tests.support.stacks import ManualClock, log_of, opened


class WatchedLog(SqliteLog):
    """Lists its scopes when it is let to, or not at all, and tells what it was asked for."""

    listing = Gate()
    away = False
    asked: list[str]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked = []

    async def scopes(self, after: int, limit: int) -> list[tuple[int, str]]:
        await self.listing.enter()
        if self.away:
            raise LogUnavailable("The log is away.")
        return await super().scopes(after, limit)

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        self.asked.append(scope)
        return await super().find_remembered(scope)


def answered(n: int) -> AnswerKept:
    return AnswerKept(id=id_of(n), at=START, remembered=remembered(str(n)))


async def known(storage: Storage, n: int) -> bool:
    return await storage.change_log.find_remembered(f"scope {n}") is not None


@pytest.fixture
async def path(tmp_path: Path, clock: ManualClock) -> Path:
    """A log with three answers, which nobody has in memory any more."""
    path = tmp_path / "data"
    async with opened(path, clock) as storage:
        for n in range(1, 4):
            await storage.change_log.append(answered(n))
    return path


def watched(storage: Storage) -> WatchedLog:
    log = log_of(storage)
    assert isinstance(log, WatchedLog)
    return log


async def test_a_new_key_is_looked_for_until_those_of_the_log_are_listed(
    path: Path, clock: ManualClock
) -> None:
    async with WatchedLog.listing.closed(), opened(path, clock, log_type=WatchedLog) as storage:
        log = watched(storage)
        assert [await known(storage, n) for n in (1, 3, 4)] == [True, True, False]
        assert len(log.asked) == 3
        WatchedLog.listing.open()
        await until(lambda: storage.change_log._listed)  # type: ignore[attr-defined]
        log.asked.clear()
        assert [await known(storage, n) for n in (1, 2, 3, 5, 6)] == [True, True, True, False, False]
        assert log.asked == ["scope 1", "scope 2", "scope 3"]
        await storage.change_log.append(answered(7))
        storage.change_log._remembered.discard("scope 7")  # type: ignore[attr-defined]
        assert await known(storage, 7)


async def test_a_log_that_cannot_list_them_is_asked_each_time(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WatchedLog, "away", True)
    async with opened(path, clock, log_type=WatchedLog) as storage:
        listing = storage.change_log._listing  # type: ignore[attr-defined]
        await until(listing.done)
        assert [await known(storage, n) for n in (2, 4)] == [True, False]
        assert watched(storage).asked == ["scope 2", "scope 4"]
