"""What this process tells Redis when it has time: orders read from the database, and how far that has read
the log."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from storage.bounds import Bounds
from storage.log.entries import Position
from storage.orders.order import Order, encode_order
from storage.redis.connection import Argument, CommandRefused, RedisConnection
from storage.redis.keys import Keys, encode_value
from storage.redis.scripts import FILL, FLUSHED

FILLS_TOGETHER = 50
NOTICES = 1_000


class Flushed(NamedTuple):
    """The database has what came after one position up to another, but for the rejected entries."""

    after: int
    upto: Position
    rejected: Sequence[int]
    orders: Sequence[str]


class Outbox:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._fills: deque[tuple[Order, Position]] = deque(maxlen=bounds.shared_fills)
        self._flushed: deque[Flushed] = deque(maxlen=NOTICES)
        self.fills = self.fills_refused = 0

    def offer(self, order: Order, seen: Position) -> None:
        self._fills.append((order, seen))

    def flushed(self, flushed: Flushed) -> None:
        self._flushed.append(flushed)

    def give_up(self) -> None:
        """Others ask the database how far it is; orders that were not offered are read from it."""
        self._fills.clear()
        self._flushed.clear()

    async def run(self, link: RedisConnection, keys: Keys) -> None:
        """All there is to do now. Raises LogUnavailable when the link fails."""
        while self._flushed:
            flushed = self._flushed.popleft()
            try:
                await self._tell_flushed(link, keys, flushed)
            except CommandRefused:  # Redis takes no changes now: until it does, others ask the database
                self._flushed.appendleft(flushed)
                return
        while self._fills:
            count = min(len(self._fills), FILLS_TOGETHER)
            await self._fill(link, keys, [self._fills.popleft() for _ in range(count)])

    async def _tell_flushed(self, link: RedisConnection, keys: Keys, flushed: Flushed) -> None:
        if flushed.upto.epoch != keys.epoch:
            return
        names = (keys.meta, keys.log, keys.flushed, keys.marks, keys.claims, keys.voids)
        await link.run(
            FLUSHED,
            names,
            *(keys.epoch, keys.space, flushed.upto.n, " ".join(map(str, (flushed.after, *flushed.rejected)))),
            *(int(self._bounds.shared_ttl_s), self._bounds.log_keep_entries, self._bounds.log_trim_together),
            *flushed.orders,
        )

    async def _fill(self, link: RedisConnection, keys: Keys, fills: list[tuple[Order, Position]]) -> None:
        arguments: list[Argument] = [keys.epoch, keys.space, int(self._bounds.shared_ttl_s)]
        for order, seen in fills:
            if seen.epoch == keys.epoch:
                value = encode_value(order.version, encode_order(order))
                arguments += (order.id, order.version, seen.n, value)
        try:
            kept = await link.run(FILL, (keys.meta, keys.marks, keys.voids), *arguments)
        except CommandRefused:
            return  # full: they were only copies
        self.fills += max(kept, 0)
        self.fills_refused += len(fills) - max(kept, 0)
