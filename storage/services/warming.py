"""What is loaded before readiness turns green, so that the first callers miss nothing."""

import msgspec

from storage.bounds import Bounds
from storage.orders.filters import ALL, ListQuery, OrderFilter, oldest_first
from storage.orders.workflow import ACTIVE, Status
from storage.services.stack import Storage


class Warmed(msgspec.Struct, frozen=True, kw_only=True):
    orders: int
    lists: int
    models: int


async def warm(storage: Storage) -> Warmed:
    """Load what the first requests will ask for: the newest orders, the lists of every status, the
    counts, the most popular models."""
    bounds: Bounds = storage.bounds
    orders = await storage.reads.warm_orders(bounds.warm_orders)
    for status in Status:
        await storage.reads.views.bodies(ListQuery(filter=OrderFilter(statuses=frozenset({status}))), 1)
    for status in ACTIVE:
        await storage.reads.views.bodies(oldest_first(status), 1)
    await storage.reads.counts(ALL)
    models = await storage.models.warm(bounds.warm_models)
    return Warmed(orders=orders, lists=1 + len(Status) + len(ACTIVE), models=models)
