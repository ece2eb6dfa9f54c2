"""Reading orders: local tier, then what is pending, then the database. The cache loads; callers never do."""

import asyncio
from collections import Counter
from datetime import datetime
from typing import NamedTuple

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database import Database
from storage.errors import Behind, NotFound
from storage.filters import ListQuery, OrderFilter
from storage.ids import is_id
from storage.local import ABSENT, MISS, Held, LocalOrders, Lru, Sentinel, held_of
from storage.log import Position
from storage.orders import HistoryItem, Order, Status, decode_order
from storage.single_flight import SingleFlight
from storage.tail import Followed, Tail
from storage.view_cache import ViewCache
from storage.views import Page

HISTORIES = 2_000
"""Histories held at once; they share the local tier's byte bound by a tenth."""


class Source:
    """Where an answer came from, in the words of `Cache-Status` (RFC 9211)."""

    LOCAL = "facet; hit; detail=local"
    PENDING = "facet; hit; detail=pending"
    MISS = "facet; fwd=miss; stored"


class Found(NamedTuple):
    held: Held
    source: str


class FoundPage(NamedTuple):
    page: Page
    source: str


class FoundBody(NamedTuple):
    body: bytes
    source: str


class InLocal(msgspec.Struct, frozen=True):
    version: int
    age_s: float


class InShared(msgspec.Struct, frozen=True):
    version: int
    position: int


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
    def __init__(self, database: Database, tail: Tail, bounds: Bounds, clock: Clock) -> None:
        self._database = database
        self._tail = tail
        self._clock = clock
        self.local = LocalOrders(
            bounds.local_entries, bounds.local_bytes, bounds.absent_entries, bounds.absent_age_s, clock
        )
        self.views = ViewCache(database, tail, self.local, bounds)
        self._histories: Lru[str, list[HistoryItem]] = Lru(HISTORIES, bounds.local_bytes // 10)
        self._flights: SingleFlight[str, Held | Sentinel] = SingleFlight()
        self._history_flights: SingleFlight[str, list[HistoryItem]] = SingleFlight()
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}
        self._stopping = False
        self.loads: Counter[str] = Counter()
        """Loads from the database, by what was loaded."""
        self.pending_hits = 0

    def apply(self, followed: Followed) -> None:
        """Follow the log by one entry."""
        if followed.held is None:
            return
        order_id = followed.held.id
        self.local.replace(followed.held)
        self._histories.discard(order_id)
        self._history_flights.forget(order_id)
        for watcher in self._watchers.pop(order_id, ()):
            if not watcher.done():
                watcher.set_result(None)

    def require_position(self, position: Position, epoch: int) -> None:
        """Raises Behind when this process has not seen the position yet. Earlier epochs are all seen."""
        if position.epoch > epoch or (position.epoch == epoch and position.n > self._tail.head):
            raise Behind(f"This process has not reached position {position} yet.")

    def peek(self, order_id: str) -> Held | Sentinel:
        """What the local tier holds; never waits."""
        return self.local.get(order_id)

    async def get(self, order_id: str) -> Found:
        """Raises NotFound."""
        held = self.local.get(order_id)
        if isinstance(held, Held):
            return Found(held, Source.LOCAL)
        if held is ABSENT or not is_id(order_id):
            raise NotFound("There is no such order.")
        pending = self._tail.pending(order_id)
        if pending is not None:
            self.pending_hits += 1
            self.local.replace(pending.held)
            return Found(pending.held, Source.PENDING)
        loaded = await self._flights.do(order_id, lambda: self._load(order_id))
        if not isinstance(loaded, Held):
            raise NotFound("There is no such order.")
        return Found(loaded, Source.MISS)

    async def order(self, order_id: str) -> Order:
        return decode_order((await self.get(order_id)).held.body)

    async def history(self, order_id: str) -> tuple[list[HistoryItem], str]:
        """Oldest first. The caller has checked that the order exists and is visible."""
        items = self._histories.get(order_id)
        if isinstance(items, list):
            return items, Source.LOCAL
        return await self._history_flights.do(order_id, lambda: self._load_history(order_id)), Source.MISS

    async def page(self, query: ListQuery, limit: int, now: datetime) -> FoundPage:
        page = self.views.peek_page(query, limit, now)
        if isinstance(page, Page):
            return FoundPage(page, Source.LOCAL)
        return FoundPage(await self.views.page(query, limit, now), Source.MISS)

    async def counts(self, order_filter: OrderFilter) -> FoundBody:
        body = self.views.peek_counts(order_filter)
        if isinstance(body, bytes):
            return FoundBody(body, Source.LOCAL)
        return FoundBody(await self.views.counts(order_filter), Source.MISS)

    async def find_reference(self, created_by: str, reference: str) -> str | None:
        """The order that holds this reference of this token."""
        order_id = self._tail.pending_reference(created_by, reference)
        if order_id is None:
            self.loads["reference"] += 1
            order_id = await self._database.find_reference(created_by, reference)
        if order_id is None or (await self.order(order_id)).reference != reference:
            return None
        return order_id

    def stop_waiting(self) -> None:
        """The service stops: whoever waits for a change is answered now."""
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

    async def invalidate(self, order_id: str) -> bool:
        """Forget what is held of an order and read it again. What is pending stays: it is newer than the
        database. Returns whether the order exists."""
        self.local.invalidate(order_id)
        self._flights.forget(order_id)
        self._histories.discard(order_id)
        self._history_flights.forget(order_id)
        try:
            order = await self.order(order_id)
        except NotFound:
            self.views.show(order_id, None)
            return False
        self.views.show(order_id, order)
        return True

    async def inspect(self, order_id: str) -> Inspected:
        """What each tier holds, by asking each. Raises NotFound when none holds it."""
        held, pending = self.local.lru.peek(order_id), self._tail.pending(order_id)
        stored = await self._database.load_order(order_id) if is_id(order_id) else None
        if not isinstance(held, Held) and pending is None and stored is None:
            raise NotFound("There is no such order.")
        now_s = self._clock.monotonic_s()
        state = "persisted" if pending is None else ("parked" if pending.parked else "pending")
        return Inspected(
            state=state,
            local=InLocal(held.version, round(now_s - held.at_s, 3)) if isinstance(held, Held) else None,
            shared=InShared(pending.order.version, pending.n) if pending else None,
            database=InDatabase(stored.version, stored.status) if stored else None,
        )

    async def warm_orders(self, limit: int) -> int:
        """Hold the newest orders, from the rows of the list of all orders."""
        bodies = await self.views.bodies(ListQuery(), limit)
        for body in reversed(bodies):
            self.local.replace(held_of(decode_order(body), self._clock.monotonic_s()))
        return len(bodies)

    async def _load(self, order_id: str) -> Held | Sentinel:
        self.loads["order"] += 1
        ticket, head = self.local.begin_fill(), self._tail.head
        order = await self._database.load_order(order_id)
        for followed in self._missed(order_id, head):
            order = followed.order
        pending = self._tail.pending(order_id)
        if pending is not None and (order is None or pending.order.version > order.version):
            return self.local.fill(pending.held, ticket)
        if order is None:
            self.local.fill_absent(order_id, ticket)
            return MISS
        return self.local.fill(held_of(order, self._clock.monotonic_s()), ticket)

    async def _load_history(self, order_id: str) -> list[HistoryItem]:
        self.loads["history"] += 1
        ticket, head, pending = self.local.begin_fill(), self._tail.head, self._tail.pending(order_id)
        waiting = [item for _, item in pending.changes] if pending is not None else []
        stored = await self._database.load_history(order_id)
        waiting += [followed.history for followed in self._missed(order_id, head)]
        by_version = {item.version: item for item in (*waiting, *stored)}
        items = [by_version[version] for version in sorted(by_version)]
        if self._tail.head == head and self.local.begin_fill() == ticket:
            self._histories.put(order_id, items, sum(300 + len(item.comment or "") for item in items))
        return items

    def _missed(self, order_id: str, head: int) -> list[Followed]:
        """Changes of an order that came while the database was being read: the read may lack them, and
        they may have left the pending ones since."""
        followed = self._tail.since(head)
        if followed is None:
            raise Behind("The log moves faster than the database can be read.")
        return [entry for entry in followed if entry.order is not None and entry.order.id == order_id]
