"""The contract of orders: the record, its statuses, who may take which step, what a change is.

Standard library and msgspec only. Everything else in the project speaks in these nouns.

Records are trees of scalars and records: no cycle can pass through one, so the collector need not look at
the hundred thousand that a busy process holds (`gc=False`). Those that are stored refuse fields they do not
know: a later release has written them, and what is read without must not be written again
(`storage.orders.unknown_fields`).
"""

import itertools
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType


class Status(StrEnum):
    INITIATED = "INITIATED"
    FILE_UPLOADED = "FILE_UPLOADED"
    SUBMITTED = "SUBMITTED"
    PRICE_CALCULATED = "PRICE_CALCULATED"
    MANUFACTURING_APPROVED = "MANUFACTURING_APPROVED"
    MANUFACTURING_STARTED = "MANUFACTURING_STARTED"
    MANUFACTURING_COMPLETED = "MANUFACTURING_COMPLETED"
    PACKAGING = "PACKAGING"
    SHIPPED = "SHIPPED"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class Role(StrEnum):
    CUSTOMER = "customer"
    PARTNER = "partner"
    SHOP = "shop"
    SELLER = "seller"
    MES = "mes"
    OPERATOR = "operator"
    ADMIN = "admin"


class Kind(StrEnum):
    """What a change was. Kept in the history under these names."""

    CREATE = "create"
    STATUS = "status"
    TAKE = "take"
    RELEASE = "release"
    EDIT = "edit"
    COMMENT = "comment"
    UNDO = "undo"
    CORRECT = "correct"


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


class Was(Stored, frozen=True, kw_only=True, omit_defaults=True):
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


_WAS_FIELDS = Was.__struct_fields__


class Change(Stored, frozen=True, kw_only=True):
    """One accepted change: the order after it, and what the history says of it."""

    order: Order
    was: Was
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
    was: Was


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


class Actor(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """Who is asking. `customer` limits customers and partners to their own orders."""

    token_id: str
    name: str
    role: Role
    customer: str | None = None

    @property
    def tenant(self) -> str | None:
        """The customer whose orders alone are visible; None sees all."""
        return self.customer if self.role in TENANT_ROLES else None

    def sees(self, customer: str) -> bool:
        return self.role not in TENANT_ROLES or self.customer == customer


TENANT_ROLES = frozenset({Role.CUSTOMER, Role.PARTNER})
OPENING_ROLES = frozenset({Role.SHOP, Role.SELLER, Role.PARTNER, Role.ADMIN})
"""Who opens and edits orders (a partner its own)."""
PRICING_ROLES = frozenset(Role) - {Role.CUSTOMER}

LINE = tuple(status for status in Status if status is not Status.CANCELLED)
"""The way of an order that nothing befalls."""
BEFORE_APPROVAL = frozenset(LINE[: LINE.index(Status.MANUFACTURING_APPROVED)])
WITH_OPERATOR = frozenset(LINE[LINE.index(Status.MANUFACTURING_STARTED) :])
BEFORE_PRICE = frozenset(LINE[: LINE.index(Status.PRICE_CALCULATED)])
ACTIVE = tuple(status for status in LINE if status is not Status.CLOSED)
"""Statuses in which somebody still has something to do: warmed at start."""


class Step(NamedTuple):
    kind: Kind
    roles: frozenset[Role]


def _steps() -> dict[tuple[Status, Status], Step]:
    opening = OPENING_ROLES
    admin = Role.ADMIN
    who: dict[Status, frozenset[Role]] = {
        Status.FILE_UPLOADED: opening,
        Status.SUBMITTED: opening,
        Status.PRICE_CALCULATED: frozenset({Role.MES, Role.SELLER, admin}),
        Status.MANUFACTURING_APPROVED: frozenset({Role.SELLER, admin}),
        Status.MANUFACTURING_STARTED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.MANUFACTURING_COMPLETED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.PACKAGING: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.SHIPPED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.CLOSED: frozenset({Role.SELLER, admin}),
    }
    steps: dict[tuple[Status, Status], Step] = {
        (before, after): Step(Kind.STATUS, who[after]) for before, after in itertools.pairwise(LINE)
    }
    started, approved = Status.MANUFACTURING_STARTED, Status.MANUFACTURING_APPROVED
    steps[approved, started] = Step(Kind.TAKE, who[started])
    steps[started, approved] = Step(Kind.RELEASE, frozenset({Role.OPERATOR, Role.MES, Role.SELLER, admin}))
    for status in (Status.SUBMITTED, Status.PRICE_CALCULATED):
        steps[status, Status.FILE_UPLOADED] = Step(Kind.STATUS, opening)
    for status in LINE[: LINE.index(Status.SHIPPED)]:
        steps[status, Status.CANCELLED] = Step(Kind.STATUS, frozenset({Role.SHOP, Role.SELLER, admin}))
    return steps


STEPS = _steps()
"""(from, to) -> the kind of change and the roles that may make it. Everything else is illegal."""

LEGAL = {status: tuple(after for before, after in STEPS if before is status) for status in Status}
MAY_SET = {
    status: frozenset[Role]().union(*(step.roles for (_, after), step in STEPS.items() if after is status))
    for status in Status
}
"""Roles that can bring an order to a status at all."""
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
