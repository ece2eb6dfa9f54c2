"""The change log: where a change is accepted, and where it is seen before the database has it.

Without Redis there is one process, and the change log is in it (`storage.embedded.change_log`). With Redis
any number of processes share one (`storage.redis.change_log`).
"""

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import msgspec

from storage.log.entries import LEVEL, AnyEntry, Position
from storage.log.tail import AppliedEntry
from storage.orders.order import Order
from storage.shared.cache import SharedCache
from storage.shared.locks import Locks

Follower = Callable[[AppliedEntry], None]
"""Told of every entry, in order, as soon as it is durable. Never waits."""
Reload = Callable[[], Awaitable[Callable[[], None]]]
"""Reads from the database what is held of it in memory; what it returns puts that in place at once."""


class Freshness:
    """Until when (monotonic seconds) what this process holds may be shown without asking anybody: compared
    on every hit, since a timer would be late after a pause."""

    __slots__ = ("until_s",)

    def __init__(self, until_s: float = math.inf) -> None:
        self.until_s = until_s


class InShared(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis holds of an order. `position`: of its newest change, while the log has it.
    `pending`: the database may lack it, so it has no expiry; else it is held for `ttl_s` more seconds."""

    version: int
    position: int | None
    pending: bool
    ttl_s: int | None = None


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the change log. `server`: its name and version, None when it is in this process. `level`:
    which level of the log is in force. `joins`: how often following began; `rebases`: epochs of the log begun
    here. `age_s`: how long ago the end of the log was last seen, None when it never was."""

    durability: str
    server: str | None = None
    level: int = LEVEL
    joins: int = 0
    rebases: int = 0
    fills: int = 0
    fills_refused: int = 0
    age_s: float | None = 0.0


class ChangeLog(Protocol):
    freshness: Freshness
    single_process: bool
    """There is no other process: only this one brings the log to the database."""
    tells_time: bool
    """The clock is measured by what all processes share; else the database may tell."""
    replayed: int
    """Entries found in the log that the database lacked when following began."""

    @property
    def shared_cache(self) -> SharedCache: ...

    @property
    def locks(self) -> Locks: ...

    @property
    def last_error(self) -> str | None:
        """Why the log cannot be appended to; None when it can."""

    @property
    def groups(self) -> int:
        """Groups of entries that were written together."""

    @property
    def appended(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    def status(self) -> LogStatus: ...

    def follow(self, follower: Follower) -> None:
        """Call the follower with every entry from now on."""

    def on_start_over(self, reload: Reload) -> None:
        """Called when following begins, and again whenever this process cannot simply follow on."""

    def on_flushed_elsewhere(self, told: Callable[[Position, dict[int, str]], None]) -> None:
        """Called when another process has brought the log to the database, up to a position and but for the
        refused entries."""

    async def open(self) -> None:
        """Begin to follow the log where the database has read it to."""

    async def append(self, entry: AnyEntry, seen: Position | None = None) -> Position:
        """Accept a change: durable in the log, and visible to readers of this process, on return.

        A change of an order must follow the order's newest version. `seen`: the position this process had
        followed the log to when it read what the change was decided on. Raises Superseded when something
        came in between, Claimed, AlreadyAnswered, BacklogFull, OrderParked, or LogUnavailable when the
        outcome is not known.
        """

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        """The entry with which a keyed request was answered before."""

    async def catch_up(self) -> bool:
        """Wait a moment for this process to be fresh. False: the log cannot be followed now."""

    async def reach_head(self) -> bool:
        """Wait a moment until this process holds everything accepted before the call. False: it does not."""

    async def load(self, order_id: str) -> Order | None:
        """An order as Redis holds it. None: ask the database; nothing of it is pending elsewhere
        that this process has not followed."""

    async def inspect(self, order_id: str) -> InShared | None:
        """What is held of an order, by asking. Raises LogUnavailable."""

    def offer(self, order: Order, seen: Position) -> None:
        """An order that was read from the database when the log was followed to `seen`, for others."""

    async def flushed(self, batch: Sequence[AppliedEntry], rejected: Collection[int]) -> None:
        """The database has these, but for the rejected ones."""

    async def run(self) -> None:
        """Until stopped."""

    def stop(self) -> None:
        """Accept no more; let `run` end once everything accepted is written."""

    async def close(self) -> None: ...
