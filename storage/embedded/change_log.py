"""The change log of a single process: a log of its own, and nothing that is shared."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.database.records import parked
from storage.errors import (
    AlreadyAnswered,
    DuplicateReference,
    Incompatible,
    LogUnavailable,
    StorageError,
    Unavailable,
)
from storage.log.change_log import Freshness, InShared, LogStatus
from storage.log.entries import LEVEL, AnyEntry, OrderChanged, Position, require_level
from storage.log.log import Log
from storage.log.replica import Replica
from storage.log.tail import AppliedEntry, Tail
from storage.memory.bloom import BloomFilter
from storage.memory.lru import MISS, Sentinel
from storage.orders.order import Order
from storage.shared.cache import NoSharedCache, SharedCache
from storage.shared.locks import Locks, NoLocks
from storage.tasks import end
from storage.trouble import Trouble

logger = logging.getLogger("facet.log")

REPLAY_BATCH = 1_000
ANSWERED_BITS = 2**25
"""4 MiB: of the keyed requests of a day, a million say, one of several thousand is looked for in vain."""
TRIM_INTERVAL_S = 1.0
DURABILITY = "survives SIGKILL and power loss (WAL, synchronous=FULL)"


class EmbeddedChangeLog(Replica):
    """Group commit: changes that arrive while the log writes share the next fsync.

    A change becomes visible to readers only when it is durable, in the order of the log.
    """

    single_process = True
    tells_time = False

    def __init__(self, log: Log, database: Database, tail: Tail, bounds: Bounds, clock: Clock) -> None:
        super().__init__(tail)
        self._log = log
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._trimmed_at_s = clock.monotonic_s()
        self.freshness = Freshness()
        self.shared_cache: SharedCache = NoSharedCache()
        self.locks: Locks = NoLocks()
        self._queue: deque[tuple[AnyEntry, asyncio.Future[int]]] = deque()
        self._under_way: dict[str, int] = {}
        self._of_earlier_lives: set[str] = set()
        self._answered = BloomFilter(ANSWERED_BITS)
        """Scopes of all that the log has, and perhaps more: a key that is new is not looked for in it."""
        self._listing: asyncio.Task[None] | None = None
        self._listed = False
        """Whether those are among them that the log had at the start. To list them may take seconds: until
        then every key is looked for."""
        self._wake = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self._trouble = Trouble(logger, "the log accepts no changes", "the log accepts changes again")
        self.groups = 0
        self.appended = 0
        self.replayed = 0

    @property
    def epoch(self) -> int:
        return self._log.epoch

    @property
    def last_error(self) -> str | None:
        return self._trouble.error

    def status(self) -> LogStatus:
        return LogStatus(durability=DURABILITY)

    def on_flushed_elsewhere(self, told: Callable[[Position, dict[int, str]], None]) -> None:
        pass  # there is no other process

    async def open(self) -> None:
        """Agree with the database on the epoch of the log, then replay what the database lacks. Raises
        Incompatible when a later release has written what this one may not understand."""
        if await self._database.raise_level(0.0, LEVEL) > LEVEL:
            raise Incompatible("A later release has written to this data: start that one.")
        flushed = await agree_on_epoch(self._log, self._database)
        reloaded, letters = await self._reload(), await self._database.load_dead_letters()
        self._start_from(flushed, reloaded, parked(letters))
        await self._list_earlier_answers()
        self._listing = asyncio.create_task(self._list_answers(), name="answers")
        await self._replay(flushed.n)

    async def append(self, entry: AnyEntry, seen: Position | None = None) -> Position:
        if self._stalled:  # what was given up may still land, with the same key or reference
            raise LogUnavailable("The log does not answer.")
        if self._stopping:
            raise Unavailable("The service is stopping.", retry_after_s=5)
        require_level(LEVEL, entry)
        self._tail.require_room()
        self._require_new_key(entry)
        if isinstance(entry, OrderChanged):
            order = entry.change.order
            self._require_successor(entry, self._under_way.get(order.id))
            self._require_free_reference(order)
            self._under_way[order.id] = order.version
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((entry, accepted))
        self._wake.set()
        return Position(self._log.epoch, await accepted)

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        known = self._remembered.get(scope)
        if not isinstance(known, Sentinel):
            return known
        found = (
            await self._log.find_remembered(scope) if scope in self._answered or not self._listed else None
        )
        if found is None and scope in self._of_earlier_lives:
            found = await self._database.find_answer(scope)
        return found

    async def catch_up(self) -> bool:
        return True

    async def reach_head(self) -> bool:
        return True

    async def load(self, order_id: str) -> Order | None:
        return None  # what is pending is in the tail

    async def inspect(self, order_id: str) -> InShared | None:
        if (pending := self._tail.pending(order_id)) is None:
            return None
        return InShared(version=pending.order.version, position=pending.n, pending=True)

    def offer(self, order: Order, seen: Position) -> None:
        pass

    async def flushed(self, batch: Sequence[AppliedEntry], rejected: Collection[int]) -> None:
        """Now and then forget what the database has. Failing to is no harm: the log only stays longer."""
        now_s = self._clock.monotonic_s()
        if now_s - self._trimmed_at_s < TRIM_INTERVAL_S:
            return
        self._trimmed_at_s = now_s
        keyed_before = self._clock.now() - timedelta(seconds=self._bounds.log_retention_s)
        try:
            await self._log.trim(self._tail.flushed, keyed_before, self._bounds.log_trim_entries)
        except LogUnavailable as error:
            logger.warning("%s", error.detail)

    async def close(self) -> None:
        if self._listing is not None:
            await end(self._listing)
        await self._log.close()

    async def run(self) -> None:
        """Write groups until stopped. Owns the log's writing side."""
        while not (self._stopping and not self._queue):
            if not await self._woken():
                await self._probe()
            self._wake.clear()
            while self._queue:
                count = min(len(self._queue), self._bounds.log_group_entries)
                await self._write([self._queue.popleft() for _ in range(count)])

    async def _woken(self) -> bool:
        """False after a while without a change while the log does not write: there is no change to try it
        with."""
        try:
            async with asyncio.timeout(self._bounds.log_probe_s if self._trouble.error is not None else None):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _probe(self) -> None:
        try:
            await self._log.probe()
        except LogUnavailable as error:
            self._trouble.met(error.detail)
        else:
            self._trouble.over()

    def stop(self) -> None:
        """Let `run` end once everything queued is written."""
        self._stopping = True
        self._wake.set()

    async def _list_earlier_answers(self) -> None:
        """The log of this life does not know them. Listed once, so that a database that is away does not
        hold up keyed requests."""
        after = ""
        while scopes := await self._database.load_answered(self._bounds.log_retention_s, after, REPLAY_BATCH):
            self._of_earlier_lives.update(scopes)
            after = scopes[-1]

    async def _list_answers(self) -> None:
        after = 0
        try:
            while found := await self._log.scopes(after, REPLAY_BATCH):
                for _, scope in found:
                    self._answered.add(scope)
                after = found[-1][0]
        except StorageError as error:
            logger.debug("every key is looked for in the log: %s", error.detail)
        else:
            self._listed = True

    async def _replay(self, after: int) -> None:
        while batch := await self._log.read(after, REPLAY_BATCH):
            for logged in batch:
                self._take_in(logged)
            after = batch[-1].n
            self.replayed += len(batch)
        if self.replayed:
            logger.info("replayed %d entries that the database lacked", self.replayed)

    def _require_new_key(self, entry: AnyEntry) -> None:
        """The log takes a key once: the second would fail its whole group."""
        if entry.remembered is not None and self._remembered.peek(entry.remembered.scope) is not MISS:
            raise AlreadyAnswered

    def _require_free_reference(self, order: Order) -> None:
        """The order book has looked already; since then, what was given up may have landed."""
        if order.reference is None:
            return
        holder_id = self._tail.pending_reference(order.created_by, order.reference)
        holder = None if holder_id in (None, order.id) else self._tail.pending(str(holder_id))
        if holder is not None and holder.order.reference == order.reference:
            raise DuplicateReference(f"Order {holder_id} has this reference.", order=holder_id)

    async def _write(self, group: list[tuple[AnyEntry, "asyncio.Future[int]"]]) -> None:
        deadline = asyncio.get_running_loop().call_later(
            self._bounds.log_deadline_s, self._give_up, [accepted for _, accepted in group]
        )
        for entry, _ in group:
            if entry.remembered is not None:
                self._answered.add(entry.remembered.scope)  # first: it may land, whatever is heard of it
        try:
            logged = await self._log.append([entry for entry, _ in group])
        except LogUnavailable as error:
            self._trouble.met(error.detail)
            await self._recover(group, error)
            return
        finally:
            deadline.cancel()
            self._stalled = False
            for entry, _ in group:
                self._no_longer_under_way(entry)
        self._trouble.over()
        self.groups += 1
        self.appended += len(logged)
        for item, (_, accepted) in zip(logged, group, strict=True):
            self._take_in(item)
            if not accepted.done():
                accepted.set_result(item.n)

    async def _recover(
        self, group: list[tuple[AnyEntry, "asyncio.Future[int]"]], error: LogUnavailable
    ) -> None:
        """What became of the group is read back from the log: what is there is accepted."""
        landed: dict[str, int] = {}
        try:
            for item in await self._log.recover():
                self._take_in(item)
                landed[item.entry.id] = item.n
        except LogUnavailable:
            logger.exception("the log cannot be read back")
        for entry, accepted in group:
            if accepted.done():
                continue
            if entry.id in landed:
                accepted.set_result(landed[entry.id])
            else:
                accepted.set_exception(LogUnavailable(error.detail))

    def _give_up(self, accepted: list["asyncio.Future[int]"]) -> None:
        """The log does not answer in time. Those behind in the queue are told as well and never written, and
        nothing is accepted until it is known what became of the group."""
        self._stalled = True
        self._trouble.met(f"The log has not answered for {self._bounds.log_deadline_s:g} s.")
        waiting = [*accepted, *(future for _, future in self._queue)]
        for entry, _ in self._queue:
            self._no_longer_under_way(entry)
        self._queue.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(LogUnavailable())

    def _no_longer_under_way(self, entry: AnyEntry) -> None:
        if isinstance(entry, OrderChanged):
            self._under_way.pop(entry.change.order.id, None)


async def agree_on_epoch(log: Log, database: Database) -> Position:
    """The log and the database must speak of the same epoch of the log.

    They differ when one of them was replaced: a restored database, a lost log. What the log still holds is
    then brought to the database (guarded by version and entry id, nothing twice), and a new epoch begins, so
    that no old position is taken for a new one. Of a life before the last restoration nothing is brought.
    """
    flushed, lineage = await database.epoch()
    if flushed.epoch == log.epoch and flushed.n <= log.head:
        return flushed
    if log.epoch == 0 and flushed.n == 0:
        await log.begin_epoch(flushed.epoch)
        return flushed
    epoch = max(flushed.epoch, log.epoch) + 1
    known = Position(log.epoch, log.head)
    logger.warning("log at %s, database at %s: rebase to epoch %d", known, flushed, epoch)
    if lineage <= log.epoch:
        await _recover_entries(log, database)
    # The database first: after a crash in between, the log's old epoch leads here again, and what was applied
    # is recognised.
    await database.begin_epoch(flushed.epoch, epoch)
    await log.begin_epoch(epoch)
    return Position(epoch, 0)


async def _recover_entries(log: Log, database: Database) -> None:
    """Bring what the log holds to the database, by entry id. Raises Incompatible when a later release has
    written some of it."""
    after = 0
    while batch := await log.read(after, REPLAY_BATCH):
        if any(logged.later is not None for logged in batch):
            raise Incompatible("A later release has written to this log: start that one.")
        await database.recover_entries(batch, log.epoch)
        after = batch[-1].n
