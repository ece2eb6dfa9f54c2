"""What both engines decide alike before a batch of entries becomes rows."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

from msgspec import UNSET

from storage.log.entries import LogRecord, OrderChanged
from storage.orders.order import Order
from storage.orders.workflow import Kind

LATER = "a later release has written this: it can bring it to the database"
PARKED = "an earlier change of this order was set aside"


class Reach(IntEnum):
    """How much of an order a change can have changed."""

    MOVED = 0
    """The status alone: most changes."""
    STEPPED = 1
    """Anything but what an edit changes."""
    EDITED = 2


def reach_of(logged: LogRecord) -> Reach:
    """Of a change of an order that was there before."""
    assert isinstance(logged.entry, OrderChanged)
    change = logged.entry.change
    if change.kind is Kind.EDIT:
        return Reach.EDITED
    was = change.was
    return Reach.MOVED if was.operator is was.quote is was.price is UNSET else Reach.STEPPED


def widest_reach(changed: Iterable[tuple[LogRecord, Order]]) -> dict[str, Reach]:
    """Of all changes of each order."""
    widest: dict[str, Reach] = {}
    for logged, order in changed:
        reach = reach_of(logged)
        if reach > widest.get(order.id, -1):
            widest[order.id] = reach
    return widest


def changes_of(batch: Iterable[LogRecord]) -> list[tuple[LogRecord, Order]]:
    """The changes of orders, each with the order as it leaves it."""
    return [(logged, logged.entry.change.order) for logged in batch if isinstance(logged.entry, OrderChanged)]


def expected_versions(batch: Sequence[LogRecord]) -> dict[str, int] | None:
    """Which version each order must have before the batch (0: it does not exist); None when the batch itself
    skips or repeats a version, or has something that a later release has written."""
    before: dict[str, int] = {}
    latest: dict[str, int] = {}
    if any(logged.later is not None for logged in batch):
        return None
    for _, order in changes_of(batch):
        if order.id not in latest:
            before[order.id] = order.version - 1
        elif order.version != latest[order.id] + 1:
            return None
        latest[order.id] = order.version
    return before


def misfit(order: Order, entry_id: str, known: str | None, stored: int) -> str | None:
    """Why a change cannot be applied to an order that is stored at this version (0: it is not). `known`: the
    entry that the history has at the version of the change."""
    if known is not None and known != entry_id:
        return f"fork: version {order.version} is entry {known} in the database"
    if order.version != stored + 1:
        return f"gap: version {order.version} follows {stored}"
    return None
