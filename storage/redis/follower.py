"""Follows the log, and tracks how fresh what this process holds is."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from storage.bounds import Bounds
from storage.clock import Clock
from storage.errors import LogUnavailable
from storage.log.change_log import Freshness
from storage.log.entries import AnyEntry, LogRecord, Position, logged_of
from storage.log.tail import Tail
from storage.redis.connection import RedisConnection
from storage.redis.keys import Keys


class Notice(NamedTuple):
    """The database has what came after one position up to another, but for the rejected entries."""

    after: int
    upto: Position
    rejected: dict[int, str]


class LogFollower:
    def __init__(
        self,
        tail: Tail,
        bounds: Bounds,
        clock: Clock,
        own: Callable[[int], AnyEntry | None],
        followed: Callable[[LogRecord], None],
        noticed: Callable[[Notice], None],
    ) -> None:
        self._tail = tail
        self._bounds = bounds
        self._clock = clock
        self._own = own
        self._followed = followed
        self._noticed = noticed
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._own_append_at_s = -math.inf
        self._behind = asyncio.Event()
        self.freshness = Freshness(0.0)

    def own_append(self, sent_s: float, complete: bool) -> None:
        """This process's own entries were accepted. When it holds everything before them, it is at the end of
        the log without having read it; else there is something to read."""
        if complete:
            self._own_append_at_s = self._clock.monotonic_s()
            self._at_head(sent_s)
        else:
            self._behind.set()

    async def run(self, link: RedisConnection, keys: Keys, notices_after: str) -> None:
        """Until the link fails, or the log is in another life, or has lost what comes next."""
        block: tuple[str | int, ...] = ()
        while True:
            await self._while_appending()
            asked_s, after = self._clock.monotonic_s(), self._tail.head
            reply, meta = await link.pipeline(
                (
                    *("XREAD", "COUNT", self._bounds.follow_entries, *block, "STREAMS"),
                    *(keys.log, keys.flushed, f"{keys.epoch}-{after}", notices_after),
                ),
                ("HMGET", keys.meta, "epoch", "head"),
                wait_s=self._bounds.follow_block_s,
            )
            if isinstance(reply, Exception) or isinstance(meta, Exception):
                raise LogUnavailable(f"Redis does not let the log be read: {reply} {meta}.")
            if meta[0] is None or int(meta[0]) != keys.epoch or int(meta[1]) < after:
                raise LogUnavailable("Redis is in another epoch of the log.")
            count, notices_after = self._take_in(reply or [], keys, notices_after)
            if count < self._bounds.follow_entries:
                self._at_head(asked_s)
            block = ("BLOCK", int(self._bounds.follow_block_s * 1000))

    async def _while_appending(self) -> None:
        """While its own entries keep coming back one after the other, this process need not read them."""
        self._behind.clear()
        while self._clock.monotonic_s() - self._own_append_at_s < self._bounds.own_append_s:
            try:
                async with asyncio.timeout(self._bounds.own_append_s):
                    await self._behind.wait()
            except TimeoutError:
                continue
            return

    async def wait_until(self, n: int, asked_s: float, timeout_s: float) -> bool:
        """True once this process has followed the log to where its end was at the time of the request."""
        if self._tail.head < n:
            reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((n, reached))
            done, _ = await asyncio.wait([reached], timeout=timeout_s)
            if not done or reached.cancelled():
                return False
        self._at_head(asked_s)
        return True

    def reached(self, n: int) -> None:
        """This process has followed the log to here."""
        if self._waiting:
            for until, reached in self._waiting:
                if until <= n and not reached.done():
                    reached.set_result(None)
            self._waiting = [item for item in self._waiting if not item[1].done()]

    def give_up(self) -> None:
        for _, reached in self._waiting:
            reached.cancel()
        self._waiting.clear()

    def _take_in(self, reply: Any, keys: Keys, notices_after: str) -> tuple[int, str]:
        streams = {bytes(name).decode(): entries for name, entries in reply}
        entries = streams.get(keys.log, [])
        for position, fields in entries:
            self._take_in_entry(int(position.partition(b"-")[2]), fields)
        for position, fields in streams.get(keys.flushed, []):
            notices_after = position.decode()
            after, *rejected = map(int, fields[1].split())
            upto = Position(keys.epoch, int(notices_after.partition("-")[2]))
            self._noticed(Notice(after, upto, dict.fromkeys(rejected, "the database refused it")))
        return len(entries), notices_after

    def _take_in_entry(self, n: int, fields: list[bytes]) -> None:
        if n <= self._tail.head:
            return  # this process's own: taken in when Redis accepted it
        if n != self._tail.head + 1:
            raise LogUnavailable(f"Gap in the log: expected {self._tail.head + 1}, got {n}.")
        payload = fields[1]
        own = self._own(n)
        self._followed(logged_of(n, payload) if own is None else LogRecord(n, own, len(payload)))

    def _at_head(self, asked_s: float) -> None:
        self.freshness.until_s = max(self.freshness.until_s, asked_s + self._bounds.freshness_s)
