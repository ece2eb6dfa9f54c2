"""The epochs of the log: agreeing on one, and beginning the next.

A life (epoch) is recorded in the database and in Redis, with the run of the Redis server that it began on.
When Redis has restarted, lost its memory or been replaced by a copy that lags behind, or when the database
was restored, appends are refused until the processes have brought what they hold of the old epoch to the
database. Then one of them begins the next life, with an empty Redis.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.database.records import Epoch
from storage.errors import DatabaseUnavailable, Fenced, Incompatible, LogUnavailable
from storage.ids import new_id
from storage.log.entries import LEVEL, AnyEntry, CacheKind, Invalidated, LogRecord, OrderChanged, logged_of
from storage.log.tail import Tail
from storage.redis.connection import CommandRefused, RedisConnection
from storage.redis.keys import Keys
from storage.redis.scripts import BEGIN
from storage.tasks import end

logger = logging.getLogger("facet.redis")

READ_TOGETHER = 1_000
UNLINK_TOGETHER = 500
SCOPES_TOGETHER = 1_000
POLL_S = 0.1
REBASE = "rebase"


class Meta(NamedTuple):
    """What Redis says of itself. `run` is that of the server now, `began_on` the one the life began on."""

    run: str
    installation: str
    epoch: int
    began_on: str
    head: int
    floor: int


class Epochs:
    def __init__(
        self,
        prefix: str,
        process: str,
        database: Database,
        bounds: Bounds,
        clock: Clock,
        moved_on: Callable[[], None],
    ) -> None:
        """`moved_on` is called when the database is in a later life than the one this process follows."""
        self._prefix = prefix
        self._process = process
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._installation = ""
        self._moved_on = moved_on
        self._recovered = 0
        self._joined = 0
        self._overtaken = False
        self._late: list[AnyEntry] = []
        self._beating: asyncio.Task[None] | None = None
        self.level = LEVEL
        """Of the log, that is in force: see `storage.log.entries`."""
        self.rebases = 0

    async def open(self) -> None:
        """Raises Incompatible when a later release has written what this one may not understand."""
        self._installation = await self._database.installation()
        await self._be_there()
        if self.level > LEVEL:
            await self._database.leave(self._process)
            raise Incompatible(
                f"A later release has written to this log (level {self.level}, this one reads {LEVEL}):"
                " start that one."
            )
        self._beating = asyncio.create_task(self._beat(), name="attend")

    async def close(self) -> None:
        if self._beating is not None:
            await end(self._beating)
        with contextlib.suppress(DatabaseUnavailable):  # it is forgotten after a while
            await self._database.leave(self._process)

    async def agree(self, link: RedisConnection, tail: Tail, accepted_unapplied: Sequence[LogRecord]) -> Meta:
        """Returns when Redis and the database are in the same life. Raises LogUnavailable to try again,
        Incompatible when this Redis belongs to another Facet."""
        while True:
            meta = await self._meta(link)
            if not self._overtaken and _goes_on(meta, tail):
                return self._agreed(meta)  # whether the database answers or not
            stands = await self._stands()
            if meta.installation not in ("", self._installation):
                raise Incompatible(
                    "This Redis holds the data of another Facet: use another one, another database number or"
                    " another FACET_REDIS_PREFIX."
                )
            if self._is_sound(meta, stands):
                if self._is_late(stands, tail):
                    await self._unite_late(link, Keys(self._prefix, meta.epoch), tail, accepted_unapplied)
                return self._agreed(meta)
            await self._rebase(link, stands, tail, accepted_unapplied)

    def _agreed(self, meta: Meta) -> Meta:
        self._recovered, self._joined, self._overtaken = meta.epoch - 1, meta.epoch, False
        return meta

    def late_news(self) -> list[AnyEntry]:
        """What the others must be told: orders this process brought to the database after the new life had
        begun."""
        late, self._late = self._late, []
        return late

    async def require_same(self, *links: RedisConnection) -> None:
        """Raises LogUnavailable when they lead to different servers."""
        runs = {await _run_of(link) for link in links}
        if len(runs) != 1:
            raise LogUnavailable("Redis is being replaced.")

    async def read(self, link: RedisConnection, keys: Keys, after: int) -> AsyncIterator[list[LogRecord]]:
        """The log after a position, in batches."""
        while True:
            start = f"({keys.epoch}-{after}"
            reply = await link.call("XRANGE", keys.log, start, "+", "COUNT", READ_TOGETHER)
            batch = [logged_of(int(position.partition(b"-")[2]), fields[1]) for position, fields in reply]
            if batch:
                yield batch
                after = batch[-1].n
            if len(batch) < READ_TOGETHER:
                return

    def _is_sound(self, meta: Meta, stands: Epoch) -> bool:
        return (
            meta.epoch == stands.position.epoch
            and meta.began_on == meta.run
            and meta.floor <= stands.position.n <= meta.head
        )

    async def _meta(self, link: RedisConnection) -> Meta:
        run = await _run_of(link)
        names = ("installation", "epoch", "run", "head", "floor")
        reply = await link.call("HMGET", Keys(self._prefix, 0).meta, *names)
        texts = [b"" if value is None else value for value in reply]
        installation, epoch, began_on, head, floor = (value.decode() for value in texts)
        return Meta(run, installation, int(epoch or 0), began_on, int(head or 0), int(floor or 0))

    async def _stands(self) -> Epoch:
        try:
            return await self._database.epoch()
        except DatabaseUnavailable as error:
            raise LogUnavailable(f"The log cannot be joined: {error.detail}") from None

    async def _recover_own(self, stands: Epoch, tail: Tail, accepted_unapplied: Sequence[LogRecord]) -> None:
        """Bring what this process holds of the life that ends to the database, once."""
        if stands.lineage <= tail.epoch and self._recovered < tail.epoch:
            await self._unite_all(_held(tail, accepted_unapplied), tail.epoch, late=False)
            self._recovered = tail.epoch

    def _is_late(self, stands: Epoch, tail: Tail) -> bool:
        """Whether a life has begun without what this process held of one before."""
        return stands.lineage <= tail.epoch < stands.position.epoch and self._recovered < tail.epoch

    async def _unite_late(
        self, link: RedisConnection, keys: Keys, tail: Tail, accepted_unapplied: Sequence[LogRecord]
    ) -> None:
        """Bring it now, but for requests that were repeated and answered in the meantime; and let everybody
        know what the database has got."""
        held = []
        for logged in _held(tail, accepted_unapplied):
            if await self._answered_since(link, keys, logged):
                logger.error("entry %s of epoch %d: its request was repeated", logged.entry.id, tail.epoch)
            else:
                held.append(logged)
        await self._unite_all(held, tail.epoch, late=True)
        self._recovered = tail.epoch
        scopes = [logged.entry.remembered.scope for logged in held if logged.entry.remembered is not None]
        if scopes:
            await link.call("SADD", keys.known, *scopes)
        changed = {logged.entry.change.order.id for logged in held if isinstance(logged.entry, OrderChanged)}
        now = self._clock.now()
        self._late += [
            Invalidated(id=new_id(now), at=now, thing=CacheKind.ORDER, key=order) for order in sorted(changed)
        ]

    async def _answered_since(self, link: RedisConnection, keys: Keys, logged: LogRecord) -> bool:
        if logged.entry.remembered is None:
            return False
        scope = logged.entry.remembered.scope
        if await link.call("EXISTS", keys.answer(scope)):
            return True
        try:
            answer = await self._database.find_answer(scope)
        except DatabaseUnavailable as error:
            raise LogUnavailable(f"The log cannot be joined: {error.detail}") from None
        return answer is not None and answer[1].id != logged.entry.id

    async def _unite_all(self, held: Sequence[LogRecord], epoch: int, *, late: bool) -> None:
        if held:
            logger.warning("bringing %d entries of epoch %d to the database", len(held), epoch)
        for start in range(0, len(held), self._bounds.flush_batch_entries):
            await self._recover_entries(
                held[start : start + self._bounds.flush_batch_entries], epoch, late=late
            )

    async def _recover_entries(self, batch: Sequence[LogRecord], epoch: int, *, late: bool = False) -> None:
        try:
            for rejected in await self._database.recover_entries(batch, epoch, late=late):
                entry = rejected.logged.entry
                logger.error("entry %s of epoch %d set aside: %s", entry.id, epoch, rejected.error)
        except DatabaseUnavailable as error:
            raise LogUnavailable(f"The log cannot be rebuilt: {error.detail}") from None

    async def _rebase(
        self, link: RedisConnection, stands: Epoch, tail: Tail, accepted_unapplied: Sequence[LogRecord]
    ) -> None:
        """One step towards the next life: this process's part, and all of it if it gets the lease."""
        epoch = stands.position.epoch
        try:
            await self._recover_own(stands, tail, accepted_unapplied)
            self._recovered = max(self._recovered, epoch)
            await self._database.heartbeat(self._process, self._recovered, LEVEL)
            if not await self._database.hold_lease(REBASE, self._process, self._bounds.lease_rebase_s):
                await asyncio.sleep(POLL_S)
                return
            try:
                meta, stands = await self._meta(link), await self._stands()  # another may have been faster
                if not self._is_sound(meta, stands):
                    await self._wait_for_others(epoch)
                    await self._begin(link, meta, stands)
            finally:
                await self._database.give_lease(REBASE, self._process)
        except DatabaseUnavailable as error:
            raise LogUnavailable(f"The log cannot be rebuilt: {error.detail}") from None
        except Fenced:
            return  # another process was faster

    async def _wait_for_others(self, epoch: int) -> None:
        """Waits for the other processes to bring what they hold, for a silent one at most
        `rebase_patience_s`."""
        deadline_s = self._clock.monotonic_s() + self._bounds.rebase_patience_s
        while self._clock.monotonic_s() < deadline_s:
            present = await self._database.members(self._bounds.attendance_s)
            if all(other.united >= epoch for other in present if other.process != self._process):
                return
            await asyncio.sleep(POLL_S)

    async def _begin(self, link: RedisConnection, meta: Meta, stands: Epoch) -> None:
        """What survives in Redis is united too, unless it is of a life before the last restoration."""
        old, new = stands.position.epoch, max(stands.position.epoch, meta.epoch) + 1
        if stands.lineage <= meta.epoch:
            after = stands.position.n if meta.epoch == old else 0
            async for batch in self.read(link, Keys(self._prefix, meta.epoch), after):
                if any(logged.later is not None for logged in batch):
                    raise LogUnavailable("A later release must rebuild the log: only it can read all of it.")
                await self._recover_entries(batch, meta.epoch)
        await self._database.begin_epoch(old, new)
        keys = Keys(self._prefix, new)
        await self._list_known(link, keys)
        try:
            await link.run(BEGIN, (keys.meta, keys.marks), self._installation, new, meta.run)
        except CommandRefused as error:
            raise LogUnavailable(f"Redis refuses a new epoch of the log: {error}.") from None
        self.rebases += 1
        logger.warning("the log begins epoch %d", new)
        await self._sweep(link, keys)

    async def _list_known(self, link: RedisConnection, keys: Keys) -> None:
        """Requests answered in earlier lives: the database has the answers."""
        since_s = self._bounds.log_retention_s
        after = ""
        while scopes := await self._database.load_answered(since_s, after, SCOPES_TOGETHER):
            await link.call("SADD", keys.known, *scopes)
            after = scopes[-1]
        await link.call("EXPIRE", keys.known, int(since_s))

    async def _sweep(self, link: RedisConnection, keys: Keys) -> None:
        """Everything of earlier lives goes."""
        cursor = b"0"
        pattern = f"{keys.tag.replace('[', '?')}:*"
        while True:
            cursor, found = await link.call("SCAN", cursor, "MATCH", pattern, "COUNT", UNLINK_TOGETHER)
            if old := [name for name in found if _is_earlier(name, keys)]:
                await link.call("UNLINK", *old)
            if cursor == b"0":
                return

    async def _be_there(self) -> None:
        """Raises DatabaseUnavailable."""
        await self._database.heartbeat(self._process, self._recovered, LEVEL)
        self.level = await self._database.raise_level(self._bounds.attendance_s)

    async def _beat(self) -> None:
        while True:
            try:
                await self._be_there()
                if 0 < self._joined < (await self._database.position()).epoch:
                    self._overtaken = True
                    self._moved_on()
            except DatabaseUnavailable:
                pass  # another process that rebuilds the log needs the database too
            await asyncio.sleep(self._bounds.attend_s)


def _held(tail: Tail, accepted_unapplied: Sequence[LogRecord]) -> list[LogRecord]:
    """What the database lacks, as far as this process knows: what it has followed, and what was accepted for
    it beyond."""
    return [
        *(followed.logged for followed in tail.waiting),
        *(logged for logged in accepted_unapplied if logged.n > tail.head),
    ]


def _goes_on(meta: Meta, tail: Tail) -> bool:
    """Whether this process can simply follow on."""
    return meta.epoch == tail.epoch and meta.began_on == meta.run and meta.floor <= tail.head <= meta.head


def _is_earlier(name: bytes, keys: Keys) -> bool:
    """Of an earlier life, or of none. Never of a later one: it may have begun meanwhile."""
    life = name[len(keys.tag.encode()) + 1 :].partition(b":")[0]
    return name != keys.meta.encode() and not (life.isdigit() and int(life) >= keys.epoch)


async def _run_of(link: RedisConnection) -> str:
    """Tells one life of a Redis server from another, and a replica that took over from its master."""
    text = (await link.call("INFO", "server")) + (await link.call("INFO", "replication"))
    fields = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    if fields.get("role") != "master":
        raise LogUnavailable("This Redis is a replica")
    return f"{fields['run_id']} {fields['master_replid']}"
