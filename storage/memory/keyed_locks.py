"""One lock per key."""

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_Locks = dict[Key, deque[asyncio.Future[None]] | None]
"""What is held, with its waiters; mostly none."""


class KeyedLocks(Generic[Key]):
    """A lock per key, first come, first served; forgotten when it is neither held nor wanted."""

    def __init__(self) -> None:
        self._locks: _Locks[Key] = {}

    def hold(self, key: Key) -> "_Hold[Key]":
        """Use with `async with`."""
        return _Hold(self._locks, key)


class _Hold(Generic[Key]):
    __slots__ = ("_key", "_locks")

    def __init__(self, locks: _Locks[Key], key: Key) -> None:
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        if self._key not in self._locks:
            self._locks[self._key] = None
            return
        if (waiting := self._locks[self._key]) is None:
            waiting = self._locks[self._key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # its turn had come already
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        waiting = self._locks[self._key]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._locks[self._key]
