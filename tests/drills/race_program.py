"""What a racing process does: many clients at once, each drawing what to do next, and a record of what they
were told. A client hops between processes: before it reads it echoes the highest position that anybody was
answered with, and it never may see less than anybody saw.
"""

import asyncio
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from storage.errors import (
    Conflict,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
)
from storage.log.entries import Position
from storage.orders.actors import Actor, Role
from storage.orders.encoded import EncodedOrder
from storage.orders.filters import ALL, ListQuery, OrderFilter, Sort, SortField
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order
from storage.orders.rules import StatusRequest, advance, comment, edit
from storage.orders.workflow import Status
from storage.services.idempotency import IdempotencyKey
from storage.services.orders import ChangeOutcome, ChangeRequest
from storage.services.stack import Storage
from tests.drills.race_board import HOT, RACERS, Board
from tests.support.stacks import MES, SELLER, SHOP, actor

OPERATORS = [actor(Role.OPERATOR, f"operator-{number}") for number in range(6)]
WORKSHOP_STEPS = (Status.MANUFACTURING_COMPLETED, Status.PACKAGING, Status.SHIPPED)
NEXT: dict[Status, tuple[Status, Actor]] = {
    Status.INITIATED: (Status.FILE_UPLOADED, SHOP),
    Status.FILE_UPLOADED: (Status.SUBMITTED, SHOP),
    Status.SUBMITTED: (Status.PRICE_CALCULATED, MES),
    Status.PRICE_CALCULATED: (Status.MANUFACTURING_APPROVED, SELLER),
    Status.MANUFACTURING_COMPLETED: (Status.PACKAGING, MES),
    Status.PACKAGING: (Status.SHIPPED, MES),
    Status.SHIPPED: (Status.CLOSED, SELLER),
}
KEYED_SHARE = 0.3
ATTEMPTS = 8
"""How often a keyed request with an unknown outcome is sent again."""
PAUSE_S = 0.02
ANSWER_S = 20.0
"""A client that has no answer after so long will never have one."""
PAGE_ROWS = 20
LOOKED_BACK = 100
"""Entries before a position that are looked through for what an answer lacks."""
QUERIES = (
    ListQuery(),
    ListQuery(sort=Sort(SortField.UPDATED_AT, True)),
    *(ListQuery(filter=OrderFilter(statuses=frozenset({status}))) for status in Status),
    *(ListQuery(filter=OrderFilter(operator=who.name)) for who in OPERATORS[:2]),
)
COUNTED = (ALL, OrderFilter(customer="customer-1"))


class Seen(msgspec.Struct):
    id: str
    version: int


class SeenPage(msgspec.Struct):
    items: list[Seen]


_page = msgspec.json.Decoder(SeenPage)


class Record:
    """One JSON line per fact, written at once: the process may be killed any moment."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self.counts: Counter[str] = Counter()

    def write(self, kind: str, *values: object) -> None:
        self._file.write(json.dumps([kind, *values]).encode() + b"\n")

    def wrong(self, kind: str, words: str) -> None:
        self.write("wrong", kind, words)


class Program:
    def __init__(
        self, storage: Storage, board: Board, record: Record, seed: str, index: int, operations: int
    ) -> None:
        self._storage = storage
        self._board = board
        self._record = record
        self._seed = seed
        self._index = index
        self._operations = operations
        self._known: dict[tuple[int, int], int] = {}
        self._tokens = (f"{seed}.{count}" for count in itertools.count(1))
        self._repeats = itertools.count(1)
        self._stopped = asyncio.Event()
        self._acts: list[tuple[int, Callable[[Random], Awaitable[None]]]] = [
            (34, self._read),
            (3, self._history),
            (3, self._several),
            (4, self._list),
            (2, self._count),
            (10, self._comment),
            (3, self._repeat),
            (4, self._repeat_of_others),
            (3, self._hedge),
            (6, self._hedge_of_others),
            (5, self._note),
            (3, self._refer),
            (16, self._step),
            (3, self._create),
            (2, self._invalidate),
            (11, self._discard),
        ]

    def stop(self) -> None:
        self._stopped.set()

    async def run(self, clients: int) -> None:
        """Until stopped."""
        tasks = [
            asyncio.create_task(self._client(Random(f"{self._seed} {client}"))) for client in range(clients)
        ]
        await self._stopped.wait()
        _, hanging = await asyncio.wait(tasks, timeout=ANSWER_S)
        for task in asyncio.all_tasks() if hanging else ():
            kind = "unexpected" if task in hanging else "elsewhere"
            self._record.wrong(kind, f"no answer to {task.get_name()}, waiting in {_waiting_in(task)}")

    async def _client(self, random: Random) -> None:
        weights = [weight for weight, _ in self._acts]
        acts = [act for _, act in self._acts]
        while not self._stopped.is_set() and self._board.operations < self._operations:
            (act,) = random.choices(acts, weights)
            try:
                await act(random)
            except (Unavailable, Conflict, Forbidden) as error:
                self._record.counts[error.code] += 1
                if isinstance(error, Unavailable):
                    await asyncio.sleep(PAUSE_S)
            except Exception as error:  # whatever it is: nobody may be told this
                self._record.wrong("unexpected", f"{act.__name__}: {type(error).__name__}: {error}")
            self._board.count_operation()

    # Reads

    async def _read(self, random: Random) -> None:
        row = self._board.hot_row(random)
        if row is None:
            return
        newest = await self._echo(row)
        order_id = self._board.id_of(row)
        held = self._storage.reads.peek(order_id) if random.random() < 0.3 else None
        if isinstance(held, EncodedOrder):
            self._noticed(row, newest, held, "peek")
            return
        try:
            found = await self._storage.reads.get(order_id)
        except NotFound:
            if newest:  # else its creator has not been told yet
                self._record.wrong("regressions", f"{order_id} was seen at version {newest} and is not found")
            return
        self._noticed(row, newest, found.held, found.source, found.as_of)

    async def _history(self, random: Random) -> None:
        row = self._board.hot_row(random)
        if row is None:
            return
        newest = await self._echo(row)
        found = await self._storage.reads.history(self._board.id_of(row))
        versions = [item.version for item in found.items]
        if versions != list(range(1, len(versions) + 1)):
            self._record.wrong("gaps", f"the history of {self._board.id_of(row)} has {versions}")
        if len(versions) < newest:
            words = f"the history of {self._board.id_of(row)} ends at {len(versions)}, {newest} was seen"
            self._record.wrong("regressions", words)
        self._require_complete(self._board.id_of(row), len(versions), found.as_of)
        self._publish(found.as_of)
        self._board.saw(row, len(versions))
        self._record.counts["histories"] += 1

    async def _several(self, random: Random) -> None:
        rows = {row for row in (self._board.hot_row(random) for _ in range(8)) if row is not None}
        newest = {self._board.id_of(row): self._board.newest_seen(row) for row in rows}
        await self._reach(self._board.position)
        found = await self._storage.reads.get_many(list(newest))
        for order_id, version in newest.items():
            held = found.held.get(order_id)
            shown = 0 if held is None else held.version
            if shown < version:
                words = f"{order_id} was seen at {version} and is one of several at {shown} ({found.source})"
                self._record.wrong("regressions", words)
            self._require_complete(order_id, shown, None)
        self._publish()
        for row in rows:
            held = found.held.get(self._board.id_of(row))
            if held is not None:
                self._board.saw(row, held.version)
        self._record.counts["batches"] += 1

    async def _list(self, random: Random) -> None:
        newest = {row: self._board.newest_seen(row) for row in self._board.rows(HOT)}
        await self._reach(self._board.position)
        query = random.choice(QUERIES)
        found = await self._storage.reads.page(query, PAGE_ROWS, self._storage.clock.now())
        for seen in _page.decode(found.page.body).items:
            row = self._board.row_of(seen.id)
            if row is not None and seen.version < newest.get(row, 0):
                words = f"a list shows {seen.id} at {seen.version}, {newest[row]} was seen ({found.source})"
                self._record.wrong("regressions", words)
        self._publish(found.as_of)
        self._record.counts["pages"] += 1

    async def _count(self, random: Random) -> None:
        await self._reach(self._board.position)
        found = await self._storage.reads.counts(random.choice(COUNTED))
        self._publish(found.as_of)
        self._record.counts["counts"] += 1

    async def _echo(self, row: int) -> int:
        newest = self._board.newest_seen(row)
        await self._reach(self._board.position)
        return newest

    async def _reach(self, position: Position) -> None:
        if position.epoch:
            await self._storage.reads.require_position(position)

    def _require_complete(self, order_id: str, version: int, as_of: Position | None) -> None:
        """What is shown has all that the log has up to the position that is said of it."""
        as_of, tail = as_of or self._storage.reads.stands, self._storage.tail
        if as_of.epoch != tail.epoch:
            return
        for followed in tail.since(as_of.n - LOOKED_BACK) or ():
            order = followed.order
            if order is None or order.id != order_id or followed.n > as_of.n:
                continue
            if order.version > version:
                words = f"{order_id} is shown at {version} as of {as_of}, the log has {order.version}"
                self._record.wrong("regressions", words)

    def _publish(self, as_of: Position | None = None) -> None:
        """What an answer says of its position. None: this moment's."""
        self._board.publish(as_of or self._storage.reads.stands)

    def _noticed(
        self, row: int, newest: int, held: EncodedOrder, source: str, as_of: Position | None = None
    ) -> None:
        if held.version < newest:
            words = f"{held.id} was seen at {newest} and is shown at {held.version} ({source})"
            self._record.wrong("regressions", words)
        self._note_body(row, held.version, held.body)
        self._publish(as_of)
        self._board.saw(row, held.version)
        self._record.counts["reads"] += 1
        self._record.counts[source] += 1

    def _note_body(self, row: int, version: int, body: bytes) -> None:
        """Of one version there is one body, on all processes."""
        crc = zlib.crc32(body)
        known = self._known.setdefault((row, version), 0)
        if known != crc:
            self._known[row, version] = crc
            self._record.write("saw", self._board.id_of(row), version, crc)

    # Changes

    async def _comment(self, random: Random) -> None:
        row = self._board.hot_row(random)
        if row is None:
            return
        token = next(self._tokens)
        await self._remark(row, token, keyed=random.random() < KEYED_SHARE)

    async def _repeat(self, random: Random) -> None:
        """A keyed request that others will send too, at the same time."""
        row = self._board.hot_row(random)
        if row is None:
            return
        count = next(self._repeats)
        self._board.offer_repeat(row, count)
        await self._remark(row, f"repeat.{self._index}.{row}.{count}", keyed=True)

    async def _repeat_of_others(self, random: Random) -> None:
        writer = random.randrange(RACERS)
        offered = self._board.repeatable(writer)
        if offered is not None:
            row, count = offered
            await self._remark(row, f"repeat.{writer}.{row}.{count}", keyed=True)

    async def _hedge(self, random: Random) -> None:
        """A keyed request for one version of an order, which others send at the same time."""
        row = self._board.hot_row(random)
        version = 0 if row is None else self._board.newest_seen(row)
        if row is not None and version:
            self._board.offer_hedge(row, version)
            await self._hedged(self._index, row, version)

    async def _hedge_of_others(self, random: Random) -> None:
        writer = random.randrange(RACERS)
        offered = self._board.hedged(writer)
        if offered is not None:
            await self._hedged(writer, *offered)

    async def _hedged(self, writer: int, row: int, version: int) -> None:
        """Who is refused must not be one of several of whom another was told that it happened."""
        token = f"hedge.{writer}.{row}.{version}"

        def decide(newest: Order) -> Change:
            return comment(newest, token, SHOP, self._storage.clock.now())

        try:
            await self._decide(row, token, SHOP, True, decide, if_match=frozenset({version}))
        except PreconditionFailed:
            self._record.write("refused", token)
            self._record.counts["hedges refused"] += 1

    async def _remark(self, row: int, token: str, *, keyed: bool) -> None:
        def decide(newest: Order) -> Change:
            return comment(newest, token, SHOP, self._storage.clock.now())

        await self._decide(row, token, SHOP, keyed, decide)

    async def _note(self, random: Random) -> None:
        await self._edit(random, {"note": f"note {random.randrange(1000)}"}, None)

    async def _refer(self, random: Random) -> None:
        reference = self._reference(random) if random.random() < 0.7 else None
        await self._edit(random, {"reference": reference}, reference)

    def _reference(self, random: Random) -> str:
        """Few, so that several orders want the same; others as time goes by: finished orders keep theirs."""
        return f"reference-{self._board.operations // 500}-{random.randrange(4)}"

    async def _edit(self, random: Random, fields: dict[str, object], reference: str | None) -> None:
        def decide(newest: Order) -> Change | None:
            return edit(newest, fields, SHOP, self._storage.clock.now())

        row = self._board.hot_row(random)
        if row is not None:
            await self._decide(row, next(self._tokens), SHOP, True, decide, reference)

    async def _step(self, random: Random) -> None:
        """The next step of an order as a client sees it, which may be over by now."""
        row = self._board.hot_row(random)
        if row is None:
            return
        await self._echo(row)
        order = await self._storage.reads.order(self._board.id_of(row))
        if order.status is Status.MANUFACTURING_APPROVED:
            await asyncio.gather(*(self._take(row, who, random) for who in random.sample(OPERATORS, 2)))
        elif order.status is Status.MANUFACTURING_STARTED:
            await self._workshop_step(row, order, random)
        elif order.status in NEXT:
            status, who = NEXT[order.status]
            if random.random() < 0.02 and order.status is not Status.SHIPPED:
                status, who = Status.CANCELLED, SELLER
            await self._advance(row, status, who, random)

    async def _take(self, row: int, who: Actor, random: Random) -> None:
        try:
            await self._advance(row, Status.MANUFACTURING_STARTED, who, random)
        except Conflict as error:
            self._record.counts[error.code] += 1

    async def _workshop_step(self, row: int, order: Order, random: Random) -> None:
        owner = next((who for who in OPERATORS if who.name == order.operator), OPERATORS[0])
        released = random.random() < 0.5
        status = Status.MANUFACTURING_APPROVED if released else Status.MANUFACTURING_COMPLETED
        await self._advance(row, status, owner, random)

    async def _advance(self, row: int, status: Status, who: Actor, random: Random) -> None:
        token = next(self._tokens)

        def decide(newest: Order) -> Change | None:
            return advance(
                newest, StatusRequest(status=status, comment=token), who, self._storage.clock.now()
            )

        await self._decide(row, token, who, random.random() < KEYED_SHARE, decide)

    async def _create(self, random: Random) -> None:
        async def draft() -> NewOrder:
            return NewOrder(customer=f"customer-{random.randrange(5)}", reference=reference)

        reference = self._reference(random) if random.random() < 0.5 else None
        token = next(self._tokens)
        outcome = await self._sent(
            token, SHOP, True, lambda request: self._storage.orders.create(draft, request)
        )
        self._acknowledged(self._board.add_order(outcome.order.id), token, SHOP, outcome)

    async def _decide(
        self,
        row: int,
        token: str,
        who: Actor,
        keyed: bool,
        decide: Callable[[Order], Change | None],
        reference: str | None = None,
        if_match: frozenset[int] | None = None,
    ) -> None:
        """Make a change, as often as it takes to know what became of it."""
        nothing_to_do = False

        async def noted(newest: Order) -> Change | None:
            nonlocal nothing_to_do
            change = decide(newest)
            nothing_to_do = change is None
            return change

        order_id, book = self._board.id_of(row), self._storage.orders
        await self._echo(row)
        outcome = await self._sent(
            token,
            who,
            keyed,
            lambda request: book.edit(
                order_id, reference, noted, msgspec.structs.replace(request, if_match=if_match)
            ),
        )
        if nothing_to_do:
            self._record.counts["nothing to do"] += 1
        else:
            self._acknowledged(row, token, who, outcome)

    async def _sent(
        self, token: str, who: Actor, keyed: bool, act: Callable[[ChangeRequest], Awaitable[ChangeOutcome]]
    ) -> ChangeOutcome:
        """Sent again with its key while its outcome is not known; without a key only once."""
        key = IdempotencyKey(scope=token, key=token, body_hash="") if keyed else None
        for attempt in range(ATTEMPTS):
            try:
                return await act(ChangeRequest(actor=who, keyed=key))
            except OutcomeUnknown:
                if not keyed or attempt + 1 == ATTEMPTS:
                    raise
            self._record.counts["sent again"] += 1
            await asyncio.sleep(PAUSE_S * 2**attempt)
        raise AssertionError

    def _acknowledged(self, row: int, token: str, who: Actor, outcome: ChangeOutcome) -> None:
        order, position = outcome.order, outcome.position
        self._record.write(
            "told", order.id, order.version, position.epoch, position.n, token, who.name, order.status
        )
        self._note_body(row, order.version, outcome.body)
        self._board.publish(position)
        self._board.saw(row, order.version)
        self._record.counts["repeated" if outcome.repeated else "acknowledged"] += 1

    # What makes the tiers forget

    async def _invalidate(self, random: Random) -> None:
        row = self._board.hot_row(random)
        if row is not None:
            if random.random() < 0.03:
                await self._storage.invalidate_lists()
            else:
                await self._echo(row)
                await self._storage.invalidate_order(self._board.id_of(row))
            self._record.counts["invalidations"] += 1

    async def _discard(self, random: Random) -> None:
        row = self._board.hot_row(random)
        if row is not None:
            self._storage.reads.local.lru.discard(self._board.id_of(row))
            self._record.counts["local evictions"] += 1


def _waiting_in(task: "asyncio.Task[Any]") -> str:
    """The functions that a task is in, innermost last."""
    names: list[str] = []
    inner: Any = task.get_coro()
    while hasattr(inner, "cr_code") and inner.cr_frame is not None:
        names.append(f"{inner.cr_code.co_name}:{inner.cr_frame.f_lineno}")
        inner = inner.cr_await
    return " ".join(names)
