"""What people do to orders, in a line each."""

import contextlib
import dataclasses
from typing import Any

from storage.errors import OrderParked
from storage.orders.actors import Actor
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order
from storage.orders.rules import StatusRequest, advance, comment, edit
from storage.orders.workflow import Status
from storage.services.idempotency import IdempotencyKey
from storage.services.orders import ChangeOutcome, ChangeRequest, Decide
from storage.services.stack import Storage
from tests.support.stacks import IVAN, MES, SELLER, SHOP


def keyed(key: str, body_hash: str = "hash") -> IdempotencyKey:
    return IdempotencyKey(scope=f"scope {key}", key=key, body_hash=body_hash)


@dataclasses.dataclass(frozen=True)
class Workshop:
    """Acts on a storage as somebody."""

    storage: Storage

    async def create(
        self, who: Actor = SHOP, key: IdempotencyKey | None = None, **fields: Any
    ) -> ChangeOutcome:
        async def draft() -> NewOrder:
            return NewOrder(**({"customer": "anna"} | fields))

        return await self.storage.orders.create(draft, ChangeRequest(actor=who, keyed=key, success=201))

    async def order(self, **fields: Any) -> Order:
        return (await self.create(**fields)).order

    async def step(self, order: Order, status: Status, who: Actor, **options: Any) -> ChangeOutcome:
        wish = StatusRequest(
            status=status, comment=options.pop("comment", None), operator=options.pop("operator", None)
        )

        async def decide(newest: Order) -> Change | None:
            return advance(newest, wish, who, self.storage.clock.now())

        return await self.change(order, decide, who, **options)

    async def take(self, order: Order, who: Actor = IVAN, **options: Any) -> ChangeOutcome:
        return await self.step(order, Status.MANUFACTURING_STARTED, who, **options)

    async def comment(
        self, order: Order, text: str = "hello", who: Actor = SHOP, **options: Any
    ) -> ChangeOutcome:
        async def decide(newest: Order) -> Change:
            return comment(newest, text, who, self.storage.clock.now())

        return await self.change(order, decide, who, **options)

    async def edit(self, order: Order, who: Actor = SHOP, **fields: Any) -> ChangeOutcome:
        async def decide(newest: Order) -> Change | None:
            return edit(newest, fields, who, self.storage.clock.now())

        return await self.storage.orders.edit(
            order.id, fields.get("reference"), decide, ChangeRequest(actor=who)
        )

    async def change(self, order: Order, decide: Decide, who: Actor, **options: Any) -> ChangeOutcome:
        return await self.storage.orders.change(order.id, decide, ChangeRequest(actor=who, **options))

    async def approved(self) -> Order:
        """An order that waits for somebody to take it."""
        order = await self.order()
        for status, who in (
            (Status.FILE_UPLOADED, SHOP),
            (Status.SUBMITTED, SHOP),
            (Status.PRICE_CALCULATED, MES),
            (Status.MANUFACTURING_APPROVED, SELLER),
        ):
            order = (await self.step(order, status, who)).order
        return order

    async def persisted(self) -> None:
        """Returns when the database has read everything that the log has."""
        with contextlib.suppress(OrderParked):
            await self.storage.write_behind.wait_for(self.storage.tail.head, 10.0)
