"""The contract of orders: the record, its statuses, who may take which step, what a change is.

Standard library and msgspec only. Everything else in the project speaks in these nouns.

Records are trees of scalars and records: no cycle can pass through one, so the collector need not look at
the hundred thousand that a busy process holds (`gc=False`). Those that are stored refuse fields they do not
know: a later release has written them, and what is read without must not be written again
(`storage.orders.unknown_fields`).
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from storage.orders.workflow import Kind, Status


class Stored(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """A record that is stored."""


class Money(Stored, frozen=True):
    amount: Decimal
    currency: str


class PriceSource(StrEnum):
    QUOTE = "quote"
    COMPUTED = "computed"
    PERSON = "person"


class OrderPrice(Stored, frozen=True, kw_only=True):
    """What an order costs and where the figure comes from."""

    source: PriceSource
    net: Money
    vat: Money
    gross: Money
    quote: str | None = None
    reason: str | None = None


class Order(Stored, frozen=True, kw_only=True):
    """One order at one version. `status_version` is the version of its last status change."""

    id: str
    number: int
    version: int
    status: Status
    status_since: datetime
    status_version: int
    customer: str
    operator: str | None = None
    model: str | None = None
    units: str | None = None
    material: str | None = None
    finish: str | None = None
    plating: str | None = None
    quantity: int = 1
    quote: str | None = None
    price: OrderPrice | None = None
    note: str | None = None
    reference: str | None = None
    due_at: datetime | None = None
    created_at: datetime
    created_by: str
    updated_at: datetime


class OrderStatus(msgspec.Struct, gc=False, frozen=True):
    """What customers poll. `version` is that of the last status change: a note does not wake pollers."""

    id: str
    number: int
    status: Status
    status_since: datetime
    version: int


class Previous(Stored, frozen=True, kw_only=True, omit_defaults=True):
    """The values that a change replaced: only the fields it touched are set."""

    status: Status | UnsetType = UNSET
    status_since: datetime | UnsetType = UNSET
    status_version: int | UnsetType = UNSET
    operator: str | None | UnsetType = UNSET
    model: str | None | UnsetType = UNSET
    units: str | None | UnsetType = UNSET
    material: str | None | UnsetType = UNSET
    finish: str | None | UnsetType = UNSET
    plating: str | None | UnsetType = UNSET
    quantity: int | UnsetType = UNSET
    quote: str | None | UnsetType = UNSET
    price: OrderPrice | None | UnsetType = UNSET
    note: str | None | UnsetType = UNSET
    reference: str | None | UnsetType = UNSET
    due_at: datetime | None | UnsetType = UNSET
    updated_at: datetime | UnsetType = UNSET

    def set_fields(self) -> dict[str, Any]:
        return {name: value for name in _WAS_FIELDS if (value := getattr(self, name)) is not UNSET}


_WAS_FIELDS = Previous.__struct_fields__


class Change(Stored, frozen=True, kw_only=True):
    """One accepted change: the order after it, and what the history says of it."""

    order: Order
    was: Previous
    kind: Kind
    from_status: Status | None
    to_status: Status
    actor: str
    at: datetime
    comment: str | None = None

    def before(self) -> Order | None:
        """The order as it was; None when this change created it."""
        if self.kind is Kind.CREATE:
            return None
        return msgspec.structs.replace(self.order, version=self.order.version - 1, **self.was.set_fields())


class HistoryItem(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """One row of an order's history. `kind`: as it is stored, when a later release has more of them."""

    version: int
    kind: str
    from_status: Status | None = msgspec.field(name="from")
    to_status: Status = msgspec.field(name="to")
    actor: str
    at: datetime
    comment: str | None
    was: Previous


def history_item(change: Change) -> HistoryItem:
    return HistoryItem(
        version=change.order.version,
        kind=change.kind,
        from_status=change.from_status,
        to_status=change.to_status,
        actor=change.actor,
        at=change.at,
        comment=change.comment,
        was=change.was,
    )


PRICE_FIELDS = frozenset({"model", "units", "material", "finish", "plating", "quantity", "quote"})
"""What the price depends on: an edit of one of them drops the price."""

NOTE_CHARS = 2_000

COMMENT_CHARS = 2_000

NAME_CHARS = 200

REFERENCE_CHARS = 200

QUANTITY_MAX = 10_000

_encode = msgspec.json.Encoder().encode

_decode = msgspec.json.Decoder(Order).decode


def encode_order(order: Order) -> bytes:
    """The order as every answer shows it."""
    return _encode(order)


def decode_order(body: bytes) -> Order:
    """Raises msgspec.ValidationError for what a later release has written."""
    return _decode(body)


def encode_status(order: Order) -> bytes:
    return _encode(
        OrderStatus(order.id, order.number, order.status, order.status_since, order.status_version)
    )
