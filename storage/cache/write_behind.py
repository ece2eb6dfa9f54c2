"""Write-behind: carries the log to the database, in batches, each with the position it reaches.

The batch and the position commit in one transaction guarded by the old position, so a crash anywhere reads
on from the last committed position and every entry takes effect exactly once.
"""

import asyncio
import heapq
import itertools
import logging

from storage.bounds import Bounds
from storage.database.contract import Database
from storage.database.lease import Lease
from storage.database.records import Rejected
from storage.errors import DatabaseUnavailable, Fenced, OrderParked, OutcomeUnknown
from storage.log.change_log import ChangeLog
from storage.log.entries import OrderChanged, Position
from storage.log.tail import AppliedEntry, Tail
from storage.orders.rules import assigns_operator
from storage.tasks import Backoff
from storage.trouble import Trouble

logger = logging.getLogger("facet.write_behind")


class WriteBehind:
    """Of several processes one is active, by lease; that two never write the same is not the lease's doing
    but the guarded position's. The others learn from the change log, or the database, how far it is."""

    def __init__(
        self, database: Database, change_log: ChangeLog, tail: Tail, lease: Lease, bounds: Bounds
    ) -> None:
        self._database = database
        self._change_log = change_log
        self._tail = tail
        self._lease = lease
        self._bounds = bounds
        self._more = asyncio.Event()
        self._now = asyncio.Event()
        self._stopping = False
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = itertools.count()
        self._looked = self._last = Position(0, 0)
        self.batches = 0
        self.entries = 0
        self.failures = 0
        self.forks = 0
        self._trouble = Trouble(
            logger, "the database takes nothing in", "the database takes changes in again"
        )

    @property
    def last_error(self) -> str | None:
        """Why the database does not take in what was accepted."""
        return self._trouble.error

    def follow(self, followed: AppliedEntry) -> None:
        """An entry has become durable in the log."""
        self._more.set()
        entry = followed.logged.entry
        hurried = isinstance(entry, OrderChanged) and assigns_operator(entry.change)
        if hurried or len(self._tail) >= self._bounds.flush_batch_entries:
            self._now.set()  # a caller waits, perhaps on another process

    async def run(self) -> None:
        """Flush until stopped and nothing is left."""
        while not (self._stopping and self._done()):
            if not len(self._tail):
                self._trouble.over()
                self._more.clear()
                await self._more.wait()
            elif self._tail.blocked and self._stopping:
                return  # the log keeps it
            elif self._tail.blocked:
                self._trouble.met("What comes next was written by a later release, which can bring it on.")
                await asyncio.sleep(self._bounds.lease_look_s)
                await self._look()
            elif not self._lease.held:
                await self._lease.wait(self._bounds.lease_look_s)
                await self._look()
            else:
                await self._gather_company()
                await self._flush()

    def start_over(self) -> None:
        """The log begins a new life, or this process follows it anew: what was waited for is unknown."""
        waiters, self._waiters = self._waiters, []
        for _, _, done in waiters:
            if not done.done():
                done.set_exception(OutcomeUnknown("The log was rebuilt meanwhile.", retry_after_s=1))
        self._more.set()

    def flushed_elsewhere(self, upto: Position, rejected: dict[int, str]) -> None:
        """Another process has brought the entries up to here to the database."""
        if upto.epoch != self._tail.epoch or upto.n <= self._tail.flushed:
            return
        self._tail.release(upto.n, frozenset(rejected))
        self._confirm(upto.n, rejected)

    def stop(self) -> None:
        """Let `run` end once the database has everything that was accepted until now. Other processes
        continue."""
        self._stopping = True
        self._last = Position(self._tail.epoch, self._tail.head)
        self._more.set()
        self._now.set()

    def _done(self) -> bool:
        """A later epoch of the log began with everything in the database."""
        return self._tail.epoch != self._last.epoch or self._tail.flushed >= self._last.n

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
        """An entry waits a moment for others, unless the batch is full or a caller waits."""
        rest_s = self._bounds.flush_interval_s - self._tail.age_s
        if rest_s > 0 and not self._stopping and not self._now.is_set():
            try:
                async with asyncio.timeout(rest_s):
                    await self._now.wait()
            except TimeoutError:
                pass
        self._now.clear()

    async def _look(self) -> None:
        """How far the database is, after a while without a notice: one may be lost. And whether
        anybody brings it anything: who cannot says so in its own process only."""
        old = Position(self._tail.epoch, self._tail.flushed)
        if self._looked == old and len(self._tail):
            try:
                await self._ask_database(old)
            except DatabaseUnavailable as error:
                self._trouble.met(error.detail, error.unforeseen)
            else:
                self._note_progress(old)
        elif self._looked != old:
            self._trouble.over()
        self._looked = old

    def _note_progress(self, old: Position) -> None:
        if self._tail.flushed > old.n or not len(self._tail):
            self._trouble.over()
        elif self._tail.blocked:
            pass  # that has been said
        elif self._tail.age_s > self._bounds.flush_silence_s:
            self._trouble.met(f"No process has brought it anything for {self._bounds.flush_silence_s:g} s.")

    async def _ask_database(self, old: Position) -> None:
        stands = await self._database.position()
        if stands.epoch == old.epoch and stands.n > old.n:
            self.flushed_elsewhere(stands, await self._database.rejected(old, stands))

    async def _flush(self) -> None:
        if not (batch := self._tail.batch(self._bounds.flush_batch_entries)):
            return
        old = Position(self._tail.epoch, self._tail.flushed)
        new = Position(old.epoch, batch[-1].n)
        rejected = await self._apply_until_done(batch, old, new)
        if rejected is None or self._tail.epoch != old.epoch:
            return
        self.batches += 1
        self.entries += len(batch)
        self._note_rejected(rejected)
        errors = {item.logged.n: item.error for item in rejected}
        self._tail.release(new.n, frozenset(errors))
        self._confirm(new.n, errors)
        await self._change_log.flushed(batch, errors.keys())

    async def _apply_until_done(
        self, batch: list[AppliedEntry], old: Position, new: Position
    ) -> list[Rejected] | None:
        """Tries again, with growing pauses, for as long as the database is away. None: another process has
        moved the position, perhaps this process itself in a commit whose outcome got lost."""
        backoff = Backoff(self._bounds.flush_retry_s, self._bounds.flush_retry_max_s)
        while self._lease.held:
            try:
                rejected = await self._database.apply([followed.logged for followed in batch], old, new)
            except DatabaseUnavailable as error:
                self.failures += 1
                self._trouble.met(error.detail, error.unforeseen)
                await backoff.pause()
            except Fenced:
                await self._fenced(old, new)
                return None
            else:
                self._trouble.over()
                return rejected
        return None

    async def _fenced(self, old: Position, new: Position) -> None:
        """The position was moved: by another process, or this one in a commit whose answer got lost.

        Raises Fenced when there is no other process, and it was not this one."""
        try:
            stands = await self._database.position()
            if self._change_log.single_process and stands != new:
                raise Fenced(f"The database went from {old} to {stands}: another Facet uses it.")
            await self._ask_database(old)
            self._trouble.over()
        except DatabaseUnavailable as error:
            self._trouble.met(error.detail, error.unforeseen)
        if self._tail.flushed == old.n:  # another epoch of the log: until this process follows that
            await asyncio.sleep(self._bounds.flush_retry_s)

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
