"""One load for any number of callers, and one lock per key."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SingleFlight(Generic[Key, Value]):
    """Callers of the same key share one load. The load is a task of its own: a caller that goes away
    does not take it from the others."""

    def __init__(self) -> None:
        self._flights: dict[Key, asyncio.Task[Value]] = {}

    async def do(self, key: Key, load: Callable[[], Awaitable[Value]]) -> Value:
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(_run(load), name=f"load {key}")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def forget(self, key: Key) -> None:
        """Later callers start a load of their own: what is under way may be older than they need."""
        self._flights.pop(key, None)

    def clear(self) -> None:
        self._flights.clear()

    def _landed(self, key: Key, flight: "asyncio.Task[Value]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # seen, even when every caller has gone


async def _run(load: Callable[[], Awaitable[Value]]) -> Value:
    return await load()


class KeyedLocks(Generic[Key]):
    """A lock per key, forgotten when nobody holds or wants it."""

    def __init__(self) -> None:
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    def hold(self, key: Key) -> "_Hold[Key]":
        """Use with `async with`."""
        return _Hold(self._locks, key)


class _Hold(Generic[Key]):
    __slots__ = ("_key", "_lock", "_locks")

    def __init__(self, locks: dict[Key, tuple[asyncio.Lock, int]], key: Key) -> None:
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._key) or (asyncio.Lock(), 0)
        self._locks[self._key] = (lock, users + 1)
        self._lock = lock
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        lock, users = self._locks[self._key]
        if users == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = (lock, users - 1)
