"""One load for any number of callers, and one lock per key."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def hold(self, key: Key) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (None, 0))
        if lock is None:
            lock = asyncio.Lock()
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)
