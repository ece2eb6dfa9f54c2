"""The records of orders: an order, a change of it, an item of its history. Statuses and steps: `workflow`.

Standard library and msgspec only.

Records are trees of scalars and records: no cycle can pass through one, so the collector need not look at
the hundred thousand that a busy process holds (`gc=False`). Those that are stored refuse fields they do not
know: a later release has written them, and what is read without must not be written again
(`storage.orders.unknown_fields`).
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from storage.orders.fields import Code, Given, Moment, Name, Note, Quantity, QuoteId, Reference, Sha256
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
    """One order at one version. `status_version` is the version of its last status change.

    All that has the fields of an order is made from these: what a change replaced, the bodies that open and
    edit an order, and its row.
    """

    id: str
    number: int
    version: int
    status: Status
    status_since: datetime
    status_version: int
    customer: Annotated[str, Given(Name, edited=False)]
    operator: str | None = None
    model: Annotated[str | None, Given(Sha256, cleared=False)] = None
    units: Annotated[str | None, Given(Code)] = None
    material: Annotated[str | None, Given(Code)] = None
    finish: Annotated[str | None, Given(Code)] = None
    plating: Annotated[str | None, Given(Code)] = None
    quantity: Annotated[int, Given(Quantity, cleared=False)] = 1
    quote: Annotated[str | None, Given(QuoteId)] = None
    price: OrderPrice | None = None
    note: Annotated[str | None, Given(Note)] = None
    reference: Annotated[str | None, Given(Reference)] = None
    due_at: Annotated[datetime | None, Given(Moment)] = None
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


FIXED = frozenset({"id", "number", "version", "customer", "created_at", "created_by"})
"""What no change replaces."""

if TYPE_CHECKING:

    class Previous(Stored, frozen=True):
        """The values that a change replaced: only the fields it touched are set, others are UNSET."""

        def __init__(self, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    Previous = msgspec.defstruct(
        "Was",  # as the document of the API calls it
        [
            (field.name, field.type | UnsetType, UNSET)
            for field in msgspec.structs.fields(Order)
            if field.name not in FIXED
        ],
        bases=(Stored,),
        module=__name__,
        namespace={"__doc__": "The values that a change replaced: only the fields it touched are set."},
        frozen=True,
        kw_only=True,
        omit_defaults=True,
        gc=False,
    )


def set_fields(record: msgspec.Struct) -> dict[str, Any]:
    """The fields of a record that are not UNSET."""
    values = ((name, getattr(record, name)) for name in record.__struct_fields__)
    return {name: value for name, value in values if value is not UNSET}


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
        return msgspec.structs.replace(self.order, version=self.order.version - 1, **set_fields(self.was))


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
