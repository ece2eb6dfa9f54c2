"""What both engines decide alike before a batch of entries becomes rows."""

from collections.abc import Iterable, Sequence

from storage.log.entries import LogRecord, OrderChanged
from storage.orders.order import Order

LATER = "a later release has written this: it can bring it to the database"
PARKED = "an earlier change of this order was set aside"


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
