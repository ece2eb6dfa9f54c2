"""The order book: every change of an order goes through here, reads what is, decides, appends.

A change is decided under the order's lock on its newest state, accepted by the change log if that is still
the newest, and visible once durable. Changes that assign an order wait for the database.
"""

from collections.abc import Awaitable, Callable, Container
from typing import TypeVar

import msgspec

from storage.bounds import Bounds
from storage.cache.read_through import ReadThrough
from storage.cache.write_behind import WriteBehind
from storage.clock import Clock
from storage.database.contract import Database
from storage.errors import (
    AlreadyTaken,
    Behind,
    Claimed,
    Conflict,
    DuplicateReference,
    OrderParked,
    OutcomeUnknown,
    PreconditionFailed,
    Superseded,
    Unavailable,
    Upgrading,
)
from storage.ids import new_id
from storage.log.change_log import ChangeLog
from storage.log.entries import Answer, AnyEntry, OrderChanged, Position
from storage.log.tail import Tail
from storage.memory.keyed_locks import KeyedLocks
from storage.orders.actors import Actor
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order, decode_order, encode_order
from storage.orders.rules import assigns_operator, create, require_visible, undo
from storage.orders.workflow import Kind, Status
from storage.services.idempotency import Idempotency, IdempotencyKey
from storage.services.order_numbers import OrderNumbers

Decide = Callable[[Order], Awaitable[Change | None]]
"""From the newest state of an order to what shall change; None when nothing shall. Asked only when the
request was not answered before."""
Decided = TypeVar("Decided")
Act = Callable[[], Awaitable[Decided]]


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for a change, and when: `if_match` None is any version, `if_none_match` none of these."""

    actor: Actor
    if_match: frozenset[int] | None = None
    if_none_match: Container[int] = frozenset()
    keyed: IdempotencyKey | None = None
    wait_for_database: bool = False
    success: int = 200


class ChangeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: the order and its encoding, where that stands in the log, and the status
    to answer with. `must_wait`: the order was assigned, the database must confirm it. `unchanged`:
    the order was so already. `repeated`: the request was answered before."""

    order: Order
    body: bytes
    position: Position
    status: int
    must_wait: bool = False
    in_database: bool = False
    unchanged: bool = False
    repeated: bool = False


class _NothingToDo(Exception):
    """The order is already as it was asked to be."""

    def __init__(self, order: Order) -> None:
        super().__init__(order.id)
        self.order = order


class OrderService:
    def __init__(
        self,
        database: Database,
        change_log: ChangeLog,
        idempotency: Idempotency,
        reads: ReadThrough,
        write_behind: WriteBehind,
        numbers: OrderNumbers,
        tail: Tail,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        self._database = database
        self._change_log = change_log
        self._idempotency = idempotency
        self._reads = reads
        self._write_behind = write_behind
        self._numbers = numbers
        self._tail = tail
        self._bounds = bounds
        self._clock = clock
        self._locks: KeyedLocks[tuple[str, str]] = KeyedLocks()

    async def create(
        self, make_draft: "Callable[[], Awaitable[NewOrder]]", request: ChangeRequest
    ) -> ChangeOutcome:
        """A new order. The draft is made only when the request was not answered before.

        Raises what `make_draft` raises, Forbidden, DuplicateReference, BacklogFull, OutcomeUnknown.
        """

        async def once() -> ChangeOutcome:
            draft = await self._decided(make_draft)
            if draft.reference is None:
                return await self._decided(lambda: self._create(draft, request))
            async with self._locks.hold((request.actor.token_id, draft.reference)):
                return await self._decided(lambda: self._create(draft, request))

        return await self._once(request, once)

    async def change(self, order_id: str, decide: Decide, request: ChangeRequest) -> ChangeOutcome:
        """Decide on the order's newest state and make the change.

        Raises NotFound, PreconditionFailed, what `decide` raises, OrderParked, BacklogFull, OutcomeUnknown.
        """
        return await self._once(request, lambda: self._change(order_id, decide, request))

    async def edit(
        self, order_id: str, reference: str | None, decide: Decide, request: ChangeRequest
    ) -> ChangeOutcome:
        """As `change`, for an edit that sets this reference (None: leaves it or clears it)."""

        async def once() -> ChangeOutcome:
            if reference is None:
                return await self._change(order_id, decide, request)
            order = await self._decided(lambda: self._visible(order_id, request))
            async with self._locks.hold((order.created_by, reference)):
                await self._decided(
                    lambda: self._require_new_reference(order.created_by, reference, order_id)
                )
                return await self._change(order_id, decide, request)

        return await self._once(request, once)

    async def undo(self, order_id: str, request: ChangeRequest) -> ChangeOutcome:
        """Take back the actor's own last step."""

        async def decide(order: Order) -> Change:
            items = (await self._reads.history(order.id)).items
            since = [item for item in items if item.version >= order.status_version]
            return undo(order, since, request.actor, self._clock.now(), self._bounds.undo_window_s)

        return await self.change(order_id, decide, request)

    async def _once(self, request: ChangeRequest, act: Act[ChangeOutcome]) -> ChangeOutcome:
        outcome = await self._idempotency.once(request.keyed, act, _repeated)
        return await self._confirmed(outcome, request)

    async def _confirmed(self, outcome: ChangeOutcome, request: ChangeRequest) -> ChangeOutcome:
        """Waits for the database where the change or the request asks for it, outside every lock."""
        # Answered in an earlier epoch of the log, and still known: the database has it.
        n = outcome.position.n if outcome.position.epoch == self._change_log.epoch else 0
        if outcome.must_wait:
            await self._require_stored(outcome, n)
            return msgspec.structs.replace(outcome, in_database=True)
        if request.wait_for_database:
            try:
                await self._write_behind.wait_for(n, self._bounds.durability_deadline_s)
            except OutcomeUnknown:
                return outcome  # a preference: the answer says that only the log has it
        if n > self._tail.flushed or self._refused(outcome.order):
            return outcome
        return msgspec.structs.replace(outcome, in_database=True)

    async def _require_stored(self, outcome: ChangeOutcome, n: int) -> None:
        """The order was assigned: that is answered only when the database has it. What is repeated, under
        whichever key, is looked up there as well: its entry may have been lost or set aside since.

        Raises OutcomeUnknown, OrderParked, AlreadyTaken, Conflict, DatabaseUnavailable."""
        new = not (outcome.repeated or outcome.unchanged)
        if n == 0 and new:
            raise OutcomeUnknown("The log was rebuilt meanwhile.")
        if self._refused(outcome.order):  # its position is passed, but the database does not hold it
            raise OrderParked("The database refused the change.", retry_after_s=30)
        await self._write_behind.wait_for(n, self._bounds.take_deadline_s)
        if new or await self._is_stored(outcome.order):
            return
        newest = await self._reads.order(outcome.order.id)
        if newest.operator not in (None, outcome.order.operator):
            raise AlreadyTaken(
                f"The order was taken by {newest.operator}.",
                operator=newest.operator,
                since=newest.status_since,
            )
        raise Conflict("The log was rebuilt without this change: ask for it again, under a new key.")

    async def _is_stored(self, order: Order) -> bool:
        """Whether the database's history has the step that left the order like this."""
        return any(
            item.version == order.status_version
            and item.to_status is order.status
            and item.at == order.status_since
            for item in await self._database.load_history(order.id)
        )

    def _refused(self, order: Order) -> bool:
        return self._tail.lacks_for_good(order.id, order.version)

    async def _create(self, draft: NewOrder, request: ChangeRequest) -> ChangeOutcome:
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
            **{name: value for name, value in msgspec.structs.asdict(draft).items() if value is not None},
        )
        return await self._accept(create(order, request.actor), request, seen)

    async def _change(self, order_id: str, decide: Decide, request: ChangeRequest) -> ChangeOutcome:
        async with self._locks.hold(("order", order_id)):
            try:
                return await self._decided(lambda: self._change_newest(order_id, decide, request))
            except _NothingToDo as nothing:
                return await self._unchanged(nothing.order, request)

    async def _decided(self, act: Act[Decided]) -> Decided:
        """Decided again for as long as something comes in between.

        The log checks what it accepts. What is refused, or already so, is decided here, perhaps on what
        another process has changed since: so it counts only when decided on a state that holds everything
        which was accepted before. Raises Behind when that cannot be known."""
        at_head = self._change_log.single_process
        for _ in range(self._bounds.decide_attempts):
            seen = self._seen()
            try:
                return await act()
            except Superseded:
                continue
            except Unavailable:
                raise
            except Exception:
                if at_head:
                    raise
                if not await self._change_log.reach_head():
                    raise Behind("This process cannot say what the newest state is.") from None
                if self._seen() == seen:
                    raise
                at_head = True
        raise Unavailable("This changes too fast: try again.")

    async def _visible(self, order_id: str, request: ChangeRequest) -> Order:
        order = await self._reads.order(order_id)
        require_visible(order, request.actor)
        return order

    async def _change_newest(self, order_id: str, decide: Decide, request: ChangeRequest) -> ChangeOutcome:
        seen = self._seen()
        order = await self._visible(order_id, request)
        wanted = request.if_match is None or order.version in request.if_match
        if not wanted or order.version in request.if_none_match:
            raise PreconditionFailed(f"The order has version {order.version}.", current=order)
        if (change := await decide(order)) is None:
            raise _NothingToDo(order)
        return await self._accept(change, request, seen)

    def _seen(self) -> Position:
        return Position(self._tail.epoch, self._tail.head)

    async def _accept(self, change: Change, request: ChangeRequest, seen: Position) -> ChangeOutcome:
        keyed = request.keyed
        entry = OrderChanged(
            id=new_id(change.at),
            at=change.at,
            change=change,
            remembered=None if keyed is None else keyed.remembered(Answer(status=request.success)),
        )
        try:
            position = await self._change_log.append(entry, seen)
        except Claimed as claimed:
            raise DuplicateReference(
                f"Order {claimed.owner} has this reference.", order=claimed.owner
            ) from None
        return ChangeOutcome(
            order=change.order,
            body=self._encoded(change.order),
            position=position,
            status=request.success,
            must_wait=_gives(change, request.success),
        )

    def _encoded(self, order: Order) -> bytes:
        """As the log's followers have encoded it already, most of the time."""
        pending = self._tail.pending(order.id)
        if pending is not None and pending.order is order:
            return pending.held.body
        return encode_order(order)

    async def _unchanged(self, order: Order, request: ChangeRequest) -> ChangeOutcome:
        """Nothing to do. Repeating one's own take joins the wait for the database."""
        body = encode_order(order)
        pending = self._tail.pending(order.id)
        n = self._tail.flushed if pending is None else pending.n
        if request.keyed is not None:
            await self._idempotency.remember(request.keyed, Answer(status=200, body=body))
        return ChangeOutcome(
            order=order,
            body=body,
            position=Position(self._change_log.epoch, n),
            status=200,
            must_wait=_was_given(order),
            unchanged=True,
        )

    async def _require_new_reference(self, created_by: str, reference: str, order_id: str | None) -> None:
        known = await self._reads.find_reference(created_by, reference)
        if known is not None and known != order_id:
            raise DuplicateReference(f"Order {known} has this reference.", order=known)


def _was_given(order: Order) -> bool:
    """Whether an answer that shows the order like this, and changed nothing, tells somebody that it is
    theirs: only a take asks for this status."""
    return order.status is Status.MANUFACTURING_STARTED


def _gives(change: Change, success: int) -> bool:
    """Whether the answer tells somebody that the order is theirs: it was given to them, or a repeated take
    has left a new comment (a comment alone is answered with 201)."""
    remarked = change.kind is Kind.COMMENT and success != 201 and _was_given(change.order)
    return remarked or assigns_operator(change)


async def _repeated(position: Position, entry: AnyEntry) -> ChangeOutcome:
    """The first answer again."""
    assert entry.remembered is not None
    answer = entry.remembered.answer
    if isinstance(entry, OrderChanged):
        order, must_wait = entry.change.order, _gives(entry.change, answer.status)
        body = answer.body if answer.body is not None else encode_order(order)
    else:
        assert answer.body is not None
        try:
            body, order = answer.body, decode_order(answer.body)
        except msgspec.ValidationError:  # its order has a field that this release does not know
            raise Upgrading("A later release has answered this request: it can repeat the answer.") from None
        must_wait = _was_given(order)
    return ChangeOutcome(
        order=order, body=body, position=position, status=answer.status, must_wait=must_wait, repeated=True
    )
