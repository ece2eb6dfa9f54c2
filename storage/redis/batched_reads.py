"""Reads from Redis. Those of one turn of the event loop travel together."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from storage.bounds import Bounds
from storage.errors import LogUnavailable
from storage.redis.connection import Argument, CommandRefused, RedisConnection

GETS_TOGETHER = 500
"""Keys of one MGET: Redis serves no other command while it works on one."""


class BatchedReads:
    def __init__(self, bounds: Bounds) -> None:
        self._waiting_max = bounds.shared_waiting
        self._idle_s = bounds.shared_idle_s
        self._gets: dict[str, asyncio.Future[bytes | None]] = {}
        self._asks: deque[tuple[tuple[Argument, ...], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()

    async def get(self, key: str) -> bytes | None:
        """A value; one MGET for all who ask meanwhile. Raises LogUnavailable."""
        if (waiting := self._gets.get(key)) is None:
            if len(self._gets) >= self._waiting_max:
                raise LogUnavailable("Too many reads are waiting for Redis.")
            waiting = self._gets[key] = asyncio.get_running_loop().create_future()
            self._wake.set()
        return await asyncio.shield(waiting)

    async def ask(self, command: tuple[Argument, ...]) -> Any:
        """A reply to any other command. Raises LogUnavailable, CommandRefused."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if len(self._asks) >= self._waiting_max:
            raise LogUnavailable("Too many requests are waiting for Redis.")
        self._asks.append((command, answer))
        self._wake.set()
        return await answer

    async def run(self, link: RedisConnection, errands: Callable[[RedisConnection], Any]) -> None:
        """Until the link fails. The outbox is run when no read waits."""
        while True:
            if not (self._gets or self._asks or await self._woken()):
                await link.call("PING")  # else Redis may end it as idle
            self._wake.clear()
            while self._gets or self._asks:
                link.require()
                await self._ask_together(link)
            await errands(link)

    async def _woken(self) -> bool:
        """False when nothing has come for a while."""
        try:
            async with asyncio.timeout(self._idle_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """There is an errand."""
        self._wake.set()

    def give_up(self) -> None:
        """Redis is not back at once."""
        error = LogUnavailable("Redis is away.")
        for waiting in (*self._gets.values(), *(answer for _, answer in self._asks)):
            _fail(waiting, error)
        self._gets.clear()
        self._asks.clear()

    async def _ask_together(self, link: RedisConnection) -> None:
        gets, self._gets = self._gets, {}
        if len(gets) > GETS_TOGETHER:
            self._gets = dict(itertools.islice(gets.items(), GETS_TOGETHER, None))
            gets = dict(itertools.islice(gets.items(), GETS_TOGETHER))
        asks, self._asks = self._asks, deque()
        commands = [command for command, _ in asks]
        if gets:
            commands.append(("MGET", *gets))
        try:
            replies = await link.pipeline(*commands)
        except BaseException:
            for waiting in (*gets.values(), *(answer for _, answer in asks)):
                _fail(waiting, LogUnavailable("Redis does not answer."))
            raise
        values = replies.pop() if gets else []
        if isinstance(values, Exception):
            values = [None] * len(gets)
        for waiting, value in zip(gets.values(), values, strict=True):
            if not waiting.done():
                waiting.set_result(value)
        for (_, answer), reply in zip(asks, replies, strict=True):
            if answer.done():
                continue
            if isinstance(reply, Exception):
                answer.set_exception(CommandRefused(str(reply)))
            else:
                answer.set_result(reply)


def _fail(waiting: "asyncio.Future[Any]", error: LogUnavailable) -> None:
    if not waiting.done():
        waiting.set_exception(error)
        waiting.exception()  # retrieved, even when no caller waits any more
