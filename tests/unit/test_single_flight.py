"""One load for any number of callers; one lock per key."""

import asyncio

import pytest

from storage.errors import DatabaseUnavailable
from storage.memory.keyed_locks import KeyedLocks
from storage.memory.single_flight import SingleFlight
from tests.support.gates import Gate, turns


class Loads:
    def __init__(self) -> None:
        self.gate = Gate()
        self.count = 0
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.count += 1
        number = self.count
        await self.gate.enter()
        if self.error is not None:
            raise self.error
        return number


async def test_callers_share_one_load_and_the_next_begins_another() -> None:
    flights, load = SingleFlight[str, int](), Loads()
    async with load.gate.closed():
        callers = [asyncio.create_task(flights.do("a", load)) for _ in range(100)]
        other = asyncio.create_task(flights.do("b", load))
        await turns()
    assert await asyncio.gather(*callers) == [1] * 100
    assert await other == 2
    assert await flights.do("a", load) == 3


async def test_an_error_reaches_every_caller_and_is_not_kept() -> None:
    flights, load = SingleFlight[str, int](), Loads()
    load.error = DatabaseUnavailable()
    results = await asyncio.gather(*(flights.do("a", load) for _ in range(5)), return_exceptions=True)
    assert results == [load.error] * 5
    load.error = None
    assert await flights.do("a", load) == 2


async def test_the_load_goes_on_when_its_first_caller_goes_away() -> None:
    flights, load = SingleFlight[str, int](), Loads()
    async with load.gate.closed():
        first = asyncio.create_task(flights.do("a", load))
        await turns()
        second = asyncio.create_task(flights.do("a", load))
        await turns()
        first.cancel()
        await turns()
    assert await second == 1
    assert first.cancelled()


async def test_whoever_asks_after_forgetting_gets_a_load_of_their_own() -> None:
    flights, load = SingleFlight[str, int](), Loads()
    async with load.gate.closed():
        early = asyncio.create_task(flights.do("a", load))
        await turns()
        flights.forget("a")
        late = [asyncio.create_task(flights.do("a", load)) for _ in range(2)]
        await turns()
    assert await early == 1
    assert await asyncio.gather(*late) == [2, 2]


async def test_locks_of_one_key_exclude_each_other_in_the_order_of_asking() -> None:
    locks, gate, seen = KeyedLocks[str](), Gate(), list[str]()

    async def act(key: str, name: str) -> None:
        async with locks.hold(key):
            seen.append(name)
            await gate.enter()

    async with gate.closed():
        tasks = [asyncio.create_task(act("a", "first")), asyncio.create_task(act("a", "second"))]
        tasks.append(asyncio.create_task(act("b", "other")))
        await gate.reached(2)
        assert seen == ["first", "other"]
    await asyncio.gather(*tasks)
    assert seen == ["first", "other", "second"]
    assert locks._locks == {}


async def test_a_lock_is_let_go_by_whoever_fails_or_is_cancelled() -> None:
    locks, gate = KeyedLocks[str](), Gate()

    async def act() -> None:
        async with locks.hold("a"):
            await gate.enter()
            raise ValueError("failed")

    async with gate.closed():
        holder, waiter = asyncio.create_task(act()), asyncio.create_task(act())
        await gate.reached()
        waiter.cancel()
        await turns()
        assert waiter.cancelled()
    with pytest.raises(ValueError, match="failed"):
        await holder
    assert locks._locks == {}
    async with locks.hold("a"):
        assert list(locks._locks) == ["a"]
