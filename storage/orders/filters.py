"""Which orders a list shows and in which order: one meaning, for memory here and for SQL in the databases."""

import base64
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from storage.clock import from_micros, from_text, to_micros, to_text
from storage.errors import Invalid
from storage.ids import is_id
from storage.orders.order import Order
from storage.orders.search import finds
from storage.orders.workflow import Status

LIMIT_MAX = 200


class SortField(StrEnum):
    CREATED_AT = "created_at"
    DUE_AT = "due_at"
    UPDATED_AT = "updated_at"


class Sort(NamedTuple):
    field: SortField
    descending: bool


NEWEST_FIRST = Sort(SortField.CREATED_AT, True)

NO_OPERATOR = ""
"""In a filter: orders that are not taken (a name is never empty)."""


class OrderFilter(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """All given conditions hold. Times: `from` is included, `to` is not. `q` is folded text,
    see `storage.orders.search`."""

    statuses: frozenset[Status] = frozenset()
    operator: str | None = None
    customer: str | None = None
    number: int | None = None
    reference: str | None = None
    q: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    due_from: datetime | None = None
    due_to: datetime | None = None

    def matches(self, order: Order) -> bool:
        if self.statuses and order.status not in self.statuses:
            return False
        if self.customer is not None and order.customer != self.customer:
            return False
        if self.operator is not None and (order.operator or NO_OPERATOR) != self.operator:
            return False
        return self._matches_rare(order)

    def _matches_rare(self, order: Order) -> bool:
        return (
            (self.number is None or order.number == self.number)
            and (self.reference is None or order.reference == self.reference)
            and (self.q is None or finds(self.q, order))
            and _within(order.created_at, self.created_from, self.created_to)
            and _within(order.due_at, self.due_from, self.due_to)
        )


ALL = OrderFilter()


class Place(NamedTuple):
    """Where an order stands in a sorted list; comparable. Orders without a due date come last."""

    micros: int
    id: str


FIRST_MICROS, LAST_MICROS = -(2**62), 2**62
"""What stands for a missing date in a descending and in an ascending list: last in both."""


def place_of(order: Order, sort: Sort) -> Place:
    return place_at(getattr(order, sort.field), order.id, sort)


def place_at(moment: datetime | None, order_id: str, sort: Sort) -> Place:
    if moment is None:
        return Place(FIRST_MICROS if sort.descending else LAST_MICROS, order_id)
    return Place(to_micros(moment), order_id)


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page. `until`: when the walk began, for lists by `updated_at`.

    A row changed during an ascending walk would move behind it and come again: rows changed after
    `until` are left out of the walk.
    """

    sort: str
    moment: str | None
    id: str
    until: str | None = None


def sort_text(sort: Sort) -> str:
    return f"-{sort.field.value}" if sort.descending else sort.field.value


def parse_sort(text: str) -> Sort:
    """Raises Invalid."""
    try:
        return Sort(SortField(text.removeprefix("-")), text.startswith("-"))
    except ValueError:
        choices = ", ".join(field.value for field in SortField)
        raise Invalid(("/sort", f"one of {choices}, with - in front for descending")) from None


def encode_cursor(cursor: Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def decode_cursor(text: str, sort: Sort) -> Cursor:
    """Raises Invalid for anything that `encode_cursor` did not make for a list sorted like this."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        cursor = msgspec.json.decode(raw, type=Cursor)
        for moment in (cursor.moment, cursor.until):
            if moment is not None and to_text(from_text(moment)) != moment:
                raise ValueError(moment)
    except (ValueError, msgspec.MsgspecError, OverflowError):
        raise Invalid(("/cursor", "not a cursor of this service")) from None
    if cursor.until is not None and sort.field is not SortField.UPDATED_AT:
        raise Invalid(("/cursor", "not a cursor of this service"))
    if not is_id(cursor.id) or cursor.sort != sort_text(sort):
        raise Invalid(("/cursor", "not a cursor of this service"))
    return cursor


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """A list from some row on: what a maintained view is kept for."""

    filter: OrderFilter = ALL
    sort: Sort = NEWEST_FIRST
    after: Cursor | None = None

    @property
    def anchor(self) -> Place | None:
        """The place that all rows lie behind."""
        if self.after is None:
            return None
        if self.after.moment is None:
            micros = FIRST_MICROS if self.sort.descending else LAST_MICROS
        else:
            micros = to_micros(from_text(self.after.moment))
        return Place(micros, self.after.id)

    @property
    def until(self) -> datetime | None:
        if self.after is None or self.after.until is None:
            return None
        return from_text(self.after.until)

    def cursor_at(self, place: Place, now: datetime) -> Cursor:
        """Where the page behind this place begins."""
        missing = place.micros in (FIRST_MICROS, LAST_MICROS)
        until = None
        if self.sort.field is SortField.UPDATED_AT:
            until = to_text(now) if self.after is None or self.after.until is None else self.after.until
        return Cursor(
            sort_text(self.sort), None if missing else to_text(from_micros(place.micros)), place.id, until
        )

    def covers(self, order: Order) -> bool:
        """Whether the order stands in this list."""
        if not self.filter.matches(order):
            return False
        if self.after is None:
            return True
        until, anchor = self.until, self.anchor
        if until is not None and order.updated_at > until:
            return False
        place = place_of(order, self.sort)
        return anchor is None or (place < anchor if self.sort.descending else place > anchor)


def _within(moment: datetime | None, start: datetime | None, end: datetime | None) -> bool:
    if start is None and end is None:
        return True
    if moment is None:
        return False
    return (start is None or moment >= start) and (end is None or moment < end)


def oldest_first(status: Status) -> ListQuery:
    """Orders of a status, the one untouched for longest first."""
    return ListQuery(filter=OrderFilter(statuses=frozenset({status})), sort=Sort(SortField.UPDATED_AT, False))
