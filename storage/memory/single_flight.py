"""Concurrent callers of one key share a single load."""

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
        return await asyncio.shield(self.start(key, load))

    def start(self, key: Key, load: Callable[[], Awaitable[Value]]) -> "asyncio.Task[Value]":
        """The load of this key, begun if none is under way. Nobody need wait for it."""
        if (flight := self._flights.get(key)) is None:
            flight = asyncio.create_task(_run(load), name=f"load {key}")
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    def under_way(self, key: Key) -> bool:
        return key in self._flights

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


class SharedLook:
    """One look for all who ask before it begins, and at most one in every `pause_s`: however many ask, what
    is asked hardly notices. A caller is told what was seen after it asked."""

    def __init__(self, look: Callable[[], Awaitable[bool]], pause_s: float) -> None:
        self._look = look
        self._pause_s = pause_s
        self._next: asyncio.Task[bool] | None = None
        self._last_s = 0.0

    async def __call__(self) -> bool:
        if self._next is None:
            self._next = asyncio.create_task(self._run(), name="look")
        return await asyncio.shield(self._next)

    async def _run(self) -> bool:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._last_s + self._pause_s - loop.time())
        self._next, self._last_s = None, loop.time()  # who comes from now on needs another
        return await self._look()
