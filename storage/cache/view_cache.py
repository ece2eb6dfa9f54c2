"""The maintained lists this process holds: loaded once for any number of callers, then kept up to date."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import msgspec

from storage.bounds import Bounds
from storage.cache.list_views import CountsQuery, CountsView, ListView, Page
from storage.cache.local_orders import LocalOrders
from storage.cache.snapshots import Snapshots
from storage.database.contract import Database
from storage.database.records import CountsSnapshot, ListSnapshot, RowsSnapshot
from storage.errors import Behind
from storage.log.entries import Position
from storage.log.tail import Tail
from storage.memory.lru import MISS, Lru, Sentinel
from storage.memory.single_flight import SingleFlight
from storage.orders.encoded import EncodedOrder
from storage.orders.filters import ALL, ListQuery, OrderFilter, Place, SortField, place_of
from storage.orders.order import Order, encode_order
from storage.orders.workflow import Status

LOAD_ATTEMPTS = 3
"""A load that the log overtakes by more than the tail holds is begun again this often."""

EPOCH_PAUSE_S = 0.05
"""Between a new epoch of the log in the database and here there is a moment."""

Query = ListQuery | CountsQuery
View = TypeVar("View", ListView, CountsView)


class ViewCache:
    def __init__(
        self,
        database: Database,
        snapshots: Snapshots,
        reach_head: Callable[[], Awaitable[bool]],
        tail: Tail,
        local: LocalOrders,
        bounds: Bounds,
    ) -> None:
        """`reach_head` waits until this process holds what had been accepted before."""
        self._database = database
        self._reach_head = reach_head
        self._snapshots = snapshots
        self._tail = tail
        self._local = local
        self._bounds = bounds
        self._views: Lru[Query, ListView | CountsView] = Lru(bounds.views, bounds.views_bytes)
        self._flights: SingleFlight[Query, ListView | CountsView] = SingleFlight()
        self._deep: SingleFlight[tuple[ListQuery, int], ListView | CountsView] = SingleFlight()
        self._invalidations = 0
        self.loads = 0

    @property
    def lru(self) -> Lru[Query, ListView | CountsView]:
        return self._views

    def peek_page(self, query: ListQuery, limit: int, now: datetime) -> Page | Sentinel:
        """The page from what is held here; MISS when a load is needed. Never waits."""
        if (anchor := query.anchor) is not None:
            return self._peek_behind(query, anchor, limit, now)
        view = self._current(query)
        if not isinstance(view, ListView) or not view.holds(limit):
            return MISS
        if not view.complete and len(view) < self._bounds.view_rows_min:
            self._refill(query)
        return view.page(limit, now, self._bounds.view_pages)

    def _peek_behind(self, query: ListQuery, anchor: Place, limit: int, now: datetime) -> Page | Sentinel:
        """A page further on, cut from the list that it is of, when that is held and reaches so far."""
        if query.sort.field is SortField.UPDATED_AT:
            return MISS
        view = self._current(msgspec.structs.replace(query, after=None))
        page = view.page_behind(anchor, limit, now) if isinstance(view, ListView) else None
        return MISS if page is None else page

    async def page(self, query: ListQuery, limit: int, now: datetime) -> tuple[Page, Position]:
        """Load the list and show its first rows, with the position they are complete to."""
        if query.after is not None:
            view = await self._load_deep(query, limit)
            return view.page(limit, now, 0), Position(view.epoch, view.n)
        view = await self._loaded(query, ListView)
        return view.page(limit, now, self._bounds.view_pages), Position(view.epoch, view.n)

    def peek_counts(self, query: CountsQuery) -> bytes | Sentinel:
        view = self._current(query)
        return view.body if isinstance(view, CountsView) else MISS

    async def counts(self, query: CountsQuery) -> tuple[bytes, Position]:
        view = await self._loaded(query, CountsView)
        return view.body, Position(view.epoch, view.n)

    async def bodies(self, query: ListQuery, limit: int) -> list[bytes]:
        """The first rows of a list, encoded, loading it when it is not held."""
        return (await self.rows(query, limit))[0]

    async def rows(self, query: ListQuery, limit: int) -> tuple[list[bytes], Position]:
        """The same, with the position they are complete to."""
        view = self._current(query)
        if not isinstance(view, ListView):
            view = await self._loaded(query, ListView)
        return view.bodies[:limit], Position(view.epoch, view.n)

    def peek_first(self, query: ListQuery) -> bytes | None:
        """The first row of a list that is held; never loads."""
        view = self._current(query)
        return view.first if isinstance(view, ListView) else None

    def peek_all_counts(self) -> dict[Status, int]:
        """Orders by status, when these counts are held; never loads."""
        view = self._current(CountsQuery(ALL))
        return dict(view.counts) if isinstance(view, CountsView) else {}

    def show(self, order_id: str, order: Order | None) -> None:
        """After an invalidation by key: every list shows the order as it now is; counts are loaded again."""
        self._invalidations += 1
        for query in list(self._views):
            view = self._views.peek(query)
            # What the view has not yet followed of the log comes first: later, it would undo this.
            if isinstance(view, ListView) and self._catch_up(view):
                view.put(order_id, order)
            else:
                self._views.discard(query)

    def clear(self) -> None:
        self._invalidations += 1
        self._views.clear()
        self._flights.clear()
        self._deep.clear()

    def _current(self, query: Query) -> ListView | CountsView | Sentinel:
        """The view, brought up to date, or MISS."""
        view = self._views.get(query)
        if isinstance(view, Sentinel):
            return MISS
        if view.n != self._tail.head and not self._catch_up(view):
            self._views.discard(query)
            return MISS
        return view

    def _catch_up(self, view: ListView | CountsView) -> bool:
        followed = self._tail.since(view.n) if view.epoch == self._tail.epoch else None
        if followed is None:
            return False
        for entry in followed:
            view.apply(entry)
        return True

    def _refill(self, query: ListQuery) -> None:
        """A list that has become short is loaded again before a caller has to wait for it."""
        self._flights.start(query, lambda: self._load(query))

    async def _loaded(self, query: Query, kind: type[View]) -> View:
        """The list as it is loaded for all who ask meanwhile, brought up to date."""
        view = await self._flights.do(query, lambda: self._load(query))
        assert isinstance(view, kind)
        self._catch_up(view)
        return view

    async def _load_deep(self, query: ListQuery, limit: int) -> ListView:
        """A page far on in a list: its rows and no more, which nobody keeps. A walk through all orders then
        takes nothing from those who look at the same lists again and again."""
        # More when some have left the list since the database had them.
        for rows_max in (limit, 2 * limit, max(4 * limit, self._bounds.view_rows)):
            load = functools.partial(self._up_to_date, query, rows_max)
            found = await self._deep.do((query, rows_max), load)
            assert isinstance(found, ListView)
            view = found
            self._catch_up(view)
            if view.complete or len(view) >= limit:
                return view
        if not len(view):  # there may be more behind, and no row to go on from
            raise Behind("The list changes faster than it can be loaded.")
        return view

    async def _load(self, query: Query) -> ListView | CountsView:
        began = self._invalidations
        rows_max = self._bounds.view_rows if query.filter.q is None else self._bounds.view_rows_searched
        view = await self._up_to_date(query, rows_max)
        if began == self._invalidations and view.epoch == self._tail.epoch:
            self._views.put(query, view, view.byte_count)
        return view

    async def _up_to_date(self, query: Query, rows_max: int) -> ListView | CountsView:
        """As the database has it, with what the log has brought since."""
        for attempt in range(LOAD_ATTEMPTS):
            view = await self._snapshot(query, rows_max)
            if view.n > self._tail.head:
                await self._reach_head()
            if view.epoch != self._tail.epoch:
                if attempt + 1 == LOAD_ATTEMPTS:
                    return view  # the database is in a new epoch of the log already: it has everything
                await asyncio.sleep(EPOCH_PAUSE_S)
            elif self._catch_up(view):
                return view
        raise Behind("The list changes faster than it can be loaded.")

    async def _snapshot(self, query: Query, rows_max: int) -> ListView | CountsView:
        if isinstance(query, CountsQuery):
            counts = await self._counts(query.filter)
            return CountsView(query, counts.counts, counts.position)
        position, rows = await self._rows(query, rows_max + 1)
        view = ListView(query, rows[:rows_max], len(rows) <= rows_max, position, rows_max)
        for order_id in self._tail.parked:
            pending = self._tail.pending(order_id)
            if pending is not None:  # the database has an older state, and will not get a newer one by itself
                view.put(order_id, pending.order)
        return view

    async def _rows(self, query: ListQuery, limit: int) -> RowsSnapshot:
        if query.after is not None:
            self.loads += 1
            return await self._database.load_rows(query, limit)
        snapshot = await self._list(query, limit)
        rows = [(place_of(order, query.sort), self._body(order)) for order in snapshot.rows[:limit]]
        return RowsSnapshot(snapshot.position, rows)

    async def _list(self, query: ListQuery, limit: int) -> ListSnapshot:
        """As another process has read it, else from the database."""
        if (snapshot := await self._snapshots.find_list(query)) is None:
            self.loads += 1
            snapshot = await self._database.load_list(query, limit)
            self._snapshots.keep_list(query, snapshot)
        return snapshot

    async def _counts(self, order_filter: OrderFilter) -> CountsSnapshot:
        if (snapshot := await self._snapshots.find_counts(order_filter)) is None:
            self.loads += 1
            snapshot = await self._database.load_counts(order_filter)
            self._snapshots.keep_counts(order_filter, snapshot)
        return snapshot

    def _body(self, order: Order) -> bytes:
        """The order's bytes, shared with the local tier when that holds the same version."""
        held = self._local.lru.peek(order.id)
        if isinstance(held, EncodedOrder) and held.version == order.version:
            return held.body
        return encode_order(order)
