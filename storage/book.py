"""The order book: every change of an order goes through here, reads what is, decides, appends.

A change is decided under the order's lock on its newest state, accepted by the shared tier if that is still
the newest, and visible once durable. Changes that give an order to somebody wait for the database.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.entries import Answer, AnswerKept, AnyEntry, OrderChanged, Remembered
from storage.errors import (
    AlreadyAnswered,
    Behind,
    Claimed,
    Conflict,
    DuplicateReference,
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    OrderParked,
    OutcomeUnknown,
    PreconditionFailed,
    Superseded,
    Unavailable,
)
from storage.ids import new_id
from storage.log import Position
from storage.numbers import Numbers
from storage.orders import Actor, Change, Order, Status, decode_order, encode_order
from storage.read_through import ReadThrough
from storage.shared import SharedTier
from storage.single_flight import KeyedLocks
from storage.steps import assigns_operator, create, require_visible, undo
from storage.tail import Tail
from storage.write_behind import WriteBehind

Decide = Callable[[Order], Awaitable[Change | None]]
"""From the newest state of an order to what shall change; None when nothing shall. Asked only when the
request was not answered before."""
Act = Callable[[], Awaitable["Outcome"]]


class Keyed(msgspec.Struct, frozen=True, kw_only=True):
    """A request with an Idempotency-Key. `scope` hashes token, method, path and key."""

    scope: str
    key: str
    body_hash: str


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a change, and under which conditions. `if_match` None: any version."""

    actor: Actor
    if_match: frozenset[int] | None = None
    keyed: Keyed | None = None
    wait_for_database: bool = False
    success: int = 200


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: the order and its encoding, where that stands in the log, and the status
    to answer with. `must_wait`: the order was given to somebody, the database must confirm it."""

    order: Order
    body: bytes
    position: Position
    status: int
    must_wait: bool = False
    in_database: bool = False
    repeated: bool = False


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What a new order is made of."""

    customer: str
    model: str | None = None
    units: str | None = None
    material: str | None = None
    finish: str | None = None
    plating: str | None = None
    quantity: int = 1
    quote: str | None = None
    due_at: datetime | None = None
    note: str | None = None
    reference: str | None = None


class OrderBook:
    def __init__(
        self,
        shared: SharedTier,
        reads: ReadThrough,
        write_behind: WriteBehind,
        numbers: Numbers,
        tail: Tail,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        self._shared = shared
        self._reads = reads
        self._write_behind = write_behind
        self._numbers = numbers
        self._tail = tail
        self._bounds = bounds
        self._clock = clock
        self._locks: KeyedLocks[tuple[str, str]] = KeyedLocks()

    async def create(self, make_draft: "Callable[[], Awaitable[Draft]]", request: Request) -> Outcome:
        """A new order. The draft is made only when the request was not answered before.

        Raises what `make_draft` raises, Forbidden, DuplicateReference, BacklogFull, OutcomeUnknown.
        """

        async def once() -> Outcome:
            draft = await make_draft()
            if draft.reference is None:
                return await self._decided(lambda: self._create(draft, request))
            async with self._locks.hold((request.actor.token_id, draft.reference)):
                return await self._decided(lambda: self._create(draft, request))

        return await self._once(request, once)

    async def change(self, order_id: str, decide: Decide, request: Request) -> Outcome:
        """Decide on the order's newest state and make the change.

        Raises NotFound, PreconditionFailed, what `decide` raises, OrderParked, BacklogFull, OutcomeUnknown.
        """
        return await self._once(request, lambda: self._change(order_id, decide, request))

    async def edit(self, order_id: str, reference: str | None, decide: Decide, request: Request) -> Outcome:
        """As `change`, for an edit that sets this reference (None: leaves it or clears it)."""

        async def once() -> Outcome:
            if reference is None:
                return await self._change(order_id, decide, request)
            order = await self._reads.order(order_id)
            require_visible(order, request.actor)
            async with self._locks.hold((order.created_by, reference)):
                await self._require_new_reference(order.created_by, reference, order_id)
                return await self._change(order_id, decide, request)

        return await self._once(request, once)

    async def undo(self, order_id: str, request: Request) -> Outcome:
        """Take back the actor's own last step."""

        async def decide(order: Order) -> Change:
            items, _ = await self._reads.history(order.id)
            since = [item for item in items if item.version >= order.status_version]
            return undo(order, since, request.actor, self._clock.now(), self._bounds.undo_window_s)

        return await self.change(order_id, decide, request)

    @asynccontextmanager
    async def keyed_once(self, keyed: Keyed) -> AsyncIterator[tuple[Position, AnyEntry] | None]:
        """Of two equal requests at once, the second waits and finds the answer of the first."""
        async with self._locks.hold(("key", keyed.scope)):
            yield await self._find_answer(keyed)

    async def _find_answer(self, keyed: Keyed) -> tuple[Position, AnyEntry] | None:
        found = await self._shared.find_remembered(keyed.scope)
        if found is None:
            return None
        remembered = found[1].remembered
        if remembered is None or remembered.body_hash != keyed.body_hash:
            raise KeyReused
        return found

    async def _once(self, request: Request, act: Act) -> Outcome:
        if request.keyed is None:
            return await self._confirmed(await act(), request)
        async with self.keyed_once(request.keyed) as found:
            try:
                outcome = await act() if found is None else _repeated(*found)
            except AlreadyAnswered:  # on another process, since it was looked for
                found = await self._find_answer(request.keyed)
                if found is None:
                    raise OutcomeUnknown from None
                outcome = _repeated(*found)
        return await self._confirmed(outcome, request)

    async def _confirmed(self, outcome: Outcome, request: Request) -> Outcome:
        """Waits for the database where the change or the request asks for it, outside every lock."""
        # Answered in an earlier life of the log, and still known: the database has it.
        n = outcome.position.n if outcome.position.epoch == self._shared.epoch else 0
        if outcome.must_wait and n == 0 and not outcome.repeated:
            raise OutcomeUnknown("The log was rebuilt meanwhile.")
        if outcome.must_wait:
            if self._refused(outcome.order):  # its position is passed, but the database does not hold it
                raise OrderParked("The database refused the change.", retry_after_s=30)
            await self._write_behind.wait_for(n, self._bounds.take_deadline_s)
        elif request.wait_for_database:
            try:
                await self._write_behind.wait_for(n, self._bounds.durability_deadline_s)
            except OutcomeUnknown:
                return outcome  # a preference: the answer says that only the log has it
        if n > self._tail.flushed or self._refused(outcome.order):
            return outcome
        return msgspec.structs.replace(outcome, in_database=True)

    def _refused(self, order: Order) -> bool:
        return self._tail.lacks_for_good(order.id, order.version)

    async def _create(self, draft: Draft, request: Request) -> Outcome:
        seen = self._seen()
        if draft.reference is not None:
            await self._require_new_reference(request.actor.token_id, draft.reference, None)
        now = self._clock.now()
        order = Order(
            id=new_id(now),
            number=await self._numbers.next(),
            version=1,
            status=Status.INITIATED if draft.model is None else Status.FILE_UPLOADED,
            status_since=now,
            status_version=1,
            created_at=now,
            created_by=request.actor.token_id,
            updated_at=now,
            **msgspec.structs.asdict(draft),
        )
        return await self._accept(create(order, request.actor), request, seen)

    async def _change(self, order_id: str, decide: Decide, request: Request) -> Outcome:
        async with self._locks.hold(("order", order_id)):
            return await self._decided(lambda: self._change_newest(order_id, decide, request))

    async def _decided(self, act: Act) -> Outcome:
        """Decided again for as long as something comes in between."""
        for _ in range(self._bounds.decide_attempts):
            try:
                return await act()
            except Superseded:
                continue
        raise Unavailable("This changes too fast: try again.")

    async def _change_newest(self, order_id: str, decide: Decide, request: Request) -> Outcome:
        seen, order = self._seen(), None
        try:
            order = await self._reads.order(order_id)
            require_visible(order, request.actor)
            if request.if_match is not None and order.version not in request.if_match:
                raise PreconditionFailed(f"The order has version {order.version}.", current=order)
            change = await decide(order)
        except (Conflict, Forbidden, Invalid, NotFound, PreconditionFailed):
            await self._require_newest(order_id, order)
            raise
        if change is None:
            await self._require_newest(order_id, order)
            return await self._unchanged(order, request)
        return await self._accept(change, request, seen)

    async def _require_newest(self, order_id: str, order: Order | None) -> None:
        """The log checks what it accepts, but what is refused or already so is decided here, perhaps on what
        another process has changed since. Raises Superseded when one has, Behind when nobody can say."""
        if not await self._shared.reach_head():
            raise Behind("This process cannot say what the order's newest state is.")
        try:
            newest = (await self._reads.order(order_id)).version
        except NotFound:
            newest = 0
        if newest != (0 if order is None else order.version):
            raise Superseded

    def _seen(self) -> Position:
        return Position(self._tail.epoch, self._tail.head)

    async def _accept(self, change: Change, request: Request, seen: Position) -> Outcome:
        entry = OrderChanged(
            id=new_id(change.at),
            at=change.at,
            change=change,
            remembered=_remember(request, Answer(status=request.success)),
        )
        try:
            position = await self._shared.append(entry, seen)
        except Claimed as claimed:
            raise DuplicateReference(
                f"Order {claimed.owner} has this reference.", order=claimed.owner
            ) from None
        return Outcome(
            order=change.order,
            body=self._encoded(change.order),
            position=position,
            status=request.success,
            must_wait=assigns_operator(change),
        )

    def _encoded(self, order: Order) -> bytes:
        """As the log's followers have encoded it already, most of the time."""
        pending = self._tail.pending(order.id)
        if pending is not None and pending.order is order:
            return pending.held.body
        return encode_order(order)

    async def _unchanged(self, order: Order, request: Request) -> Outcome:
        """Nothing to do. Repeating one's own take joins the wait for the database."""
        body = encode_order(order)
        pending = self._tail.pending(order.id)
        n = self._tail.flushed if pending is None else pending.n
        remembered = _remember(request, Answer(status=200, body=body))
        if remembered is not None:
            now = self._clock.now()
            await self._shared.append(AnswerKept(id=new_id(now), at=now, remembered=remembered))
        return Outcome(
            order=order,
            body=body,
            position=Position(self._shared.epoch, n),
            status=200,
            must_wait=pending is not None and order.status is Status.MANUFACTURING_STARTED,
        )

    async def _require_new_reference(self, created_by: str, reference: str, order_id: str | None) -> None:
        known = await self._reads.find_reference(created_by, reference)
        if known is not None and known != order_id:
            raise DuplicateReference(f"Order {known} has this reference.", order=known)


def _remember(request: Request, answer: Answer) -> Remembered | None:
    keyed = request.keyed
    if keyed is None:
        return None
    return Remembered(scope=keyed.scope, key=keyed.key, body_hash=keyed.body_hash, answer=answer)


def _repeated(position: Position, entry: AnyEntry) -> Outcome:
    """The first answer again."""
    assert entry.remembered is not None
    answer = entry.remembered.answer
    if isinstance(entry, OrderChanged):
        order, must_wait = entry.change.order, assigns_operator(entry.change)
        body = answer.body if answer.body is not None else encode_order(order)
    else:
        assert answer.body is not None
        body, must_wait = answer.body, False
        order = decode_order(body)
    return Outcome(
        order=order, body=body, position=position, status=answer.status, must_wait=must_wait, repeated=True
    )
