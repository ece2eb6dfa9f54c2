"""The end of the log as this process holds it: what the database lacks, and a little of what it has.

Write-behind takes batches from the front. Readers consult it before they believe the database.
Maintained lists catch up from it.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from datetime import datetime

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.errors import BacklogFull
from storage.log.entries import LogRecord, OrderChanged, Position, QuoteIssued
from storage.orders.encoded import EncodedOrder, encoded_order
from storage.orders.order import HistoryItem, Order, history_item


class AppliedEntry(msgspec.Struct, gc=False):
    """A log entry with what its followers need. `order` and `held` are those of an order change."""

    n: int
    logged: LogRecord
    at_s: float
    order: Order | None = None
    held: EncodedOrder | None = None
    _before: Order | None = None

    @property
    def before(self) -> Order | None:
        """The order before the change; None when it was created, or nothing of an order changed. Worked
        out when the first list asks: nobody may."""
        entry = self.logged.entry
        if self._before is None and isinstance(entry, OrderChanged):
            self._before = entry.change.before()
        return self._before

    @property
    def history(self) -> HistoryItem:
        """The history row of an order change."""
        assert isinstance(self.logged.entry, OrderChanged)
        return history_item(self.logged.entry.change)


class PendingOrder(msgspec.Struct, gc=False):
    """The newest state of an order that the database lacks, and the history rows it lacks."""

    order: Order
    held: EncodedOrder
    n: int
    changes: deque[AppliedEntry] = msgspec.field(default_factory=deque)
    references: tuple[tuple[str, str], ...] = ()
    parked: bool = False
    later: bool = False
    """A later release has changed it: this one does not know all of it."""


class Tail:
    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self._bounds = bounds
        self._clock = clock
        self._waiting: deque[AppliedEntry] = deque()
        self._recent: deque[AppliedEntry] = deque(maxlen=bounds.journal_entries)
        self._pending: dict[str, PendingOrder] = {}
        self._references: dict[tuple[str, str], str] = {}
        self._quotes: dict[str, QuoteIssued] = {}
        self.byte_count = 0
        self._later = 0
        """Entries among those waiting that a later release has written."""
        self.epoch = 0
        self.head = 0
        self.flushed = 0
        self._floor = 0
        self.newest_at: datetime | None = None
        """The latest moment of a change that was followed, by whichever process's clock."""

    def start(self, flushed: Position) -> None:
        """Nothing is held any more. The database has read the log up to here; entries after it are added
        next."""
        self._waiting.clear()
        self._recent.clear()
        self._pending.clear()
        self._references.clear()
        self._quotes.clear()
        self.byte_count = self._later = 0
        self.epoch = flushed.epoch
        self.head = self.flushed = self._floor = flushed.n

    def recall(self, entries: Sequence[LogRecord]) -> None:
        """What the log still has of the time before: the database has these too, but lists of then can be
        brought up to date with them. The last one is at the flushed position."""
        if entries:
            self._recent.extend(self._followed(logged) for logged in entries)
            self._floor = self._recent[0].n - 1

    def __len__(self) -> int:
        """Entries that the database lacks."""
        return len(self._waiting)

    @property
    def age_s(self) -> float:
        """Age of the oldest entry that the database lacks."""
        return self._clock.monotonic_s() - self._waiting[0].at_s if self._waiting else 0.0

    @property
    def parked(self) -> list[str]:
        return [order_id for order_id, pending in self._pending.items() if pending.parked]

    def require_room(self) -> None:
        """Raises BacklogFull when the database is too far behind."""
        if (
            len(self._waiting) >= self._bounds.backlog_entries
            or self.byte_count >= self._bounds.backlog_bytes
            or self.age_s > self._bounds.backlog_age_s
        ):
            raise BacklogFull(retry_after_s=5)

    def add(self, logged: LogRecord) -> AppliedEntry:
        """Follow the log by one entry."""
        followed = self._followed(logged)
        self._waiting.append(followed)
        self._later += logged.later is not None
        self.byte_count += logged.byte_count
        self.head = logged.n
        if followed.order is not None:
            self._add_pending(followed)
            if self.newest_at is None or followed.order.updated_at > self.newest_at:
                self.newest_at = followed.order.updated_at
        elif isinstance(logged.entry, QuoteIssued):
            self._quotes[logged.entry.quote_id] = logged.entry
        return followed

    def batch(self, limit: int) -> list[AppliedEntry]:
        """The oldest entries that the database lacks, up to one that a later release has written: of that
        this one does not know all, and would bring less to the database."""
        if not self._later:
            return list(itertools.islice(self._waiting, limit))
        waiting = itertools.islice(self._waiting, limit)
        return list(itertools.takewhile(lambda followed: followed.logged.later is None, waiting))

    @property
    def blocked(self) -> bool:
        """Only a later release can bring on what the database lacks."""
        return self._later > 0 and self._waiting[0].logged.later is not None

    @property
    def waiting(self) -> list[AppliedEntry]:
        """All entries that the database lacks, oldest first."""
        return list(self._waiting)

    def release(self, upto: int, rejected: frozenset[int] = frozenset()) -> None:
        """The database has these entries, but for the rejected ones: their orders are parked."""
        if upto <= self.flushed:
            return
        waiting, recent = self._waiting, self._recent
        while waiting and waiting[0].n <= upto:
            followed = waiting.popleft()
            self._later -= followed.logged.later is not None
            self.byte_count -= followed.logged.byte_count
            if len(recent) == recent.maxlen:
                self._floor = recent[0].n
            recent.append(followed)
            self._release_one(followed, followed.n in rejected)
        self.flushed = upto

    def since(self, n: int) -> list[AppliedEntry] | None:
        """The entries after position n, oldest first; None when they are no longer all held."""
        if n < self._floor:
            return None
        found: list[AppliedEntry] = []
        for entries in (self._waiting, self._recent):
            for followed in reversed(entries):
                if followed.n <= n:
                    return found[::-1]
                found.append(followed)
        return found[::-1]

    def pending(self, order_id: str) -> PendingOrder | None:
        return self._pending.get(order_id)

    def lacks_for_good(self, order_id: str, version: int) -> bool:
        """Whether the database has refused this version of an order, or one before it."""
        pending = self._pending.get(order_id)
        if pending is None or not pending.parked:
            return False
        return any(change.order.version == version for change in pending.changes if change.order is not None)

    def pending_reference(self, created_by: str, reference: str) -> str | None:
        return self._references.get((created_by, reference))

    def pending_quote(self, quote_id: str) -> QuoteIssued | None:
        return self._quotes.get(quote_id)

    @property
    def pending_orders(self) -> int:
        return len(self._pending)

    def park(self, logged: LogRecord) -> None:
        """A dead letter from an earlier run: its order is served from here until it is repaired."""
        followed = self._followed(logged)
        if followed.order is not None:
            self._add_pending(followed).parked = True

    def unpark(self, order_id: str) -> None:
        """The database has taken the order's dead letters after all."""
        if (pending := self._pending.get(order_id)) is not None:
            # Of this order alone: the letters may be of an earlier epoch, their positions taken by others.
            waiting = {
                followed.n
                for followed in self._waiting
                if followed.order is not None and followed.order.id == order_id
            }
            pending.parked = False
            pending.changes = deque(change for change in pending.changes if change.n in waiting)
            if not pending.changes:
                self._forget(order_id, pending)

    def _followed(self, logged: LogRecord) -> AppliedEntry:
        at_s = self._clock.monotonic_s()
        if not isinstance(logged.entry, OrderChanged):
            return AppliedEntry(logged.n, logged, at_s)
        order = logged.entry.change.order
        return AppliedEntry(logged.n, logged, at_s, order, encoded_order(order, at_s, logged.body))

    def _add_pending(self, followed: AppliedEntry) -> PendingOrder:
        assert followed.order is not None
        assert followed.held is not None
        order = followed.order
        if (pending := self._pending.get(order.id)) is None:
            pending = self._pending[order.id] = PendingOrder(order, followed.held, followed.n)
        else:
            pending.order, pending.held, pending.n = order, followed.held, followed.n
        pending.changes.append(followed)
        pending.later = pending.later or followed.logged.later is not None
        if order.reference is not None:
            key = (order.created_by, order.reference)
            if key not in pending.references:
                pending.references += (key,)
            self._references[key] = order.id
        return pending

    def _release_one(self, followed: AppliedEntry, rejected: bool) -> None:
        order = followed.order
        if order is None:
            entry = followed.logged.entry
            if isinstance(entry, QuoteIssued):
                self._quotes.pop(entry.quote_id, None)
            return
        pending = self._pending[order.id]
        if rejected:
            pending.parked = True
        elif not pending.parked:
            changes = pending.changes
            while changes and changes[0].n <= followed.n:
                changes.popleft()
            if not changes:
                self._forget(order.id, pending)

    def _forget(self, order_id: str, pending: PendingOrder) -> None:
        del self._pending[order_id]
        for key in pending.references:
            if self._references.get(key) == order_id:
                del self._references[key]
