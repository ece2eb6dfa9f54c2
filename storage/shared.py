"""The shared tier: where a change is accepted, and where it is seen before the database has it.

Without Redis there is one process, and the shared tier is in it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from storage.bounds import Bounds
from storage.entries import AnyEntry, OrderChanged
from storage.errors import DuplicateReference, LogUnavailable, OrderParked, Superseded, Unavailable
from storage.local import MISS, Lru, Sentinel
from storage.log import Log, Position
from storage.orders import Order
from storage.tail import Followed, Tail

logger = logging.getLogger("facet.log")

REMEMBERED_ENTRIES = 5_000
"""Recently answered keyed requests held in memory; older ones are found in the log."""

Follower = Callable[[Followed], None]


class SharedTier(Protocol):
    @property
    def epoch(self) -> int: ...

    async def append(self, entry: AnyEntry) -> Position:
        """Accept a change: durable in the log, and visible to readers of this process, on return.

        A change of an order must follow the order's newest version. Raises Superseded when it does not,
        BacklogFull, OrderParked, or LogUnavailable when the outcome is not known.
        """
        ...

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        """The entry with which a keyed request was answered before."""
        ...


class EmbeddedTier:
    """Group commit: changes that arrive while the log writes share the next fsync.

    A change becomes visible to readers only when it is durable, in the order of the log.
    """

    def __init__(self, log: Log, tail: Tail, bounds: Bounds) -> None:
        self._log = log
        self._tail = tail
        self._bounds = bounds
        self._followers: list[Follower] = []
        self._queue: deque[tuple[AnyEntry, asyncio.Future[int]]] = deque()
        self._under_way: dict[str, int] = {}
        self._remembered: Lru[str, tuple[Position, AnyEntry]] = Lru(REMEMBERED_ENTRIES, 32 * 2**20)
        self._wake = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self.last_error: str | None = None
        self.groups = 0
        self.appended = 0

    @property
    def epoch(self) -> int:
        return self._log.epoch

    def follow(self, follower: Follower) -> None:
        """Call the follower with every entry, in order, as soon as it is durable."""
        self._followers.append(follower)

    async def append(self, entry: AnyEntry) -> Position:
        if self._stalled:  # what was given up may still land, with the same key or reference
            raise LogUnavailable("The log does not answer.")
        if self._stopping:
            raise Unavailable("The service is stopping.", retry_after_s=5)
        self._tail.require_room()
        self._require_new_key(entry)
        if isinstance(entry, OrderChanged):
            self._require_successor(entry)
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((entry, accepted))
        self._wake.set()
        return Position(self._log.epoch, await accepted)

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        known = self._remembered.get(scope)
        if not isinstance(known, Sentinel):
            return known
        return await self._log.find_remembered(scope)

    async def run(self) -> None:
        """Write groups until stopped. Owns the log's writing side."""
        while not (self._stopping and not self._queue):
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                count = min(len(self._queue), self._bounds.log_group_entries)
                await self._write([self._queue.popleft() for _ in range(count)])

    def stop(self) -> None:
        """Let `run` end once everything queued is written."""
        self._stopping = True
        self._wake.set()

    def _require_successor(self, entry: OrderChanged) -> None:
        order = entry.change.order
        pending = self._tail.pending(order.id)
        if pending is not None and pending.parked:
            raise OrderParked(retry_after_s=30)
        known = self._under_way.get(order.id) or (pending.order.version if pending is not None else None)
        if known is not None and order.version != known + 1:
            raise Superseded
        self._require_free_reference(order)
        self._under_way[order.id] = order.version

    def _require_new_key(self, entry: AnyEntry) -> None:
        """The log takes a key once: the second would fail its whole group. Asked again, it is answered."""
        if entry.remembered is not None and self._remembered.peek(entry.remembered.scope) is not MISS:
            raise LogUnavailable("An equal request has just been accepted.")

    def _require_free_reference(self, order: Order) -> None:
        """The order book has looked already; since then, what was given up may have landed."""
        if order.reference is None:
            return
        holder_id = self._tail.pending_reference(order.created_by, order.reference)
        holder = None if holder_id in (None, order.id) else self._tail.pending(str(holder_id))
        if holder is not None and holder.order.reference == order.reference:
            raise DuplicateReference(f"Order {holder_id} has this reference.", order=holder_id)

    async def _write(self, group: list[tuple[AnyEntry, "asyncio.Future[int]"]]) -> None:
        deadline = asyncio.get_running_loop().call_later(
            self._bounds.log_deadline_s, self._give_up, [accepted for _, accepted in group]
        )
        try:
            logged = await self._log.append([entry for entry, _ in group])
        except LogUnavailable as error:
            logger.error("append failed: %s", error.detail)
            self.last_error = error.detail
            await self._recover(group, error)
            return
        finally:
            deadline.cancel()
            self._stalled = False
            for entry, _ in group:
                self._no_longer_under_way(entry)
        self.last_error = None
        self.groups += 1
        self.appended += len(logged)
        for item, (_, accepted) in zip(logged, group, strict=True):
            self.publish(self._tail.add(item))
            if not accepted.done():
                accepted.set_result(item.n)

    def publish(self, followed: Followed) -> None:
        """Show a durable entry to everybody who follows."""
        remembered = followed.logged.entry.remembered
        if remembered is not None:
            position = Position(self._log.epoch, followed.n)
            kept = (position, followed.logged.entry)
            self._remembered.put(remembered.scope, kept, followed.logged.byte_count)
        for follower in self._followers:
            follower(followed)

    async def _recover(
        self, group: list[tuple[AnyEntry, "asyncio.Future[int]"]], error: LogUnavailable
    ) -> None:
        """What became of the group is read back from the log: what is there is accepted."""
        landed: dict[str, int] = {}
        try:
            for item in await self._log.recover():
                self.publish(self._tail.add(item))
                landed[item.entry.id] = item.n
        except LogUnavailable:
            logger.exception("the log cannot be read back")
        for entry, accepted in group:
            if accepted.done():
                continue
            if entry.id in landed:
                accepted.set_result(landed[entry.id])
            else:
                accepted.set_exception(LogUnavailable(error.detail))

    def _give_up(self, accepted: list["asyncio.Future[int]"]) -> None:
        """The log does not answer in time. Those behind in the queue are told as well and never written, and
        nothing is accepted until it is known what became of the group."""
        self._stalled = True
        waiting = [*accepted, *(future for _, future in self._queue)]
        for entry, _ in self._queue:
            self._no_longer_under_way(entry)
        self._queue.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(LogUnavailable())

    def _no_longer_under_way(self, entry: AnyEntry) -> None:
        if isinstance(entry, OrderChanged):
            self._under_way.pop(entry.change.order.id, None)
