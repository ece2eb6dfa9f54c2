"""The local tier: what this process holds, as encoded bytes, bounded in entries and bytes.

Everything here is synchronous: a hit costs a dictionary lookup. A miss is a sentinel, so that an absent
order, an empty list or a zero is never taken for one.
"""

from storage.clock import Clock
from storage.memory.lru import ABSENT, MISS, Lru, Sentinel
from storage.orders.encoded import EncodedOrder


class LocalOrders:
    """Orders held here. A load can never put back what a change or an invalidation has overtaken."""

    def __init__(
        self, entries_max: int, bytes_max: int, absent_entries: int, absent_age_s: float, clock: Clock
    ) -> None:
        self.lru: Lru[str, EncodedOrder] = Lru(entries_max, bytes_max)
        self.refused_fills = 0
        self._absent: Lru[str, float] = Lru(absent_entries, absent_entries * 1_000)
        self._absent_age_s = absent_age_s
        self._clock = clock
        self._invalidations = 0

    def get(self, order_id: str) -> EncodedOrder | Sentinel:
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

    def fill(self, held: EncodedOrder, ticket: int) -> EncodedOrder:
        """Keep what was loaded, unless something newer is held or an invalidation came in between.
        Returns what is now the newest known."""
        known = self.lru.peek(held.id)
        if isinstance(known, EncodedOrder) and known.version >= held.version:
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

    def replace(self, held: EncodedOrder) -> None:
        """A change: newer than whatever is held, unless it comes late."""
        known = self.lru.peek(held.id)
        if not isinstance(known, EncodedOrder) or known.version < held.version:
            self._keep(held)

    def invalidate(self, order_id: str) -> bool:
        self._invalidations += 1
        self._absent.discard(order_id)
        return self.lru.discard(order_id)

    def start_over(self) -> None:
        self._invalidations += 1
        self._absent.clear()
        self.lru.clear()

    def _keep(self, held: EncodedOrder) -> None:
        self._absent.discard(held.id)
        self.lru.put(held.id, held, len(held.body) + len(held.status_body))
