"""The storage layers, stacked: log and database below, the tiers in the middle, the order book on top.

The engines are given; which ones, the composition root decides.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from storage.bounds import Bounds
from storage.cache.read_through import ReadThrough
from storage.cache.write_behind import WriteBehind
from storage.clock import Clock
from storage.database.contract import Database
from storage.database.health import DatabaseHealth
from storage.database.lease import Lease, SoleLease, exclusive_lease
from storage.database.pruning import Pruning
from storage.database.search_upkeep import SearchUpkeep
from storage.errors import Unavailable
from storage.ids import new_id
from storage.log.change_log import ChangeLog, Follower, Reload
from storage.log.entries import CacheKind, Invalidated, Position
from storage.log.tail import AppliedEntry, Tail
from storage.services.idempotency import Idempotency
from storage.services.models import Models
from storage.services.order_numbers import OrderNumbers
from storage.services.orders import OrderService
from storage.services.quotes import Quotes
from storage.services.tokens import Tokens
from storage.tasks import end

logger = logging.getLogger("facet.storage")

MakeChangeLog = Callable[[Tail], ChangeLog]


class Storage:
    """Everything of storage that the server uses. `open` follows the log from where the database is."""

    def __init__(
        self,
        database: Database,
        make_change_log: MakeChangeLog,
        *,
        analyser: str,
        bounds: Bounds,
        clock: Clock,
        lease: Lease | None = None,
    ) -> None:
        self.database = database
        self.bounds = bounds
        self.clock = clock
        self.lease = lease or SoleLease()
        self.tail = Tail(bounds, clock)
        self.change_log = make_change_log(self.tail)
        self.write_behind = WriteBehind(database, self.change_log, self.tail, self.lease, bounds)
        self.reads = ReadThrough(database, self.change_log, self.tail, bounds, clock)
        self.numbers = OrderNumbers(database, bounds)
        self.database_health = DatabaseHealth(
            database, bounds, clock, tells_time=not self.change_log.tells_time
        )
        self.pruning = Pruning(database, self.lease, bounds, clock)
        self.search_upkeep = SearchUpkeep(database, self.lease, clock, self.invalidate_lists)
        self.tokens = Tokens(self.change_log, bounds, clock)
        self.quotes = Quotes(database, self.change_log, self.tail, clock)
        self.models = Models(
            database, self.change_log.shared_cache, self.change_log.locks, analyser, bounds, clock
        )
        self.idempotency = Idempotency(self.change_log, clock)
        self.orders = OrderService(
            database,
            self.change_log,
            self.idempotency,
            self.reads,
            self.write_behind,
            self.numbers,
            self.tail,
            bounds,
            clock,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for follower in (
            self.write_behind.follow,
            self.reads.apply,
            self.tokens.apply,
            self.quotes.apply,
            self.numbers.apply,
            self._forget_model,
        ):
            self.change_log.follow(follower)
        self.lease.only_while(lambda: not self.tail.blocked and (self.reads.fresh or len(self.tail) > 0))
        self.change_log.on_start_over(self._reload)
        self.change_log.on_flushed_elsewhere(self.write_behind.flushed_elsewhere)

    def follow(self, follower: Follower, reload: Reload) -> None:
        """Call the follower with every entry; before `open`, so that it sees the replayed ones too. What it
        holds is read by `reload` whenever following begins anew."""
        self.change_log.follow(follower)
        self.change_log.on_start_over(reload)

    async def open(self, failed: Callable[[str, BaseException], None]) -> None:
        """Begin to follow, then start the tasks. `failed` is told when one of them ends that should not."""
        if not self.change_log.tells_time:
            await self.database_health.measure_clock()
        self._start("lease", self.lease.run, failed)
        await self.change_log.open()
        await self.numbers.open()
        self._start("pulse", self.database_health.run, failed)
        self._start("housekeeping", self.pruning.run, failed)
        self._start("search", self.search_upkeep.run, failed)
        self._start("log", self.change_log.run, failed)
        self._start("write-behind", self.write_behind.run, failed)
        self._start("models", self.models.run, failed)
        self._start("outdated models", self.models.outdated.run, failed)
        self._start("unverified models", self.models.unverified.run, failed)

    async def drain(self, deadline_s: float) -> bool:
        """Stop accepting, bring everything to the database. False when the deadline passed first; the log
        keeps what is left: the next start, or another process, brings it."""
        self.change_log.stop()
        await asyncio.wait([self._tasks["log"]], timeout=deadline_s)
        self.write_behind.stop()
        self.models.stop()
        endless = {"lease", "pulse", "housekeeping", "search", "outdated models", "unverified models"}
        others = [task for name, task in self._tasks.items() if name not in {"log", *endless}]
        _, unfinished = await asyncio.wait(others, timeout=deadline_s)
        await end(*self._tasks.values())
        await self.lease.close()
        await self.numbers.close()
        return not unfinished

    async def close(self) -> None:
        """The log first: what is closing follows nothing any more."""
        await self.change_log.close()
        await self.database.close()

    async def replay_dead_letters(self, order_id: str) -> None:
        """After a repair. Raises Conflict when the database still refuses one of them."""
        await self.database.replay(order_id)
        self.tail.unpark(order_id)
        await self.invalidate_order(order_id, repaired=True)

    async def invalidate_order(self, order_id: str, *, repaired: bool = False) -> bool:
        """Every process forgets what it holds of an order and reads it again. What is pending stays. Returns
        whether the order exists. Raises LogUnavailable when the others could not be told."""
        return await self._forget(
            CacheKind.ORDER, order_id, lambda: self.reads.refresh(order_id), repaired=repaired
        )

    async def invalidate_model(self, sha256: str) -> bool:
        await self.models.drop_copy(sha256)  # first, or the others would find it again
        return await self._forget(CacheKind.MODEL, sha256, lambda: self.models.invalidate(sha256))

    async def announce_verification(self, sha256: str) -> Position:
        """Every process that has reached the position reads the model again, with what the database says of
        it. Raises Unavailable: not all of them know."""
        now = self.clock.now()
        entry = Invalidated(id=new_id(now), at=now, thing=CacheKind.MODEL, key=sha256)
        return await self.change_log.append(entry)

    async def invalidate_lists(self) -> None:
        async def clear() -> bool:
            self.reads.views.clear()
            return True

        await self._forget(CacheKind.LISTS, "", clear)

    @contextlib.asynccontextmanager
    async def setting_up(self) -> AsyncIterator[None]:
        """One process at a time sets up what a new installation needs; the next finds it in the database.

        Raises DatabaseUnavailable, and OutcomeUnknown when the database does not catch up in time."""
        deadline_s = self.bounds.durability_deadline_s
        async with exclusive_lease(self.database, "setup", 2 * deadline_s):
            yield
            await self.write_behind.wait_for(self.tail.head, deadline_s)

    async def _forget(
        self, thing: CacheKind, key: str, here: Callable[[], Awaitable[bool]], *, repaired: bool = False
    ) -> bool:
        now = self.clock.now()
        entry = Invalidated(id=new_id(now), at=now, thing=thing, key=key, repaired=repaired)
        try:
            await self.change_log.append(entry)
        except Unavailable:
            await here()  # here at least
            raise
        return await here()

    def _forget_model(self, followed: AppliedEntry) -> None:
        entry = followed.logged.entry
        if isinstance(entry, Invalidated) and entry.thing is CacheKind.MODEL:
            self.models.forget(entry.key)

    async def _reload(self) -> Callable[[], None]:
        tokens = await self.database.load_tokens()

        def put_in_place() -> None:
            self.tokens.load(tokens)
            self.reads.start_over()
            self.write_behind.start_over()

        return put_in_place

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
        self._tasks[name] = task
