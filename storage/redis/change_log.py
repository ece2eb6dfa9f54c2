"""The change log on Redis: any number of processes accept changes into one log and follow it.

Each process has three connections: one appends, one reads, one follows. They are opened together by the
keeper, which first makes sure that Redis and the database are in the same epoch of the log; when one fails
all are given up, and until they are back changes are refused at once.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Collection, Sequence

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock, from_micros
from storage.database.contract import Database
from storage.database.records import parked
from storage.errors import (
    Behind,
    DatabaseUnavailable,
    Incompatible,
    LogUnavailable,
    StorageError,
    Superseded,
    Unavailable,
)
from storage.log.change_log import InShared, LogStatus
from storage.log.entries import (
    AnyEntry,
    LogRecord,
    OrderChanged,
    Position,
    logged_of,
    require_known,
    require_level,
)
from storage.log.replica import Replica
from storage.log.tail import AppliedEntry, Tail
from storage.orders.order import Order, decode_order
from storage.redis.append_queue import AppendQueue
from storage.redis.batched_reads import BatchedReads
from storage.redis.connection import Closed, CommandRefused, RedisConnection, opened
from storage.redis.endpoint import Endpoint
from storage.redis.epochs import Epochs
from storage.redis.follower import LogFollower, Notice
from storage.redis.keys import Keys, body_of, version_of
from storage.redis.locks import RedisLocks
from storage.redis.outbox import Flushed, Outbox
from storage.redis.server_check import RedisServer, examine
from storage.redis.shared_cache import RedisSharedCache
from storage.tasks import Backoff, end
from storage.trouble import Trouble

logger = logging.getLogger("facet.redis")

LINKS = 3
JOINED_S = 0.5
"""Links that held this long are opened again at once when one is lost, others after a pause."""


class RedisChangeLog(Replica):
    single_process = False
    tells_time = True

    def __init__(
        self,
        endpoint: Endpoint,
        prefix: str,
        process: str,
        database: Database,
        tail: Tail,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        super().__init__(tail)
        self._endpoint = endpoint
        self._prefix = prefix
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._keys = Keys(prefix, 0)
        self._epochs = Epochs(prefix, process, database, bounds, clock, self._moved_on)
        self._append_queue = AppendQueue(tail, bounds, clock, self._follow, self._own_append)
        self._reader = BatchedReads(bounds)
        self._outbox = Outbox(bounds)
        self._follower = LogFollower(tail, bounds, clock, self._append_queue.own, self._follow, self._notice)
        self.freshness = self._follower.freshness
        self._on_notice: Callable[[Position, dict[int, str]], None] = lambda upto, rejected: None
        self.shared_cache = RedisSharedCache(prefix, bounds.shared_deadline_s)
        self.locks = RedisLocks(prefix, self._reader, lambda: self.joined)
        self._keeper: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._opened = False
        self._server: RedisServer | None = None
        self._stopping = False
        self.joined = False
        self._joined_s = self._lost_s = -math.inf
        self._back: asyncio.Future[bool] | None = None
        """Whether the links are there again at once; while that is being tried."""
        self._trouble = Trouble(logger, "Redis is away", "Redis is back")
        self._trouble.error = "Redis has not answered yet"
        self.replayed = self.joins = 0

    @property
    def epoch(self) -> int:
        return self._tail.epoch

    @property
    def last_error(self) -> str | None:
        return self._trouble.error or self._append_queue.last_error

    @property
    def groups(self) -> int:
        return self._append_queue.groups

    @property
    def appended(self) -> int:
        return self._append_queue.appended

    def status(self) -> LogStatus:
        server, seen_s = self._server, self.freshness.until_s - self._bounds.freshness_s
        return LogStatus(
            durability=server.durability if server else "unknown: Redis has not answered yet",
            server=server and server.name,
            level=self._epochs.level,
            joins=self.joins,
            rebases=self._epochs.rebases,
            fills=self._outbox.fills,
            fills_refused=self._outbox.fills_refused,
            age_s=round(self._clock.monotonic_s() - seen_s, 3) if self.freshness.until_s else None,
        )

    def on_flushed_elsewhere(self, told: Callable[[Position, dict[int, str]], None]) -> None:
        self._on_notice = told

    async def open(self) -> None:
        """Follow the log. When Redis is away, begin without: what the database has can be read. Raises
        Incompatible when this Redis can never be used."""
        await self._epochs.open()
        self._keeper = asyncio.create_task(self._keep(), name="redis")
        began = asyncio.create_task(self._began.wait())
        await asyncio.wait(
            [self._keeper, began],
            timeout=self._bounds.shared_open_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        began.cancel()
        if self._keeper.done():
            self._keeper.result()
        if not self._began.is_set():
            logger.warning("starting without Redis: %s", self.last_error)
            await self._start_over(None)
        self._opened = True

    async def append(self, entry: AnyEntry, seen: Position | None = None) -> Position:
        if self._stopping:
            raise Unavailable("The service is stopping.", retry_after_s=5)
        if not await self._is_joined():
            raise LogUnavailable("Redis is away: changes are not accepted.")
        require_level(self._epochs.level, entry)
        self._tail.require_room()
        seen = seen or Position(self._tail.epoch, self._tail.head)
        if seen.epoch != self._tail.epoch:
            raise Superseded
        if isinstance(entry, OrderChanged):
            self._require_successor(entry)
        return Position(seen.epoch, await self._append_queue.submit(entry, seen))

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        known = self._remembered.get(scope)
        if isinstance(known, tuple):
            return known
        joined, keys = await self._is_joined(), self._keys
        if not joined:
            raise LogUnavailable("Redis is away: it cannot be said whether this was answered before.")
        if (value := await self._reader.get(keys.answer(scope))) is not None:
            n, _, payload = value.partition(b" ")
            found = require_known(logged_of(int(n), payload))
            return Position(keys.epoch, found.n), found.entry
        may_have_forgotten = self._server is not None and self._server.evicts
        # The epoch last: when it is still this one, what was asked before was not swept away.
        asked = (("SISMEMBER", keys.known, scope), ("HGET", keys.meta, "epoch"))
        known, epoch = await asyncio.gather(*map(self._reader.ask, asked))
        if epoch != b"%d" % keys.epoch:
            raise LogUnavailable("The log is being rebuilt.")
        if not may_have_forgotten and not known:
            return None
        return await self._database.find_answer(scope)

    async def catch_up(self) -> bool:
        if self._clock.monotonic_s() <= self.freshness.until_s:
            return True
        if self.joined and not await self.reach_head() and self.joined:
            raise Behind("This process cannot keep up with the log.")
        return self.joined

    async def reach_head(self) -> bool:
        joined, asked_s, keys = await self._is_joined(), self._clock.monotonic_s(), self._keys
        if not joined:
            return False
        try:
            epoch, head = await self._reader.ask(("HMGET", keys.meta, "epoch", "head"))
        except (LogUnavailable, CommandRefused):
            return False
        if epoch != b"%d" % keys.epoch:
            return False
        return await self._follower.wait_until(int(head), asked_s, self._bounds.catch_up_s)

    async def load(self, order_id: str) -> Order | None:
        if not self.joined:
            return None
        try:
            body = body_of(await self._reader.get(self._keys.order(order_id)))
        except LogUnavailable:
            return None
        try:
            return None if body is None else decode_order(body)
        except msgspec.ValidationError:  # of a later release: what the database has of it can be shown
            return None

    async def inspect(self, order_id: str) -> InShared | None:
        if not self.joined:
            return None
        keys = self._keys
        key = keys.order(order_id)
        asked = (("GET", key), ("TTL", key), ("HGET", keys.marks, order_id), ("HGET", keys.meta, "flushed"))
        value, ttl_s, mark, flushed = await asyncio.gather(*map(self._reader.ask, asked))
        if (version := version_of(value)) is None:
            return None
        position = None if mark is None else int(mark.split()[1])
        pending = position is not None and position > int(flushed or 0)
        return InShared(
            version=version, position=position, pending=pending, ttl_s=ttl_s if ttl_s >= 0 else None
        )

    def offer(self, order: Order, seen: Position) -> None:
        if self.joined:
            self._outbox.offer(order, seen)
            self._reader.wake()

    async def flushed(self, batch: Sequence[AppliedEntry], rejected: Collection[int]) -> None:
        """Others are told when Redis has time; until then they ask the database."""
        if self.joined:
            orders = {followed.order.id for followed in batch if followed.order is not None}
            refused = {f.order.id for f in batch if f.order is not None and f.n in rejected}
            upto = Position(self._tail.epoch, batch[-1].n)
            after = batch[0].n - 1
            self._outbox.flushed(Flushed(after, upto, sorted(rejected), sorted(orders - refused)))
            self._reader.wake()

    async def run(self) -> None:
        """Until stopped and everything accepted is answered. Raises what no retry can repair."""
        assert self._keeper is not None
        while not (self._stopping and self._append_queue.idle):
            await asyncio.wait([self._keeper], timeout=self._bounds.shared_pause_s)
            if self._keeper.done():
                self._keeper.result()

    def stop(self) -> None:
        self._stopping = True

    async def close(self) -> None:
        if self._keeper is not None:
            await end(self._keeper)
        self._give_up_waiting()
        await self._epochs.close()

    async def _keep(self) -> None:
        """Open the links, join, serve until one of them fails; again. Ends only when cancelled, or at the
        start when this Redis can never be used: later a server runs without, and tries again."""
        backoff = Backoff(self._bounds.shared_pause_s, self._bounds.shared_pause_max_s)
        while True:
            links: list[RedisConnection] = []
            closed = False
            try:
                for _ in range(LINKS):
                    links.append(await opened(self._endpoint, self._bounds.shared_deadline_s))
                await self._join(links)
                await self._serve(links)
            except (LogUnavailable, DatabaseUnavailable) as error:
                self._trouble.met(error.detail)
                closed = isinstance(error, Closed)
            except CommandRefused as error:
                self._trouble.met(f"It refuses: {error}.")
            except Incompatible as error:
                if not self._opened:
                    raise
                self._trouble.met(error.detail)
            except Exception as error:  # nothing that comes from a network ends a server
                self._trouble.met(f"Unexpected error: {error!r}.", error)
            finally:
                joined_s = self._clock.monotonic_s() - self._joined_s if self.joined else 0.0
                self._leave()
                await self.shared_cache.close()
                for link in links:
                    await link.close()
            if joined_s >= JOINED_S:
                backoff.reset()
                if closed:
                    continue  # most likely it is back at once
            self._give_up_waiting()
            await backoff.pause()

    async def _join(self, links: list[RedisConnection]) -> None:
        """Agree with Redis and the database on the epoch of the log, then follow on, or start over."""
        link = links[0]
        await self._epochs.require_same(*links)
        asked_s = self._clock.monotonic_s()
        self._note_time(await link.call("TIME"), asked_s)
        await self._examine(link)
        meta = await self._epochs.agree(link, self._tail, self._append_queue.accepted_unapplied)
        self._keys = Keys(self._prefix, meta.epoch)
        if self._tail.epoch != meta.epoch or not meta.floor <= self._tail.head <= meta.head:
            await self._start_over(link, meta.floor)
        await self.shared_cache.open(self._endpoint)
        self.joined, self._joined_s = True, self._clock.monotonic_s()
        self._trouble.over()
        self.joins += 1
        if self._back is not None and not self._back.done():
            self._back.set_result(True)
        self._back = None
        for entry in self._epochs.late_news():
            self._append_queue.submit_quietly(entry, Position(meta.epoch, self._tail.head))
        logger.debug("following the log in epoch %d from %d", meta.epoch, self._tail.head)
        self._began.set()

    async def _examine(self, link: RedisConnection) -> None:
        """Raises Incompatible at the start, LogUnavailable later, when the log must not be kept there."""
        server = await examine(link)
        if server.unfit is not None:
            raise LogUnavailable(server.unfit) if self._opened else Incompatible(server.unfit)
        if server != self._server:
            logger.info("the log is kept by %s: %s", server.name, server.durability)
        if server.evicts:
            logger.warning("%s may forget answered keys early (%s)", server.name, server.policy)
        self._server = server

    async def _start_over(self, link: RedisConnection | None, floor: int = 0) -> None:
        """On from what the database has read. Everything is read first, then put in place at once."""
        stands = await self._database.position()
        reloaded = await self._reload()
        letters = await self._database.load_dead_letters()
        entries: list[LogRecord] = []
        after = max(floor, stands.n - self._bounds.journal_entries)
        if link is not None:
            async for batch in self._epochs.read(link, Keys(self._prefix, stands.epoch), after):
                entries += batch
        if entries and entries[0].n != after + 1:
            raise LogUnavailable("The log was trimmed while it was read.")
        self._append_queue.forget_unapplied()
        self._remembered.clear()
        self._start_from(stands, reloaded, parked(letters))
        self._tail.recall([logged for logged in entries if logged.n <= stands.n])
        missing = [logged for logged in entries if logged.n > stands.n]
        for logged in missing:
            self._follow(logged)
        self.replayed += len(missing)

    async def _serve(self, links: list[RedisConnection]) -> None:
        """Until a link fails; raises why."""
        keys, flushed = self._keys, f"{self._keys.epoch}-{self._tail.flushed}"
        append, read, follow = links
        tasks = [
            asyncio.create_task(self._append_queue.run(append, keys), name="append"),
            asyncio.create_task(self._reader.run(read, lambda link: self._outbox.run(link, keys))),
            asyncio.create_task(self._follower.run(follow, keys, flushed), name="follow"),
            asyncio.create_task(self._measure_clock(), name="clock"),
        ]
        self._serving = tasks[2]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._serving = None
            await end(*tasks)
        task = next(iter(done))
        if task.cancelled():
            raise LogUnavailable("The epoch of the log is over.")
        raise task.exception() or StorageError("A task of Redis ended.")

    async def _measure_clock(self) -> None:
        """Until cancelled, or the link fails: then its own task says so."""
        while True:
            await asyncio.sleep(self._bounds.clock_measure_s)
            with contextlib.suppress(LogUnavailable, CommandRefused):
                asked_s = self._clock.monotonic_s()
                self._note_time(await self._reader.ask(("TIME",)), asked_s)

    def _note_time(self, reply: Sequence[bytes], asked_s: float) -> None:
        seconds, micros = map(int, reply)
        self._clock.measured(from_micros(seconds * 1_000_000 + micros), asked_s, self._clock.monotonic_s())

    def _moved_on(self) -> None:
        if self._serving is not None:
            self._serving.cancel()

    async def _is_joined(self) -> bool:
        """Whether Redis can be used. A link that has just been lost (Redis, or something in between, has
        ended it as idle) is back at once most of the time: that is waited for, once and not for long."""
        if self.joined or self._back is None:
            return self.joined
        left_s = self._lost_s + self._bounds.shared_grace_s - self._clock.monotonic_s()
        await asyncio.wait([self._back], timeout=max(0.0, left_s))
        return self.joined

    def _give_up_waiting(self) -> None:
        """The links are not there again at once."""
        if self._back is not None and not self._back.done():
            self._back.set_result(False)
        self._back = None
        self._append_queue.refuse_queued()
        self._reader.give_up()

    def _leave(self) -> None:
        if self.joined:
            self._lost_s = self._clock.monotonic_s()
            self._back = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(self._bounds.shared_grace_s, self._tire_of, self._back)
        self.joined = False
        self._append_queue.give_up()
        self._outbox.give_up()
        self._follower.give_up()

    def _tire_of(self, back: "asyncio.Future[bool]") -> None:
        if self._back is back:
            self._give_up_waiting()

    def _follow(self, logged: LogRecord) -> None:
        """Take in the next entry of the log."""
        self._take_in(logged)
        self._append_queue.visible(logged.n)
        self._follower.reached(logged.n)

    def _own_append(self, sent_s: float, complete: bool) -> None:
        self._follower.own_append(sent_s, complete)

    def _notice(self, notice: Notice) -> None:
        if notice.after <= self._tail.flushed:  # else one was lost: the database knows what it refused
            self._on_notice(notice.upto, notice.rejected)
