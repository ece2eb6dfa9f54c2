"""The local tier: what this process holds, as encoded bytes, bounded in entries and bytes.

Everything here is synchronous: a hit costs a dictionary lookup. A miss is a sentinel, so that an absent
order, an empty list or a zero is never taken for one.
"""

from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

import msgspec

from storage.clock import Clock
from storage.orders.order import Order, encode_order, encode_status

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Sentinel(Enum):
    MISS = "miss"
    """Not held: look further down."""
    ABSENT = "absent"
    """Known not to exist."""


MISS: Final = Sentinel.MISS
ABSENT: Final = Sentinel.ABSENT

ENTRY_OVERHEAD_BYTES = 400
"""What an entry costs beside its bytes: dictionary slot, key, record. Measured on CPython 3.11."""


class Lru(Generic[Key, Value]):
    """Least recently used goes first. Relies on dictionaries keeping the order of insertion."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.byte_count = 0
        self.hits = self.misses = self.evictions = 0
        self._held: dict[Key, tuple[Value, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)

    def get(self, key: Key) -> Value | Sentinel:
        """The value, now the most recently used; MISS when it is not held."""
        held = self._held.pop(key, None)
        if held is None:
            self.misses += 1
            return MISS
        self._held[key] = held
        self.hits += 1
        return held[0]

    def peek(self, key: Key) -> Value | Sentinel:
        """As `get`, without counting or touching."""
        held = self._held.get(key)
        return MISS if held is None else held[0]

    def put(self, key: Key, value: Value, byte_count: int) -> None:
        byte_count += ENTRY_OVERHEAD_BYTES
        self.discard(key)
        if byte_count > self.bytes_max:
            return
        self._held[key] = (value, byte_count)
        self.byte_count += byte_count
        while len(self._held) > self.entries_max or self.byte_count > self.bytes_max:
            self._evict()

    def discard(self, key: Key) -> bool:
        held = self._held.pop(key, None)
        if held is None:
            return False
        self.byte_count -= held[1]
        return True

    def clear(self) -> None:
        self._held.clear()
        self.byte_count = 0

    def _evict(self) -> None:
        _, byte_count = self._held.pop(next(iter(self._held)))
        self.byte_count -= byte_count
        self.evictions += 1


class Held(msgspec.Struct, frozen=True, gc=False):
    """An order as answers show it. `at_s`: monotonic seconds when it came here."""

    id: str
    customer: str
    version: int
    status_version: int
    body: bytes
    status_body: bytes
    at_s: float


def held_of(order: Order, at_s: float, body: bytes | None = None) -> Held:
    """`body`: the order as it is encoded, if it has been already."""
    return Held(
        order.id,
        order.customer,
        order.version,
        order.status_version,
        encode_order(order) if body is None else body,
        encode_status(order),
        at_s,
    )


class LocalOrders:
    """Orders held here. A load can never put back what a change or an invalidation has overtaken."""

    def __init__(
        self, entries_max: int, bytes_max: int, absent_entries: int, absent_age_s: float, clock: Clock
    ) -> None:
        self.lru: Lru[str, Held] = Lru(entries_max, bytes_max)
        self.refused_fills = 0
        self._absent: Lru[str, float] = Lru(absent_entries, absent_entries * 1_000)
        self._absent_age_s = absent_age_s
        self._clock = clock
        self._invalidations = 0

    def get(self, order_id: str) -> Held | Sentinel:
        """What is held, ABSENT for an id known not to exist, MISS otherwise."""
        held = self.lru.get(order_id)
        if held is not MISS:
            return held
        since_s = self._absent.peek(order_id)
        if isinstance(since_s, float) and self._clock.monotonic_s() - since_s < self._absent_age_s:
            return ABSENT
        return MISS

    def begin_fill(self) -> int:
        """A ticket for `fill`, taken before the load begins."""
        return self._invalidations

    def fill(self, held: Held, ticket: int) -> Held:
        """Keep what was loaded, unless something newer is held or an invalidation came in between.
        Returns what is now the newest known."""
        known = self.lru.peek(held.id)
        if isinstance(known, Held) and known.version >= held.version:
            self.refused_fills += 1
            return known
        if ticket != self._invalidations:
            self.refused_fills += 1
            return held
        self._keep(held)
        return held

    def fill_absent(self, order_id: str, ticket: int) -> None:
        if ticket == self._invalidations and self.lru.peek(order_id) is MISS:
            self._absent.put(order_id, self._clock.monotonic_s(), 0)

    def replace(self, held: Held) -> None:
        """A change: newer than whatever is held, unless it comes late."""
        known = self.lru.peek(held.id)
        if not isinstance(known, Held) or known.version < held.version:
            self._keep(held)

    def invalidate(self, order_id: str) -> bool:
        self._invalidations += 1
        self._absent.discard(order_id)
        return self.lru.discard(order_id)

    def start_over(self) -> None:
        self._invalidations += 1
        self._absent.clear()
        self.lru.clear()

    def _keep(self, held: Held) -> None:
        self._absent.discard(held.id)
        self.lru.put(held.id, held, len(held.body) + len(held.status_body))
