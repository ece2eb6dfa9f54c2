"""What every change log does alike in a process: it shows entries to those who follow, remembers what was
answered lately, and lets only the successor of an order's newest version pass."""

import logging
from collections.abc import Callable, Iterable

from storage.errors import OrderParked, Superseded, Upgrading
from storage.log.change_log import Follower, Reload
from storage.log.entries import AnyEntry, LogRecord, OrderChanged, Position
from storage.log.tail import Tail
from storage.memory.lru import Lru

logger = logging.getLogger("facet.log")

REMEMBERED_ENTRIES = 5_000
"""Recently answered keyed requests held in memory; older ones are found in the log."""
REMEMBERED_BYTES = 32 * 2**20


class Replica:
    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._followers: list[Follower] = []
        self._reloads: list[Reload] = []
        self._remembered: Lru[str, tuple[Position, AnyEntry]] = Lru(REMEMBERED_ENTRIES, REMEMBERED_BYTES)

    def follow(self, follower: Follower) -> None:
        self._followers.append(follower)

    def on_start_over(self, reload: Reload) -> None:
        self._reloads.append(reload)

    async def _reload(self) -> list[Callable[[], None]]:
        """Everything that is held of the database, read anew; to be put in place at once."""
        return [await reload() for reload in self._reloads]

    def _start_from(
        self, stands: Position, reloaded: list[Callable[[], None]], parked: Iterable[tuple[str, LogRecord]]
    ) -> None:
        """Follow on from what the database has read. `parked`: dead letters, with the order
        and why it was refused."""
        self._tail.start(stands)
        for put_in_place in reloaded:
            put_in_place()
        for what, logged in parked:
            logger.error("parked order %s", what)
            self._tail.park(logged)

    def _take_in(self, logged: LogRecord) -> None:
        """Show the next entry, which is durable, to all followers."""
        applied = self._tail.add(logged)
        remembered = logged.entry.remembered
        if remembered is not None:
            answered = (Position(self._tail.epoch, logged.n), logged.entry)
            self._remembered.put(remembered.scope, answered, logged.byte_count)
        for follower in self._followers:
            follower(applied)

    def _require_successor(self, entry: OrderChanged, under_way: int | None = None) -> None:
        """`under_way`: a version that was accepted and is not followed yet. Raises Superseded, OrderParked,
        Upgrading."""
        order = entry.change.order
        pending = self._tail.pending(order.id)
        if pending is not None and pending.later:
            raise Upgrading("A later release has changed this order: it can change it again.")
        if pending is not None and pending.parked:
            raise OrderParked(retry_after_s=30)
        newest = under_way or (None if pending is None else pending.order.version)
        if newest is not None and order.version != newest + 1:
            raise Superseded
