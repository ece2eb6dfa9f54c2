"""Orders, changes and log entries for tests, with all that does not matter filled in."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from storage.bounds import Bounds
from storage.database.contract import Database
from storage.log.entries import (
    Answer,
    AnyEntry,
    IdempotencyRecord,
    LogRecord,
    OrderChanged,
    Position,
    encode_entry,
)
from storage.log.tail import AppliedEntry, Tail
from storage.orders.order import Change, Order, Previous
from storage.orders.rules import create
from storage.orders.workflow import Kind, Status
from tests.support.stacks import ADMIN, ManualClock

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def id_of(n: int) -> str:
    """An id in canonical form; ids sort as their numbers do."""
    return f"{n:08x}-0000-7000-8000-{n:012x}"


def an_order(n: int = 1, **fields: Any) -> Order:
    """A new order, the n-th."""
    values: dict[str, Any] = {
        "id": id_of(n),
        "number": 1000 + n,
        "version": 1,
        "status": Status.INITIATED,
        "status_since": START,
        "status_version": 1,
        "customer": "anna",
        "created_at": START,
        "created_by": "token-shop",
        "updated_at": START,
    }
    return Order(**(values | fields))


def created(order: Order) -> Change:
    return create(order, ADMIN)


def changed(before: Order, *, seconds: float = 1.0, kind: Kind = Kind.EDIT, **effects: Any) -> Change:
    """Any change at all, legal or not: what matters to those who only store and show it."""
    moment = before.updated_at + timedelta(seconds=seconds)
    touched = {"updated_at": moment, **effects}
    if "status" in effects:
        touched |= {"status_since": moment, "status_version": before.version + 1}
    order = msgspec.structs.replace(before, version=before.version + 1, **touched)
    return Change(
        order=order,
        was=Previous(**{name: getattr(before, name) for name in touched}),
        kind=kind,
        from_status=before.status,
        to_status=order.status,
        actor="admin",
        at=moment,
    )


def remembered(key: str, body_hash: str = "hash") -> IdempotencyRecord:
    return IdempotencyRecord(scope=f"scope {key}", key=key, body_hash=body_hash, answer=Answer(status=200))


def entry_of(change: Change, *, entry_id: str | None = None, key: str | None = None) -> OrderChanged:
    """The entry of a change; its id follows from order and version unless given."""
    made_id = f"{change.order.id[:-5]}{change.order.version:05x}"
    return OrderChanged(
        id=entry_id or made_id,
        at=change.at,
        change=change,
        remembered=None if key is None else remembered(key),
    )


def logged(entries: Iterable[AnyEntry], after: int = 0) -> list[LogRecord]:
    """The entries as they stand in a log, behind this position."""
    return [LogRecord(n, entry, len(encode_entry(entry))) for n, entry in enumerate(entries, after + 1)]


def followed(changes: Iterable[Change], after: int = 0) -> list[AppliedEntry]:
    """The changes as the followers of a log see them."""
    tail = Tail(Bounds(), ManualClock())
    return [tail.add(item) for item in logged(map(entry_of, changes), after)]


async def apply(database: Database, entries: Sequence[AnyEntry], after: int = 0) -> list[str]:
    """Bring entries to the database as write-behind does; the errors of those set aside."""
    batch = logged(entries, after)
    epoch = (await database.position()).epoch
    rejected = await database.apply(batch, Position(epoch, after), Position(epoch, after + len(batch)))
    return [item.error for item in rejected]
