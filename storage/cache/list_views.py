"""Maintained lists: a snapshot of the database, kept up to date by the log.

A view never expires. It remembers the position it is at; its first reader applies what the log has
brought since. A change moves one row and replaces its bytes, and drops only the encoded pages it touches.
"""

import bisect
import hashlib
from datetime import datetime
from typing import NamedTuple

import msgspec

from storage.log.entries import Position
from storage.log.tail import AppliedEntry
from storage.orders.filters import ListQuery, OrderFilter, Place, SortField, encode_cursor, place_of
from storage.orders.order import Order, encode_order
from storage.orders.workflow import Status

ROW_OVERHEAD_BYTES = 160
"""What a row costs beside its bytes: its place and two list slots. Measured on CPython 3.11."""

TAG_CHARS = 18


class Page(NamedTuple):
    """An encoded page of a list. `next` is the cursor behind it, None at the end."""

    body: bytes
    etag: str
    next: str | None


class _CachedPage(NamedTuple):
    page: Page
    bound: Place | None
    """The last place that the page depends on; None when it depends on all of the list."""


class ListView:
    """The first rows of one list, `complete` when these are all of them.

    Rows are kept in ascending order of their places; a descending list begins at the end.
    """

    def __init__(
        self,
        query: ListQuery,
        rows: list[tuple[Place, bytes]],
        complete: bool,
        position: Position,
        rows_max: int,
    ) -> None:
        self.query = query
        self.epoch, self.n = position.epoch, position.n
        self.complete = complete
        self._descending = query.sort.descending
        self._rows_max = rows_max
        rows = rows[::-1] if self._descending else rows
        self._places = [place for place, _ in rows]
        self._bodies = [body for _, body in rows]
        self._pages: dict[int, _CachedPage] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def byte_count(self) -> int:
        return sum(map(len, self._bodies)) + ROW_OVERHEAD_BYTES * len(self._bodies)

    @property
    def bodies(self) -> list[bytes]:
        """In the order of the list."""
        return self._bodies[::-1] if self._descending else list(self._bodies)

    @property
    def first(self) -> bytes | None:
        if not self._bodies:
            return None
        return self._bodies[-1 if self._descending else 0]

    def holds(self, limit: int) -> bool:
        """Whether the first `limit` rows can be shown from here."""
        return self.complete or len(self._places) > limit

    def apply(self, followed: AppliedEntry) -> None:
        """Move on by one log entry."""
        self.n = followed.n
        if followed.order is None or followed.held is None:
            return
        before = followed.before
        old = place_of(before, self.query.sort) if before and self.query.covers(before) else None
        new = place_of(followed.order, self.query.sort) if self.query.covers(followed.order) else None
        if old is None and new is None:
            return
        if old is not None:
            self._remove(old)
        if new is not None:
            self._insert(new, followed.held.body)

    def put(self, order_id: str, order: Order | None) -> None:
        """Show this order as it is now, whatever was shown of it before: after an invalidation by key."""
        for place in [place for place in self._places if place.id == order_id]:
            self._remove(place)
        if order is not None and self.query.covers(order):
            self._insert(place_of(order, self.query.sort), encode_order(order))

    def page(self, limit: int, now: datetime, pages_max: int) -> Page:
        """The first `limit` rows. Call only when it `holds` them."""
        if (cached := self._pages.get(limit)) is not None:
            return cached.page
        page, bound = self._encode(limit, now)
        # A cursor into a list by `updated_at` carries the moment its walk began: never shared.
        if self.query.sort.field is not SortField.UPDATED_AT and len(self._pages) < pages_max:
            self._pages[limit] = _CachedPage(page, bound)
        return page

    def page_behind(self, anchor: Place, limit: int, now: datetime) -> Page | None:
        """The rows behind a place, as a list from there on would show them; None when they are not all held.
        Not for lists by `updated_at`, whose walks leave out what has changed since they began."""
        places = self._places
        if self._descending:
            end = bisect.bisect_left(places, anchor)
            rows = slice(max(end - limit - 1, 0), end)
            held = end
        else:
            start = bisect.bisect_right(places, anchor)
            rows = slice(start, start + limit + 1)
            held = len(places) - start
        if not self.complete and held <= limit:
            return None
        return self._encode_rows(rows, limit, now)[0]

    def _encode(self, limit: int, now: datetime) -> tuple[Page, Place | None]:
        count = len(self._places)
        rows = slice(max(count - limit - 1, 0), count) if self._descending else slice(0, limit + 1)
        return self._encode_rows(rows, limit, now)

    def _encode_rows(self, rows: slice, limit: int, now: datetime) -> tuple[Page, Place | None]:
        """A page of the first `limit` of these; one more says that there are more."""
        bodies, places = self._bodies[rows], self._places[rows]
        if self._descending:
            bodies, places = bodies[::-1], places[::-1]
        bodies = bodies[:limit]
        cursor: str | None = None
        bound: Place | None = None
        if bodies and (len(places) > limit or not self.complete):
            cursor = encode_cursor(self.query.cursor_at(places[len(bodies) - 1], now))
            bound = places[-1]
        body = b'{"items":[%b],"next":%b}' % (b",".join(bodies), msgspec.json.encode(cursor))
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:TAG_CHARS]}"'  # processors have instructions for it
        return Page(body, etag, cursor), bound

    def _remove(self, place: Place) -> None:
        index = bisect.bisect_left(self._places, place)
        if index < len(self._places) and self._places[index] == place:
            del self._places[index], self._bodies[index]
            self._touched(place)

    def _insert(self, place: Place, body: bytes) -> None:
        index = bisect.bisect_left(self._places, place)
        if index < len(self._places) and self._places[index] == place:
            self._bodies[index] = body
        elif not self.complete and index == (0 if self._descending else len(self._places)):
            return  # behind the last row held: what stands between is not known here
        else:
            self._places.insert(index, place)
            self._bodies.insert(index, body)
            self._shorten()
        self._touched(place)

    def _shorten(self) -> None:
        if len(self._places) > self._rows_max:
            index = 0 if self._descending else -1
            del self._places[index], self._bodies[index]
            self.complete = False
            self._pages.clear()

    def _touched(self, place: Place) -> None:
        for limit in list(self._pages):
            bound = self._pages[limit].bound
            if bound is None or (place >= bound if self._descending else place <= bound):
                del self._pages[limit]


class CountsQuery(msgspec.Struct, frozen=True, cache_hash=True):
    """How many orders of each status a filter lets through."""

    filter: OrderFilter


class CountsView:
    """Counts by status, kept up to date by the log."""

    def __init__(self, query: CountsQuery, counts: dict[Status, int], position: Position) -> None:
        self.query = query
        self.epoch, self.n = position.epoch, position.n
        self.counts = counts
        self._body: bytes | None = None

    @property
    def byte_count(self) -> int:
        return 2_000

    @property
    def body(self) -> bytes:
        if self._body is None:
            shown = {status.value: self.counts.get(status, 0) for status in Status}
            self._body = msgspec.json.encode({"counts": shown})
        return self._body

    def apply(self, followed: AppliedEntry) -> None:
        self.n = followed.n
        before, after = followed.before, followed.order
        if after is None:
            return
        if before is not None and self.query.filter.matches(before):
            self._add(before.status, -1)
        if self.query.filter.matches(after):
            self._add(after.status, 1)

    def _add(self, status: Status, by: int) -> None:
        self.counts[status] = self.counts.get(status, 0) + by
        self._body = None
