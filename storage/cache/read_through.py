"""Reading orders: local tier, what is pending, Redis, database. The cache loads; callers never do."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from storage.bounds import Bounds
from storage.cache.list_views import CountsQuery, Page
from storage.cache.local_orders import LocalOrders
from storage.cache.snapshots import Snapshots
from storage.cache.view_cache import ViewCache
from storage.clock import Clock
from storage.database.contract import Database
from storage.errors import Behind, NotFound, StorageError, Upgrading
from storage.ids import is_id
from storage.log.change_log import ChangeLog, InShared
from storage.log.entries import CacheKind, Invalidated, Position
from storage.log.tail import AppliedEntry, Tail
from storage.memory.lru import ABSENT, MISS, Lru, Sentinel
from storage.memory.single_flight import SingleFlight
from storage.orders.encoded import EncodedOrder, encoded_order
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import HistoryItem, Order, decode_order
from storage.orders.workflow import Status

Result = TypeVar("Result")

MANY_ATTEMPTS = 3
"""A read of several orders that the log overtakes by more than the tail holds is begun again this often."""
HISTORIES = 2_000
"""Histories held at once; they share the local tier's byte bound by a tenth."""


class CacheStatus:
    """Where an answer came from, in the words of `Cache-Status` (RFC 9211)."""

    LOCAL = "facet; hit; detail=local"
    PENDING = "facet; hit; detail=pending"
    MISS = "facet; fwd=miss; stored"
    STALE = "facet; hit; detail=stale"
    """Redis is away: this may not be the newest."""
    SHARED = "facet; hit; detail=shared"


class Found(msgspec.Struct, frozen=True, gc=False):
    """`as_of`: the position that what was found is complete to; None: that of this moment, for a caller that
    does not wait for anything in between. An answer must not claim a newer one than its content has, or who
    echoes it would be shown something older than it was promised."""

    held: EncodedOrder
    source: str
    as_of: Position | None = None


class FoundMany(NamedTuple):
    """Orders by id, all as of one moment. What does not exist is left out."""

    held: dict[str, EncodedOrder]
    source: str


class FoundPage(NamedTuple):
    page: Page
    source: str
    as_of: Position | None = None


class FoundBody(NamedTuple):
    body: bytes
    source: str
    as_of: Position | None = None


class FoundRows(NamedTuple):
    bodies: list[bytes]
    source: str
    as_of: Position | None = None


class FoundHistory(NamedTuple):
    items: list[HistoryItem]
    source: str
    as_of: Position | None = None


class _Loaded(NamedTuple):
    held: EncodedOrder | Sentinel
    source: str
    as_of: Position


class InLocal(msgspec.Struct, frozen=True):
    version: int
    age_s: float


class InDatabase(msgspec.Struct, frozen=True):
    version: int
    status: Status


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What each tier holds of an order. `state`: pending, parked or persisted."""

    state: str
    local: InLocal | None
    shared: InShared | None
    database: InDatabase | None


class ReadThrough:
    def __init__(
        self, database: Database, change_log: ChangeLog, tail: Tail, bounds: Bounds, clock: Clock
    ) -> None:
        self._database = database
        self._change_log = change_log
        self._freshness = change_log.freshness
        self._catch_up_s = bounds.catch_up_s
        self._positions_waiting = bounds.positions_waiting
        self._tail = tail
        self._clock = clock
        self.local = LocalOrders(
            bounds.local_entries, bounds.local_bytes, bounds.absent_entries, bounds.absent_age_s, clock
        )
        self.views = ViewCache(
            database,
            Snapshots(change_log.shared_cache, tail),
            change_log.reach_head,
            tail,
            self.local,
            bounds,
        )
        self._histories: Lru[str, list[HistoryItem]] = Lru(HISTORIES, bounds.local_bytes // 10)
        self._flights: SingleFlight[str, _Loaded] = SingleFlight()
        self._history_flights: SingleFlight[str, FoundHistory] = SingleFlight()
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._refreshing: SingleFlight[str, bool] = SingleFlight()
        self._refreshes: set[asyncio.Task[bool]] = set()
        self._stopping = False
        self.loads: Counter[str] = Counter()
        """Loads from the database, by what was loaded."""
        self.pending_hits = self.shared_hits = 0

    @property
    def fresh(self) -> bool:
        return self._clock.monotonic_s() <= self._freshness.until_s

    @property
    def stands(self) -> Position:
        """How far this process has followed the log."""
        return Position(self._tail.epoch, self._tail.head)

    async def in_step(self) -> bool:
        """Whether what is read here is the newest; waits a moment for it. False: Redis is away, so it cannot
        be say. Raises Behind when this process cannot keep up with the log."""
        return self.fresh or await self._change_log.catch_up()

    def apply(self, followed: AppliedEntry) -> None:
        """Follow the log by one entry."""
        if self._awaited:
            self._reached(followed.n)
        if followed.held is None:
            entry = followed.logged.entry
            if isinstance(entry, Invalidated):
                self._apply_forgotten(entry)
            return
        order_id = followed.held.id
        self.local.replace(followed.held)
        self._histories.discard(order_id)
        self._history_flights.forget(order_id)
        self._wake_watchers(order_id)

    def _wake_watchers(self, order_id: str) -> None:
        for watcher in self._watchers.pop(order_id, ()):
            if not watcher.done():
                watcher.set_result(None)

    def start_over(self) -> None:
        """Nothing that is held can be brought up to date."""
        self.local.start_over()
        self.views.clear()
        self._histories.clear()
        self._flights.clear()
        self._history_flights.clear()
        for order_id in list(self._watchers):  # their change may have come with the new epoch
            self._wake_watchers(order_id)

    def has_seen(self, position: Position) -> bool:
        """Whether this process has reached the position. Earlier epochs are all seen."""
        epoch = self._tail.epoch
        return position.epoch < epoch or (position.epoch == epoch and position.n <= self._tail.head)

    async def require_position(self, position: Position) -> None:
        """Waits a moment for this process to reach the position. Raises Behind when it does not."""
        if self.has_seen(position):
            return
        if len(self._awaited) >= self._positions_waiting:
            raise Behind("Too many requests wait for this process to follow the log.")
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        awaited = (position.n if position.epoch == self._tail.epoch else 0, reached)
        self._awaited.append(awaited)
        try:
            async with asyncio.timeout(self._catch_up_s):
                await reached
        except TimeoutError:
            pass
        finally:
            if awaited in self._awaited:
                self._awaited.remove(awaited)
        if not self.has_seen(position):
            raise Behind(f"This process has not reached position {position} yet.")

    def _reached(self, n: int) -> None:
        for awaited, reached in [item for item in self._awaited if item[0] <= n]:
            self._awaited.remove((awaited, reached))
            if not reached.done():
                reached.set_result(None)

    def peek(self, order_id: str) -> EncodedOrder | Sentinel:
        """What the local tier holds, if it may be shown; never waits."""
        return self.local.get(order_id) if self.fresh else MISS

    async def get(self, order_id: str) -> Found:
        """Raises NotFound; Behind when this process cannot keep up with the log."""
        if self._clock.monotonic_s() > self._freshness.until_s and not await self._change_log.catch_up():
            return await self._get_alone(order_id)
        held = self.local.get(order_id)
        if isinstance(held, EncodedOrder):
            return Found(held, CacheStatus.LOCAL)
        if held is ABSENT or not is_id(order_id):
            raise NotFound("There is no such order.")
        if (pending := self._tail.pending(order_id)) is not None:
            self.pending_hits += 1
            self.local.replace(pending.held)
            return Found(pending.held, CacheStatus.PENDING)
        loaded = await self._flights.do(order_id, lambda: _once_more(self._load, order_id))
        if not isinstance(loaded.held, EncodedOrder):
            raise NotFound("There is no such order.")
        return Found(loaded.held, loaded.source, loaded.as_of)

    async def get_many(self, order_ids: Sequence[str]) -> FoundMany:
        """As `get`, for several. Raises Behind."""
        for _ in range(MANY_ATTEMPTS):
            before, held, source = self.stands, dict[str, EncodedOrder](), CacheStatus.LOCAL
            for order_id in order_ids:
                with contextlib.suppress(NotFound):
                    found = await self.get(order_id)
                    held[order_id] = found.held
                    if source != CacheStatus.STALE and found.source != CacheStatus.LOCAL:
                        source = found.source
            followed = self._tail.since(before.n) if self._tail.epoch == before.epoch else None
            if followed is not None:
                wanted = frozenset(order_ids)
                for entry in followed:  # what changed while others were being loaded
                    if entry.held is not None and entry.held.id in wanted:
                        held[entry.held.id] = _newer(entry.held, held.get(entry.held.id))
                return FoundMany(held, source)
        raise Behind("The log moves faster than these orders can be read.")

    async def _get_alone(self, order_id: str) -> Found:
        """The log cannot be followed: what is held here, else the database with the held tail."""
        held, pending = self.local.lru.get(order_id), self._tail.pending(order_id)
        if not isinstance(held, EncodedOrder) and pending is not None:
            held = pending.held
        if isinstance(held, EncodedOrder):
            return Found(held, CacheStatus.STALE)
        if not is_id(order_id):
            raise NotFound("There is no such order.")
        loaded = await self._flights.do(order_id, lambda: _once_more(self._load, order_id))
        if not isinstance(loaded.held, EncodedOrder):
            raise Behind("The database does not have this order; others may, but Redis is away.")
        return Found(loaded.held, CacheStatus.STALE, loaded.as_of)

    async def order(self, order_id: str) -> Order:
        """As `get`, decoded. Raises Upgrading when this release does not know all of it: it may be shown, and
        not be changed."""
        pending = self._tail.pending(order_id) if self.fresh else None
        if pending is not None:
            if pending.later:
                raise Upgrading("A later release has changed this order: it can change it again.")
            return pending.order
        try:
            return decode_order((await self.get(order_id)).held.body)
        except msgspec.ValidationError:
            raise Upgrading("A later release has changed this order: it can change it again.") from None

    async def history(self, order_id: str) -> FoundHistory:
        """Oldest first. The caller has checked that the order exists and is visible. Raises Behind."""
        disconnected = not await self.in_step()
        items = self._histories.get(order_id)
        if isinstance(items, list):
            return FoundHistory(items, CacheStatus.STALE if disconnected else CacheStatus.LOCAL)
        found = await self._history_flights.do(order_id, lambda: _once_more(self._load_history, order_id))
        return found._replace(source=CacheStatus.STALE) if disconnected else found

    async def page(self, query: ListQuery, limit: int, now: datetime) -> FoundPage:
        """`now`: when a walk begins that begins with this page. It contains all that was changed before,
        also by a process whose clock is a little ahead."""
        disconnected = not self.fresh and not await self._change_log.catch_up()
        if self._tail.newest_at is not None and self._tail.newest_at > now:
            now = self._tail.newest_at
        page = self.views.peek_page(query, limit, now)
        if isinstance(page, Page):
            return FoundPage(page, CacheStatus.STALE if disconnected else CacheStatus.LOCAL)
        page, as_of = await self.views.page(query, limit, now)
        return FoundPage(page, CacheStatus.STALE if disconnected else CacheStatus.MISS, as_of)

    async def rows(self, query: ListQuery, limit: int) -> FoundRows:
        """The first rows of a list, encoded."""
        disconnected = not await self.in_step()
        bodies, as_of = await self.views.rows(query, limit)
        return FoundRows(bodies, CacheStatus.STALE if disconnected else CacheStatus.LOCAL, as_of)

    async def counts(self, order_filter: OrderFilter) -> FoundBody:
        disconnected = not self.fresh and not await self._change_log.catch_up()
        query = CountsQuery(order_filter)
        body = self.views.peek_counts(query)
        if isinstance(body, bytes):
            return FoundBody(body, CacheStatus.STALE if disconnected else CacheStatus.LOCAL)
        body, as_of = await self.views.counts(query)
        return FoundBody(body, CacheStatus.STALE if disconnected else CacheStatus.MISS, as_of)

    async def find_reference(self, created_by: str, reference: str) -> str | None:
        """The order that holds this reference of this token."""
        if (order_id := self._tail.pending_reference(created_by, reference)) is None:
            self.loads["reference"] += 1
            order_id = await self._database.find_reference(created_by, reference)
        if order_id is None or (await self.order(order_id)).reference != reference:
            return None
        return order_id

    def stop_waiting(self) -> None:
        """The service stops: callers that wait for a change are answered now."""
        self._stopping = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.cancel()

    async def wait_for_change(self, order_id: str, timeout_s: float) -> bool:
        """True at the order's next change, False after the timeout or when the service stops."""
        if self._stopping:
            return False
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watchers = self._watchers.setdefault(order_id, set())
        watchers.add(watcher)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait([watcher])
        except TimeoutError:
            return False
        finally:
            watchers.discard(watcher)
            if not watchers and self._watchers.get(order_id) is watchers:
                del self._watchers[order_id]
        return not watcher.cancelled()

    async def refresh(self, order_id: str) -> bool:
        """Forget what is held of an order and read it again, here. What is pending stays: it is newer than
        the database. Returns whether the order exists."""
        return await self._refreshing.do(order_id, lambda: self._refresh(order_id))

    async def _refresh(self, order_id: str) -> bool:
        self._forget(order_id)
        seen = self.stands
        order: Order | None = None
        with contextlib.suppress(NotFound):
            order = await self.order(order_id)
        # What came before this task ran again is in the lists already: a row put back would stay there.
        for followed in self._missed(order_id, seen):
            if followed.order is not None and (order is None or followed.order.version > order.version):
                order = followed.order
        self.views.show(order_id, order)
        self._wake_watchers(order_id)
        return order is not None

    def _forget(self, order_id: str) -> None:
        self.local.invalidate(order_id)
        self._flights.forget(order_id)
        self._histories.discard(order_id)
        self._history_flights.forget(order_id)

    def _apply_forgotten(self, entry: Invalidated) -> None:
        if entry.thing is CacheKind.LISTS:
            self.views.clear()
        elif entry.thing is CacheKind.ORDER:
            if entry.repaired:
                self._tail.unpark(entry.key)
            self._forget(entry.key)
            self._refreshing.forget(entry.key)  # what is being read again now may be read too early
            task = asyncio.create_task(self._refresh_quietly(entry.key), name=f"refresh {entry.key}")
            self._refreshes.add(task)
            task.add_done_callback(self._refreshes.discard)

    async def _refresh_quietly(self, order_id: str) -> bool:
        """When it cannot be read now, no list may show what it was."""
        try:
            return await self.refresh(order_id)
        except StorageError:
            self.views.clear()
            return False

    async def inspect(self, order_id: str) -> Inspected:
        """What each tier holds, by asking each. Raises NotFound when none holds it."""
        held, pending = self.local.lru.peek(order_id), self._tail.pending(order_id)
        stored = await self._database.load_order(order_id) if is_id(order_id) else None
        shared = await self._change_log.inspect(order_id) if is_id(order_id) else None
        if not isinstance(held, EncodedOrder) and pending is None and stored is None and shared is None:
            raise NotFound("There is no such order.")
        now_s = self._clock.monotonic_s()
        state = "persisted" if pending is None else ("parked" if pending.parked else "pending")
        return Inspected(
            state=state,
            local=InLocal(held.version, round(now_s - held.at_s, 3))
            if isinstance(held, EncodedOrder)
            else None,
            shared=shared,
            database=InDatabase(stored.version, stored.status) if stored else None,
        )

    async def warm_orders(self, limit: int) -> int:
        """Hold the newest orders, from the rows of the list of all orders."""
        bodies = await self.views.bodies(ListQuery(), limit)
        for body in reversed(bodies):
            self.local.replace(encoded_order(decode_order(body), self._clock.monotonic_s()))
        return len(bodies)

    async def _load(self, order_id: str) -> _Loaded:
        ticket, seen = self.local.begin_fill(), self.stands
        order, source = await self._change_log.load(order_id), CacheStatus.SHARED
        if order is None:
            self.loads["order"] += 1
            order, source = await self._database.load_order(order_id), CacheStatus.MISS
            if order is not None:
                self._change_log.offer(order, seen)
        else:
            self.shared_hits += 1
        # What was read may be ahead of this process: its answers must not be older than their position says.
        await self._change_log.reach_head()
        for followed in self._missed(order_id, seen):
            if order is None or (followed.order is not None and followed.order.version > order.version):
                order = followed.order
        pending = self._tail.pending(order_id)
        if pending is not None and (order is None or pending.order.version > order.version):
            return _Loaded(self.local.fill(pending.held, ticket), source, self.stands)
        if order is None:
            self.local.fill_absent(order_id, ticket)
            return _Loaded(MISS, source, self.stands)
        held = self.local.fill(encoded_order(order, self._clock.monotonic_s()), ticket)
        return _Loaded(held, source, self.stands)

    async def _load_history(self, order_id: str) -> FoundHistory:
        self.loads["history"] += 1
        ticket, pending = self.local.begin_fill(), self._tail.pending(order_id)
        seen = self.stands
        waiting = [change.history for change in pending.changes] if pending is not None else []
        stored = await self._database.load_history(order_id)
        await self._change_log.reach_head()  # what was read may be ahead of this process
        waiting += [followed.history for followed in self._missed(order_id, seen)]
        by_version = {item.version: item for item in (*waiting, *stored)}
        items = [by_version[version] for version in sorted(by_version)]
        if self._tail.head == seen.n and self.local.begin_fill() == ticket:
            self._histories.put(order_id, items, sum(300 + len(item.comment or "") for item in items))
        return FoundHistory(items, CacheStatus.MISS, self.stands)

    def _missed(self, order_id: str, seen: Position) -> list[AppliedEntry]:
        """Changes of an order that came while the database was being read: the read may lack them, and
        they may have left the pending ones since."""
        followed = self._tail.since(seen.n) if self._tail.epoch == seen.epoch else None
        if followed is None:
            raise Behind("The log moves faster than the database can be read.")
        return [entry for entry in followed if entry.order is not None and entry.order.id == order_id]


async def _once_more(load: Callable[[str], Awaitable[Result]], order_id: str) -> Result:
    """Again when a new epoch of the log began meanwhile, or very much has happened."""
    try:
        return await load(order_id)
    except Behind:
        return await load(order_id)


def _newer(one: EncodedOrder, other: EncodedOrder | None) -> EncodedOrder:
    return one if other is None or one.version >= other.version else other
