"""What every log keeps to. A new implementation subclasses `LogContract` and says how it is opened."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from storage.errors import LogUnavailable
from storage.log.entries import AnswerKept, AnyEntry, Position, encode_entry
from storage.log.log import Log
from tests.support.changes import START, an_order, created, entry_of, id_of, remembered

LATER = START + timedelta(days=1)

Opens = Callable[[], Awaitable[Log]]


def plain(n: int) -> AnyEntry:
    return entry_of(created(an_order(n)))


def keyed(key: str, hours: int = 0) -> AnyEntry:
    at = START + timedelta(hours=hours)
    return AnswerKept(id=id_of(sum(key.encode())), at=at, remembered=remembered(key))


async def numbers(log: Log) -> list[int]:
    return [item.n for item in await log.read(0, 1_000)]


class LogContract:
    """`opens` opens the same log, as often as it is called; whoever calls twice closes in between."""

    @pytest.fixture
    def opens(self) -> Opens:
        raise NotImplementedError

    @pytest.fixture
    async def log(self, opens: Opens) -> Log:
        return await opens()

    async def test_a_new_log_is_empty_and_has_no_epoch_yet(self, log: Log) -> None:
        assert (log.epoch, log.head) == (0, 0)
        assert await log.read(0, 10) == []

    async def test_positions_grow_by_one_and_entries_come_back_in_order(self, log: Log) -> None:
        entries = [plain(n) for n in range(1, 6)]
        first, second = await log.append(entries[:2]), await log.append(entries[2:])
        assert [item.n for item in (*first, *second)] == [1, 2, 3, 4, 5]
        assert log.head == 5
        found = await log.read(0, 10)
        assert [item.entry for item in found] == entries
        assert found == [*first, *second]
        assert found[0].byte_count == len(encode_entry(entries[0]))

    async def test_reading_begins_behind_a_position_and_ends_at_a_limit(self, log: Log) -> None:
        await log.append([plain(n) for n in range(1, 6)])
        assert [item.n for item in await log.read(2, 2)] == [3, 4]
        assert [item.n for item in await log.read(4, 10)] == [5]
        assert await log.read(5, 10) == []

    async def test_a_group_is_appended_whole_or_not_at_all(self, log: Log) -> None:
        """A key can be used once: the group with its second use leaves nothing behind."""
        await log.append([keyed("a")])
        with pytest.raises(LogUnavailable):
            await log.append([plain(1), keyed("a", hours=1), plain(2)])
        assert await log.recover() == []
        assert log.head == 1
        assert await numbers(log) == [1]
        assert [item.n for item in await log.append([plain(3)])] == [2]

    async def test_entries_and_head_survive_closing(self, opens: Opens) -> None:
        log = await opens()
        await log.begin_epoch(7)
        await log.append([plain(1), plain(2)])
        await log.close()
        log = await opens()
        assert (log.epoch, log.head) == (7, 2)
        assert [item.entry for item in await log.read(0, 10)] == [plain(1), plain(2)]

    async def test_positions_go_on_after_everything_was_trimmed_and_the_log_was_closed(
        self, opens: Opens
    ) -> None:
        log = await opens()
        await log.append([plain(n) for n in range(1, 4)])
        assert await log.trim(3, START, 100) == 3
        await log.close()
        log = await opens()
        assert log.head == 3
        assert [item.n for item in await log.append([plain(4)])] == [4]

    async def test_nothing_beyond_the_flushed_position_is_trimmed(self, log: Log) -> None:
        await log.append([plain(1), keyed("a"), plain(2), keyed("b"), plain(3)])
        assert await log.trim(3, LATER, 100) == 3
        assert await numbers(log) == [4, 5]

    async def test_a_trim_removes_no_more_than_its_limit_and_the_next_goes_on(self, log: Log) -> None:
        await log.append([plain(n) for n in range(1, 8)])
        assert await log.trim(7, LATER, 3) == 3
        assert await numbers(log) == [4, 5, 6, 7]
        assert await log.trim(7, LATER, 3) == 3
        assert await log.trim(7, LATER, 3) == 1
        assert await log.trim(7, LATER, 3) == 0

    async def test_trimming_goes_on_where_it_was_after_reopening(self, opens: Opens) -> None:
        log = await opens()
        await log.append([plain(1), keyed("a"), plain(2), plain(3)])
        await log.trim(1, START, 100)
        await log.close()
        log = await opens()
        assert await log.trim(4, START, 100) == 2
        assert await numbers(log) == [2]

    async def test_entries_with_a_key_stay_until_they_are_old_enough(self, log: Log) -> None:
        await log.append([keyed("a", hours=1), plain(1), keyed("b", hours=2)])
        await log.trim(3, START + timedelta(hours=1), 100)
        assert await numbers(log) == [1, 3]
        await log.trim(3, START + timedelta(hours=2), 100)
        assert await numbers(log) == [3]
        await log.trim(3, START + timedelta(hours=3), 100)
        assert await numbers(log) == []

    async def test_the_answer_to_a_key_is_found_while_the_log_keeps_it(self, opens: Opens) -> None:
        log = await opens()
        await log.begin_epoch(3)
        await log.append([plain(1), keyed("a"), keyed("b")])
        await log.close()
        log = await opens()
        await log.trim(3, START, 100)
        assert await log.find_remembered("scope a") == (Position(3, 2), keyed("a"))
        assert await log.find_remembered("scope c") is None
        await log.trim(3, LATER, 100)
        assert await log.find_remembered("scope a") is None

    async def test_the_scopes_of_all_answers_come_in_their_order_so_many_at_a_time(self, log: Log) -> None:
        await log.append([keyed(str(n)) if n % 3 else plain(n) for n in range(1, 9)])
        after, found = 0, []
        while some := await log.scopes(after, 2):
            assert len(some) <= 2
            found += some
            after = some[-1][0]
        assert found == [(n, f"scope {n}") for n in (1, 2, 4, 5, 7, 8)]

    async def test_a_new_epoch_is_empty_and_counts_from_the_beginning(self, opens: Opens) -> None:
        log = await opens()
        await log.append([plain(1), keyed("a")])
        await log.trim(2, START, 100)
        await log.begin_epoch(2)
        assert (log.epoch, log.head) == (2, 0)
        assert await log.read(0, 10) == []
        assert await log.find_remembered("scope a") is None
        assert [item.n for item in await log.append([plain(2), keyed("a")])] == [1, 2]
        assert await log.trim(2, START, 100) == 1
        await log.close()
        log = await opens()
        assert (log.epoch, log.head) == (2, 2)
