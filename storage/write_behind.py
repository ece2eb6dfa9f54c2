"""Write-behind: carries the log to the database, in batches, each with the position it reaches.

The batch and the position commit in one transaction guarded by the old position, so a crash anywhere reads
on from the last committed position and every entry takes effect exactly once.
"""

import asyncio
import heapq
import itertools
import logging
from datetime import datetime, timedelta

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database import Database, Rejected
from storage.errors import DatabaseUnavailable, LogUnavailable, OrderParked, OutcomeUnknown
from storage.log import Log, Position
from storage.tail import Followed, Tail

logger = logging.getLogger("facet.write_behind")

TRIM_INTERVAL_S = 1.0


class WriteBehind:
    def __init__(self, database: Database, log: Log, tail: Tail, bounds: Bounds, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._tail = tail
        self._bounds = bounds
        self._clock = clock
        self._more = asyncio.Event()
        self._now = asyncio.Event()
        self._stopping = False
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()
        self._trimmed_at_s = clock.monotonic_s()
        self.batches = 0
        self.entries = 0
        self.failures = 0
        self.forks = 0
        self.last_error: str | None = None

    def follow(self, followed: Followed) -> None:
        """An entry has become durable in the log."""
        self._more.set()
        if len(self._tail) >= self._bounds.flush_batch_entries:
            self._now.set()

    async def run(self) -> None:
        """Flush until stopped and nothing is left."""
        while True:
            if not len(self._tail):
                if self._stopping:
                    return
                self._more.clear()
                await self._more.wait()
                continue
            await self._gather_company()
            await self._flush()

    def stop(self) -> None:
        """Let `run` end once the database has everything."""
        self._stopping = True
        self._more.set()
        self._now.set()

    async def wait_for(self, n: int, deadline_s: float) -> None:
        """Returns when the database holds the entry at this position; hurries it there.

        Raises OutcomeUnknown past the deadline, OrderParked when the database refused the entry.
        """
        if n <= self._tail.flushed:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (n, next(self._tickets), done))
        self._now.set()
        try:
            async with asyncio.timeout(deadline_s):
                await done
        except TimeoutError:
            raise OutcomeUnknown(
                "The change is in the log, but the database has not confirmed it in time.", retry_after_s=2
            ) from None

    async def _gather_company(self) -> None:
        """An entry waits a moment for others, unless a full batch or somebody's wait hurries it."""
        rest_s = self._bounds.flush_interval_s - self._tail.age_s
        if rest_s > 0 and not self._stopping and not self._now.is_set():
            try:
                async with asyncio.timeout(rest_s):
                    await self._now.wait()
            except TimeoutError:
                pass
        self._now.clear()

    async def _flush(self) -> None:
        batch = self._tail.batch(self._bounds.flush_batch_entries)
        old = Position(self._log.epoch, self._tail.flushed)
        new = Position(self._log.epoch, batch[-1].n)
        rejected = await self._apply_until_done(batch, old, new)
        self.batches += 1
        self.entries += len(batch)
        self._note_rejected(rejected)
        self._tail.release(new.n, frozenset(item.logged.n for item in rejected))
        self._confirm(new.n, {item.logged.n: item.error for item in rejected})
        await self._trim()

    async def _apply_until_done(self, batch: list[Followed], old: Position, new: Position) -> list[Rejected]:
        """Tries again, with growing pauses, for as long as the database is away. After a commit whose
        outcome got lost, the position says whether it happened."""
        pause_s = self._bounds.flush_retry_s
        while True:
            try:
                rejected = await self._database.apply([followed.logged for followed in batch], old, new)
            except DatabaseUnavailable as error:
                if self.last_error is None:
                    logger.warning("database away, %d entries wait: %s", len(self._tail), error.detail)
                self.failures += 1
                self.last_error = error.detail
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, self._bounds.flush_retry_max_s)
            else:
                if self.last_error is not None:
                    logger.info("database back, %d entries wait", len(self._tail))
                self.last_error = None
                return rejected

    def _note_rejected(self, rejected: list[Rejected]) -> None:
        for item in rejected:
            if item.error.startswith("fork"):
                self.forks += 1
            logger.error("entry %s at %d set aside: %s", item.logged.entry.id, item.logged.n, item.error)

    def _confirm(self, upto: int, rejected: dict[int, str]) -> None:
        while self._waiters and self._waiters[0][0] <= upto:
            n, _, done = heapq.heappop(self._waiters)
            if done.done():
                continue
            if n in rejected:
                done.set_exception(OrderParked(f"The database refused the change: {rejected[n]}"))
            else:
                done.set_result(None)

    async def _trim(self) -> None:
        """Now and then forget what the database has. Failing to is no harm: the log only stays longer."""
        now_s = self._clock.monotonic_s()
        if now_s - self._trimmed_at_s < TRIM_INTERVAL_S:
            return
        self._trimmed_at_s = now_s
        keyed_before: datetime = self._clock.now() - timedelta(seconds=self._bounds.log_retention_s)
        try:
            await self._log.trim(self._tail.flushed, keyed_before, self._bounds.log_trim_entries)
        except LogUnavailable as error:
            logger.warning("%s", error.detail)
