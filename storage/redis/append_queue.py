"""Changes on their way into the log. Those that arrive while Redis works share the next script.

A change is acknowledged when it is visible here too: when this process has followed the log to it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from redis.exceptions import NoScriptError

from storage.bounds import Bounds
from storage.clock import Clock
from storage.errors import (
    AlreadyAnswered,
    Behind,
    Claimed,
    LogUnavailable,
    StorageError,
    Superseded,
    Unavailable,
)
from storage.log.entries import (
    AnyEntry,
    CacheKind,
    Invalidated,
    LogRecord,
    MetalFixed,
    OrderChanged,
    Position,
    PriceListPublished,
    QuoteIssued,
    encode_entry,
)
from storage.log.tail import Tail
from storage.orders.order import encode_order
from storage.redis.connection import Argument, RedisConnection
from storage.redis.keys import Keys, encode_value
from storage.redis.scripts import APPEND
from storage.trouble import Trouble

logger = logging.getLogger("facet.redis")

DETAILS_SEPARATOR, CLAIMS_SEPARATOR = "\x1e", "\x1f"
_PLAIN = dict.fromkeys(map(ord, (DETAILS_SEPARATOR, CLAIMS_SEPARATOR)), " ")
TOGETHER_MIN = 8
"""Fewer changes than this are not worth two groups."""


class Append:
    """One change, and the caller that waits for it, if any."""

    __slots__ = ("body", "done", "entry", "payload", "seen")

    def __init__(self, entry: AnyEntry, seen: Position, done: "asyncio.Future[int] | None") -> None:
        self.entry = entry
        self.payload = encode_entry(entry)
        self.body = encode_order(entry.change.order) if isinstance(entry, OrderChanged) else None
        self.seen = seen
        self.done = done

    def accept(self, n: int) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(n)

    def fail(self, error: StorageError) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


Sent = deque[tuple[float, list[Append]]]
"""Groups that Redis works on, with when each was sent."""


class AppendQueue:
    def __init__(
        self,
        tail: Tail,
        bounds: Bounds,
        clock: Clock,
        followed: Callable[[LogRecord], None],
        own_append: Callable[[float, bool], None],
    ) -> None:
        """`own_append` is told when a group is accepted: when it was sent, and whether nothing of others came
        before it that this process does not hold."""
        self._tail = tail
        self._bounds = bounds
        self._clock = clock
        self._followed = followed
        self._own_append = own_append
        self._queue: deque[Append] = deque()
        self._wake = asyncio.Event()
        self._invisible: dict[int, Append] = {}
        self._superseded: deque[tuple[int, Append]] = deque()
        self.groups = self.appended = 0
        self._trouble = Trouble(logger, "Redis accepts no changes", "Redis accepts changes again")

    @property
    def last_error(self) -> str | None:
        """Why Redis refuses changes, though it is there."""
        return self._trouble.error

    @property
    def idle(self) -> bool:
        return not self._queue and not self._invisible

    @property
    def accepted_unapplied(self) -> list[LogRecord]:
        """Accepted for this process, but not followed yet: the log may have lost them since."""
        return [LogRecord(n, held.entry, len(held.payload)) for n, held in sorted(self._invisible.items())]

    def forget_unapplied(self) -> None:
        self._invisible.clear()

    async def submit(self, entry: AnyEntry, seen: Position) -> int:
        """The entry's position. Raises what the log says against it."""
        if len(self._queue) >= self._bounds.shared_waiting:
            raise Unavailable("Too many changes are waiting for Redis.")
        append = Append(entry, seen, asyncio.get_running_loop().create_future())
        assert append.done is not None
        self._queue.append(append)
        self._wake.set()
        return await append.done

    def submit_quietly(self, entry: AnyEntry, seen: Position) -> None:
        self._queue.append(Append(entry, seen, None))
        self._wake.set()

    async def run(self, link: RedisConnection, keys: Keys) -> None:
        """Until the link fails. While Redis works on one group, the next is sent."""
        await link.load(APPEND)
        self._drop_outdated(keys.epoch)
        sent: Sent = deque()
        arrived, room = asyncio.Event(), asyncio.Semaphore(self._bounds.appends_in_flight)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._send_groups(link, keys, sent, arrived, room))
                both.create_task(self._receive_groups(link, sent, arrived, room))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for _, group in sent:
                _fail(group, LogUnavailable("Redis did not confirm the change."))

    def visible(self, n: int) -> None:
        """This process has followed the log to here."""
        if (append := self._invisible.pop(n, None)) is not None:
            append.accept(n)
        while self._superseded and self._superseded[0][0] <= n:
            self._superseded.popleft()[1].fail(Superseded())

    def own(self, n: int) -> AnyEntry | None:
        """The entry at a position, when it is this process's own and not followed yet."""
        append = self._invisible.get(n)
        return None if append is None else append.entry

    def refuse_queued(self) -> None:
        """Redis is not back at once."""
        queue, self._queue = self._queue, deque()
        for append in queue:
            append.fail(LogUnavailable("Redis is away: the change was not accepted."))

    def give_up(self) -> None:
        """The link is lost. What is queued was not sent, and may be on another link; what was accepted stays
        accepted."""
        for n, append in self._invisible.items():
            append.accept(n)
        for _, append in self._superseded:
            append.fail(Superseded())
        self._superseded.clear()

    async def _send_groups(
        self,
        link: RedisConnection,
        keys: Keys,
        sent: Sent,
        arrived: asyncio.Event,
        room: asyncio.Semaphore,
    ) -> None:
        names = (keys.meta, keys.log, keys.marks, keys.claims, keys.voids, keys.known, keys.probe)
        script = ("EVALSHA", APPEND.sha, len(names), *names)
        constants = (keys.epoch, keys.space, int(self._bounds.log_retention_s))
        while True:
            idle = not self._queue and not await self._woken()
            await room.acquire()
            self._wake.clear()
            link.require()
            count = self._group_size(len(sent))
            if count == 0 and not idle:
                room.release()
                continue
            if len(self._queue) > count:
                self._wake.set()
            group = [self._queue.popleft() for _ in range(count)]
            sent.append(
                (self._clock.monotonic_s(), group)
            )  # before it is sent: whatever happens then, its outcome is unknown
            seen = max((append.seen.n for append in group), default=0)
            arguments: list[Argument] = [*script, *constants, seen]
            for append in group:
                arguments += _arguments(append, self._tail.flushed)
            await link.send(arguments)
            arrived.set()

    async def _woken(self) -> bool:
        """False when nothing has come for a while. Then a group without entries says that the link is in use,
        and tells whether Redis accepts changes again."""
        try:
            async with asyncio.timeout(self._bounds.shared_idle_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    def _drop_outdated(self, epoch: int) -> None:
        """What was decided in an earlier epoch of the log, and could not be sent in it, is decided again."""
        for append in [append for append in self._queue if append.seen.epoch != epoch]:
            self._queue.remove(append)
            append.fail(Superseded())

    def _group_size(self, under_way: int) -> int:
        """With nothing under way only half of what waits goes: callers that all wait for one answer would
        all come back at once, and Redis and this process would take turns instead of working side by side."""
        waiting = len(self._queue)
        if not under_way and waiting >= TOGETHER_MIN:
            waiting = (waiting + 1) // 2
        return min(waiting, self._bounds.log_group_entries)

    async def _receive_groups(
        self, link: RedisConnection, sent: Sent, arrived: asyncio.Event, room: asyncio.Semaphore
    ) -> None:
        while True:
            await arrived.wait()
            arrived.clear()
            while sent:
                (reply,) = await link.receive(1)
                self._settle(*sent[0], reply)
                sent.popleft()  # first, so that no caller is left waiting when the reply makes no sense
                room.release()

    def _settle(self, sent_s: float, group: list[Append], reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            _fail(group, Unavailable("Redis has forgotten its scripts."))
            raise LogUnavailable("Redis has forgotten its scripts.")
        if isinstance(reply, Exception):  # full, say, or without its replicas: nothing was done
            self._trouble.met(f"{reply}.")
            _fail(group, Unavailable(f"Redis does not accept changes: {reply}."))
            return
        if reply[0] != b"done":
            _fail(group, Unavailable("The log is being rebuilt."))
            raise LogUnavailable(f"Redis has lost the log ({reply[0].decode()})")
        self._trouble.over()
        if not group:
            return
        self.groups += 1
        for append, verdict in zip(group, reply[1], strict=True):
            if isinstance(verdict, bytes):
                self._refuse(append, verdict.decode())
            else:
                self._accept(append, verdict)
        if any(isinstance(verdict, int) for verdict in reply[1]):
            self._own_append(sent_s, not self._invisible)
        elif self._superseded:  # nothing was accepted: that says nothing of the log's end, but there is more
            self._own_append(sent_s, False)

    def _accept(self, append: Append, n: int) -> None:
        self.appended += 1
        if n <= self._tail.head:  # the follower was faster
            append.accept(n)
            return
        self._invisible[n] = append
        if n == self._tail.head + 1:
            self._followed(LogRecord(n, append.entry, len(append.payload), append.body))
        else:
            asyncio.get_running_loop().call_later(self._bounds.visible_s, append.accept, n)

    def _refuse(self, append: Append, verdict: str) -> None:
        kind, _, rest = verdict.partition(" ")
        if kind == "claimed":
            append.fail(Claimed(*rest.split(CLAIMS_SEPARATOR, 1)))
        elif kind == "answered":
            append.fail(AlreadyAnswered())
        elif kind == "behind":
            append.fail(Behind("This process cannot keep up with the log."))
        elif int(rest) <= self._tail.head:
            append.fail(Superseded())
        else:  # by what is not visible here yet: deciding again before it is would be in vain
            self._superseded.append((int(rest), append))
            asyncio.get_running_loop().call_later(self._bounds.visible_s, append.fail, Superseded())


def _fail(group: list[Append], error: StorageError) -> None:
    for append in group:
        append.fail(error)


def _arguments(append: Append, flushed: int) -> tuple[str | bytes | int, ...]:
    """As the script wants them: order, version, seen, details, payload, value. `flushed` is how far the
    database is: Redis may not have been told yet."""
    entry, seen = append.entry, append.seen.n
    if isinstance(entry, OrderChanged):
        order = entry.change.order
        assert append.body is not None
        value = encode_value(order.version, append.body)
        return order.id, order.version, seen, _details(entry, *_references(entry)), append.payload, value
    forgotten = entry.key if isinstance(entry, Invalidated) and entry.thing is CacheKind.ORDER else ""
    return "", flushed, seen, _details(entry, _claim(entry), "", forgotten), append.payload, ""


def _details(entry: AnyEntry, claims: str, releases: str, forgotten: str = "") -> str:
    """What most changes do not have. The scope: of a keyed request."""
    scope = "" if entry.remembered is None else entry.remembered.scope
    if not (scope or claims or releases or forgotten):
        return ""
    return DETAILS_SEPARATOR.join((scope, claims, releases, forgotten))


def _references(entry: OrderChanged) -> tuple[str, str]:
    """What the order claims, and what it lets go of: its reference, unique for who created it."""
    order, was = entry.change.order, entry.change.was
    before = was.reference if isinstance(was.reference, str) else None
    if order.reference == before:
        before = None
    return _reference(order.created_by, order.reference), _reference(order.created_by, before)


def _reference(created_by: str, reference: str | None) -> str:
    return "" if reference is None else f"reference {created_by} {reference}".translate(_PLAIN)


def _claim(entry: AnyEntry) -> str:
    match entry:
        case PriceListPublished():
            return f"price list {entry.version}".translate(_PLAIN)
        case MetalFixed():
            return f"metal fix {entry.version}".translate(_PLAIN)
        case QuoteIssued():
            return f"quote {entry.quote_id}".translate(_PLAIN)
    return ""
