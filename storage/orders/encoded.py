"""An order encoded once, as every answer shows it."""

import msgspec

from storage.orders.order import Order, encode_order, encode_status


class EncodedOrder(msgspec.Struct, frozen=True, gc=False):
    """An order as answers show it. `at_s`: monotonic seconds when it came here."""

    id: str
    customer: str
    version: int
    status_version: int
    body: bytes
    status_body: bytes
    at_s: float


def encoded_order(order: Order, at_s: float, body: bytes | None = None) -> EncodedOrder:
    """`body`: the order as it is encoded, if it has been already."""
    return EncodedOrder(
        order.id,
        order.customer,
        order.version,
        order.status_version,
        encode_order(order) if body is None else body,
        encode_status(order),
        at_s,
    )
