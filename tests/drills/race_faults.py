"""What a racing process suffers: slow loads and lost replies; and, to test the judge, planted faults.

Nothing of this can be switched on in the service: it replaces parts of a process that only the races start.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any

from redis.asyncio.connection import AbstractConnection

from storage.bounds import Bounds
from storage.cache.local_orders import LocalOrders
from storage.cache.read_through import FoundMany, ReadThrough
from storage.clock import Clock, SharedClock, SystemClock
from storage.database.batches import expected_versions
from storage.database.records import Rejected
from storage.errors import AlreadyAnswered, LogUnavailable, NotFound, OutcomeUnknown
from storage.log.entries import LogRecord, Position
from storage.log.tail import AppliedEntry
from storage.orders.encoded import EncodedOrder
from storage.orders.order import Order
from storage.postgresql.apply import any_parked, apply_one_by_one, apply_together
from storage.postgresql.connection import Connection
from storage.postgresql.database import PostgresDatabase
from storage.redis import change_log as tier
from storage.redis.connection import Argument, RedisConnection, Script
from storage.redis.endpoint import Endpoint, connection_of
from storage.redis.scripts import APPEND, FILL
from storage.services.idempotency import Idempotency, IdempotencyKey

SLOW_LOADS = 0.2
SLOW_LOAD_S = 0.030
BETWEEN_COMMITS_S = 0.050


class Fault(StrEnum):
    NONE = "none"
    UNGUARDED_FILL = "unguarded-fill"
    """An order read from the database replaces whatever Redis has."""
    UNGUARDED_LOCAL_FILL = "unguarded-local-fill"
    """The same in the local tier."""
    UNCHECKED_VERSION = "unchecked-version"
    """A change is accepted whatever version the order has."""
    LOOSE_POSITION = "loose-position"
    """The position is committed before the rows, not with them."""
    BLIND_RETRY = "blind-retry"
    """An append without a reply is sent again, as client libraries do."""
    FINAL_REFUSAL = "final-refusal"
    """What is refused is not looked for once more: an equal request may have been accepted meanwhile."""
    OWN_CLOCK = "own-clock"
    """Each process takes the time from its own machine."""
    LATE_POSITION = "late-position"
    """An answer says the position of the moment it is given, not that of its content."""


def _without(source: str, guard: str, replacement: str) -> str:
    assert source.count(guard) == 1, guard
    return source.replace(guard, replacement)


_FILL_GUARDS = FILL.source[
    FILL.source.index("    if seen >= ") : FILL.source.index("        redis.call('SET', ARGV[2]")
]
UNGUARDED_FILL = Script(_without(FILL.source, _FILL_GUARDS, "    if true then\n"))
UNCHECKED_APPEND = Script(
    _without(APPEND.source, "tonumber(known) + 1 ~= version or tonumber(n) > seen", "false")
)


class RacingDatabase(PostgresDatabase):
    """Some loads are slow: between reading and answering, others move on."""

    def __init__(self, url: str, bounds: Bounds, random: Random) -> None:
        super().__init__(url, 4, bounds.read_deadline_s, keeps_answers=True)
        self._random = random

    async def load_order(self, order_id: str) -> Order | None:
        order = await super().load_order(order_id)
        if self._random.random() < SLOW_LOADS:
            await asyncio.sleep(self._random.random() * SLOW_LOAD_S)
        return order


class LoosePosition(RacingDatabase):
    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        async def position(connection: Connection) -> None:
            await self._move(connection, batch, old, new)

        async def rows(connection: Connection) -> list[Rejected]:
            before = expected_versions(batch)
            if before is None or await any_parked(connection, before):
                return await apply_one_by_one(connection, batch, old.epoch)
            await apply_together(connection, batch, before, old.epoch)
            return []

        await self._writer.run(position)
        await asyncio.sleep(BETWEEN_COMMITS_S)
        return await self._writer.run(rows)


class LossyLink(RedisConnection):
    """Now and then the reply to an append gets lost: Redis has done it, and nobody here knows."""

    def __init__(self, connection: AbstractConnection, deadline_s: float) -> None:
        super().__init__(connection, deadline_s)
        self.random = Random()
        self.loses = 0.0
        self.fault = Fault.NONE
        self._sent: deque[Sequence[Argument]] = deque()
        self._received: deque[Any] = deque()

    async def load(self, script: Script) -> None:
        await super().load(self._planted(script))

    async def run(self, script: Script, keys: Sequence[Argument], *arguments: Argument) -> Any:
        return await super().run(self._planted(script), keys, *arguments)

    async def send(self, *commands: Sequence[Argument]) -> None:
        appends = [command for command in commands if tuple(command[:2]) == ("EVALSHA", APPEND.sha)]
        if not appends:
            await super().send(*commands)
            return
        planted = [("EVALSHA", self._planted(APPEND).sha, *command[2:]) for command in appends]
        self._sent += planted
        await super().send(*planted)

    async def receive(self, count: int, *, wait_s: float = 0.0) -> list[Any]:
        if not self._sent:
            return await super().receive(count, wait_s=wait_s)
        return [await self._receive_one() for _ in range(count)]

    def _planted(self, script: Script) -> Script:
        if script is APPEND and self.fault is Fault.UNCHECKED_VERSION:
            return UNCHECKED_APPEND
        if script is FILL and self.fault is Fault.UNGUARDED_FILL:
            return UNGUARDED_FILL
        return script

    async def _receive_one(self) -> Any:
        """The reply to the oldest append."""
        command = self._sent.popleft()
        reply = self._received.popleft() if self._received else (await super().receive(1))[0]
        if self.random.random() >= self.loses:
            return reply
        if self.fault is Fault.BLIND_RETRY:
            behind = len(self._sent) - len(self._received)
            await super().send(command)
            self._received += await super().receive(behind)
            return (await super().receive(1))[0]
        await self.close()
        raise LogUnavailable("The reply got lost.")


def plant(fault: Fault, loses: float, random: Random) -> None:
    """In this process, from now on: what every race suffers, and the fault."""

    async def opened(endpoint: Endpoint, deadline_s: float) -> RedisConnection:
        link = LossyLink(connection_of(await endpoint.options()), deadline_s)
        link.random, link.loses, link.fault = random, loses, fault
        await link.open()
        return link

    tier.opened = opened  # type: ignore[attr-defined]
    if fault is Fault.FINAL_REFUSAL:
        Idempotency.once = _once_without_another_look  # type: ignore[method-assign]
    if fault is Fault.LATE_POSITION:
        ReadThrough.get_many = _many_as_they_come  # type: ignore[method-assign]
    if fault is Fault.UNGUARDED_LOCAL_FILL:
        LocalOrders.fill = _fill_without_guard  # type: ignore[method-assign]
        ReadThrough._missed = _missed_nothing  # type: ignore[method-assign]


def clock_of(fault: Fault, skew_s: float) -> Clock:
    """Of a machine whose clock is ahead by so much."""
    machine = SkewedClock(skew_s)
    return machine if fault is Fault.OWN_CLOCK else SharedClock(machine)


class SkewedClock(SystemClock):
    def __init__(self, skew_s: float) -> None:
        self._skew = timedelta(seconds=skew_s)

    def now(self) -> datetime:
        return super().now() + self._skew


def database_of(fault: Fault, url: str, bounds: Bounds, random: Random) -> PostgresDatabase:
    """Not yet open."""
    kind = LoosePosition if fault is Fault.LOOSE_POSITION else RacingDatabase
    return kind(url, bounds, random)


def _fill_without_guard(self: LocalOrders, held: EncodedOrder, ticket: int) -> EncodedOrder:
    self._keep(held)
    return held


def _missed_nothing(self: ReadThrough, order_id: str, seen: Position) -> list[AppliedEntry]:
    return []


async def _once_without_another_look(
    self: Idempotency, keyed: IdempotencyKey | None, act: Any, again: Any
) -> Any:
    if keyed is None:
        return await act()
    async with self._locks.hold(keyed.scope):
        found = await self._find(keyed)
        if found is None:
            try:
                return await act()
            except AlreadyAnswered:
                found = await self._find(keyed)
                if found is None:
                    raise OutcomeUnknown from None
    return await again(*found)


async def _many_as_they_come(self: ReadThrough, order_ids: Sequence[str]) -> FoundMany:
    held = {}
    for order_id in order_ids:
        with contextlib.suppress(NotFound):
            held[order_id] = (await self.get(order_id)).held
    return FoundMany(held, "as they come")
