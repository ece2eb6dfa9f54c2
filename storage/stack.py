"""The storage layers, stacked: log and database below, the tiers in the middle, the order book on top.

The engines are given; which ones, the composition root decides.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from storage.book import Keyed, OrderBook
from storage.bounds import Bounds
from storage.clock import Clock
from storage.database import Database
from storage.entries import Answer, AnswerKept, Remembered
from storage.ids import new_id
from storage.log import Log, Position
from storage.models import Models
from storage.numbers import Numbers
from storage.quotes import Quotes
from storage.read_through import ReadThrough
from storage.shared import EmbeddedTier, Follower
from storage.tail import Tail
from storage.tokens import Tokens
from storage.write_behind import WriteBehind

logger = logging.getLogger("facet.storage")

REPLAY_BATCH = 1_000


class Storage:
    """Everything of storage that the server uses. `open` replays what the database lacks."""

    def __init__(self, database: Database, log: Log, *, analyser: str, bounds: Bounds, clock: Clock) -> None:
        self.database = database
        self.log = log
        self.bounds = bounds
        self.clock = clock
        self.tail = Tail(bounds, clock)
        self.shared = EmbeddedTier(log, self.tail, bounds)
        self.write_behind = WriteBehind(database, log, self.tail, bounds, clock)
        self.reads = ReadThrough(database, self.tail, bounds, clock)
        self.numbers = Numbers(database, bounds)
        self.tokens = Tokens(self.shared, clock)
        self.quotes = Quotes(database, self.shared, self.tail, clock)
        self.models = Models(database, analyser, bounds, clock)
        self.book = OrderBook(
            self.shared, self.reads, self.write_behind, self.numbers, self.tail, bounds, clock
        )
        self.replayed = 0
        self._followers: list[Follower] = []
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, follower: Follower) -> None:
        """Call the follower with every entry; before `open`, so that it sees the replayed ones too."""
        self._followers.append(follower)

    async def open(self, failed: Callable[[str, BaseException], None]) -> None:
        """Replay, then start the tasks. `failed` is told when one of them ends that should not."""
        flushed = await self._agree_on_epoch()
        self.tail.start(flushed.n)
        self.tokens.load(await self.database.load_tokens())
        for follower in (
            self.write_behind.follow,
            self.reads.apply,
            self.tokens.apply,
            self.quotes.apply,
            *self._followers,
        ):
            self.shared.follow(follower)
        await self._park_dead_letters()
        self.replayed = await self._replay(flushed.n)
        await self.numbers.open()
        self._start("log", self.shared.run, failed)
        self._start("write-behind", self.write_behind.run, failed)
        self._start("models", self.models.run, failed)

    async def drain(self, deadline_s: float) -> bool:
        """Stop accepting, bring everything to the database. False when the deadline passed first; the log
        keeps what is left and the next start replays it."""
        self.shared.stop()
        log, *others = self._tasks
        await asyncio.wait([log], timeout=deadline_s)
        self.write_behind.stop()
        self.models.stop()
        _, unfinished = await asyncio.wait(others, timeout=deadline_s)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.numbers.close()
        return not unfinished

    async def close(self) -> None:
        await self.database.close()
        await self.log.close()

    async def replay_dead_letters(self, order_id: str) -> None:
        """After a repair. Raises Conflict when the database still refuses one of them."""
        await self.database.replay(order_id)
        self.tail.unpark(order_id)
        await self.reads.invalidate(order_id)

    async def remember(self, keyed: Keyed, answer: Answer) -> Position:
        """Keep the answer to a keyed request that changed nothing in the log."""
        now = self.clock.now()
        remembered = Remembered(scope=keyed.scope, key=keyed.key, body_hash=keyed.body_hash, answer=answer)
        return await self.shared.append(AnswerKept(id=new_id(now), at=now, remembered=remembered))

    async def _agree_on_epoch(self) -> Position:
        """The log and the database must speak of the same life of the log.

        They differ when one of them was replaced: a restored database, a lost log. What the log still
        holds is then brought to the database (guarded by version and entry id, nothing twice), and a new
        epoch begins, so that no old position is taken for a new one.
        """
        flushed = await self.database.position()
        if flushed.epoch == self.log.epoch and flushed.n <= self.log.head:
            return flushed
        if self.log.epoch == 0 and flushed.n == 0:
            await self.log.begin_epoch(flushed.epoch)
            return flushed
        epoch = max(flushed.epoch, self.log.epoch) + 1
        logger.warning(
            "log at %s, database at %s: rebase to epoch %d",
            Position(self.log.epoch, self.log.head),
            flushed,
            epoch,
        )
        await self._rebase(epoch)
        return Position(epoch, 0)

    async def _rebase(self, epoch: int) -> None:
        """Unite what the log holds into the database by entry id, then begin the epoch in both.

        The database goes first: after a crash in between, the log's old epoch leads here again, and what
        was applied is recognised.
        """
        after = 0
        while batch := await self.log.read(after, REPLAY_BATCH):
            await self.database.unite(batch, self.log.epoch)
            after = batch[-1].n
        await self.database.begin_epoch(epoch)
        await self.log.begin_epoch(epoch)

    async def _park_dead_letters(self) -> None:
        for letter, logged in await self.database.load_dead_letters():
            logger.error("order %s is parked: %s", letter.order_id, letter.error)
            self.tail.park(logged)

    async def _replay(self, after: int) -> int:
        count = 0
        while batch := await self.log.read(after, REPLAY_BATCH):
            for logged in batch:
                followed = self.tail.add(logged)
                self.shared.publish(followed)
                if followed.order is not None:
                    self.numbers.used(followed.order.number)
            after = batch[-1].n
            count += len(batch)
        if count:
            logger.info("replayed %d entries that the database lacked", count)
        return count

    def _start(
        self,
        name: str,
        run: Callable[[], Coroutine[Any, Any, None]],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(name, error)

        task = asyncio.create_task(run(), name=name)
        task.add_done_callback(ended)
        self._tasks.append(task)
