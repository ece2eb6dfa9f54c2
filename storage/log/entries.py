"""What the log holds, and where: a position is (epoch, n), and n only grows within an epoch.

One struct per kind of entry, tagged, so that a newer reader knows an older entry.

A new kind of entry, a new field of an order and a new status make a new level of the log: they are named in
KIND_LEVELS, marked `Since` in `Order`, named in STATUS_LEVELS. Nothing of a level is written while a process
is present that reads less.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, get_args

import msgspec

from storage.errors import Invalid, Upgrading
from storage.orders.actors import Role
from storage.orders.fields import Since
from storage.orders.order import Change, Order, Stored
from storage.orders.unknown_fields import EPOCH, known_part
from storage.orders.workflow import STATUS_LEVELS

FORMAT = 1
"""Version of the encoding, the first byte of each stored entry."""


class Position(msgspec.Struct, gc=False, frozen=True, order=True):
    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"


def parse_position(text: str) -> Position:
    """Raises Invalid for anything that is not `epoch-n`."""
    epoch, separator, n = text.partition("-")
    if not (separator and epoch.isascii() and n.isascii() and epoch.isdigit() and n.isdigit()):
        raise Invalid(("", "not a position of this service"))
    if len(epoch) > 18 or len(n) > 18:
        raise Invalid(("", "not a position of this service"))
    return Position(int(epoch), int(n))


class Answer(Stored, frozen=True, kw_only=True, omit_defaults=True):
    """The first answer to a keyed request. Without a body: the order as the entry leaves it."""

    status: int
    body: bytes | None = None
    location: str | None = None


class IdempotencyRecord(Stored, frozen=True, kw_only=True):
    """An Idempotency-Key with its answer. `scope` hashes token, method, path and key."""

    scope: str
    key: str
    body_hash: str
    answer: Answer


class Entry(Stored, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """One accepted change of anything. The id tells an entry from another that claims its version."""

    id: str
    at: datetime
    remembered: IdempotencyRecord | None = None


class OrderChanged(Entry, frozen=True, kw_only=True, tag="order"):
    change: Change


class QuoteIssued(Entry, frozen=True, kw_only=True, tag="quote"):
    """A promise to a customer. `body` is the quote as it was answered."""

    quote_id: str
    sha256: str
    tenant: str | None = None
    valid_until: datetime
    body: bytes


class PriceListPublished(Entry, frozen=True, kw_only=True, tag="price_list"):
    version: str
    valid_from: datetime
    valid_to: datetime | None = None
    body: bytes


class MetalFixed(Entry, frozen=True, kw_only=True, tag="metal_fix"):
    version: str
    fixed_at: datetime
    body: bytes


class TokenIssued(Entry, frozen=True, kw_only=True, tag="token"):
    """The secret itself is never stored, only its SHA-256."""

    token_id: str
    secret_hash: str
    role: Role
    name: str
    customer: str | None = None


class TokenRevoked(Entry, frozen=True, kw_only=True, tag="token_revoked"):
    token_id: str


class AnswerKept(Entry, frozen=True, kw_only=True, tag="answer"):
    """Nothing changed but that a keyed request was answered."""


class CacheKind(StrEnum):
    """What the tiers hold by key."""

    ORDER = "order"
    MODEL = "model"
    LISTS = "lists"


class Invalidated(Entry, frozen=True, kw_only=True, tag="forgotten"):
    """Every process forgets what it holds of a thing and reads it again. `repaired`: the database has taken
    the order's dead letters."""

    thing: CacheKind
    key: str = ""
    repaired: bool = False


class LaterEntry(Entry, frozen=True, kw_only=True, tag="later"):
    """An entry of a kind that this release does not know: it stands in the log, and that is all."""


AnyEntry = (
    OrderChanged
    | QuoteIssued
    | PriceListPublished
    | MetalFixed
    | TokenIssued
    | TokenRevoked
    | AnswerKept
    | Invalidated
    | LaterEntry
)

KIND_LEVELS: dict[type[Entry], int] = {}
"""Kinds of entries that came with a level above the first."""
FIELD_LEVELS = {
    field.name: since.level
    for field in msgspec.structs.fields(Order)
    for since in get_args(field.type)[1:]
    if isinstance(since, Since)
}
"""Fields of orders that did."""
LEVEL = max([1, *KIND_LEVELS.values(), *FIELD_LEVELS.values(), *STATUS_LEVELS.values()])
"""The level of the log that this release reads, and writes once all others read it."""

_FORMAT_BYTE = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)


def level_of(entry: AnyEntry) -> int:
    """Which level of the log a process must read to understand this entry."""
    level = KIND_LEVELS.get(type(entry), 1)
    if isinstance(entry, OrderChanged):
        order = entry.change.order
        set_levels = (since for name, since in FIELD_LEVELS.items() if getattr(order, name) is not None)
        level = max(level, STATUS_LEVELS.get(order.status, 1), *set_levels)
    return level


def require_level(in_force: int, entry: AnyEntry) -> None:
    """Raises Upgrading when a process is present that would not understand this entry, or when this process
    may not understand what the entry is about."""
    if in_force > LEVEL:
        raise Upgrading("This process is of an earlier release than what is in use: replace it.")
    if level_of(entry) > in_force:
        raise Upgrading("Processes of an earlier release are still running.", retry_after_s=5)


def encode_entry(entry: AnyEntry) -> bytes:
    if FIELD_LEVELS and isinstance(entry, OrderChanged):
        return _FORMAT_BYTE + _encoder.encode(_without_unset(entry))
    return _FORMAT_BYTE + _encoder.encode(entry)


def _without_unset(entry: OrderChanged) -> dict[str, Any]:
    """For processes that do not know the fields of a later level."""
    plain: dict[str, Any] = msgspec.to_builtins(entry, builtin_types=(datetime, Decimal, bytes))
    order = plain["change"]["order"]
    for name in FIELD_LEVELS:
        if order[name] is None:
            del order[name]
    return plain


def decode_entry(payload: bytes) -> tuple[AnyEntry, bool]:
    """The entry as far as this release knows it, and whether that is all of it."""
    if payload[0] == FORMAT:
        try:
            return _decoder.decode(memoryview(payload)[1:]), True
        except msgspec.ValidationError:
            return _later_entry(msgspec.msgpack.decode(memoryview(payload)[1:])), False
    return LaterEntry(id="", at=EPOCH), False


def _later_entry(data: Any) -> AnyEntry:
    try:
        entry: AnyEntry = msgspec.convert(known_part(data, AnyEntry), AnyEntry)
        return entry
    except msgspec.ValidationError:
        pass
    kept = {name: data[name] for name in ("id", "at", "remembered") if name in data}
    try:
        return msgspec.convert(known_part(kept, LaterEntry), LaterEntry)
    except msgspec.ValidationError:
        return LaterEntry(id=str(kept.get("id", "")), at=EPOCH)


class LogRecord(msgspec.Struct, gc=False, frozen=True):
    """An entry that is durable, with where it stands and how long it is."""

    n: int
    entry: AnyEntry
    byte_count: int
    body: bytes | None = None
    """The order of a change as answers show it, where it has been encoded already."""
    later: bytes | None = None
    """As a later release has written it, when this one does not know all of it."""


def logged_of(n: int, payload: bytes) -> LogRecord:
    """An entry as it was stored."""
    entry, whole = decode_entry(payload)
    return LogRecord(n, entry, len(payload), later=None if whole else payload)


def require_known(logged: LogRecord) -> LogRecord:
    """Raises Upgrading when this release does not know all of it."""
    if logged.later is not None:
        raise Upgrading("A later release has answered this request: it can repeat the answer.")
    return logged


def payload_of(logged: LogRecord) -> bytes:
    """An entry as it is stored."""
    return logged.later if logged.later is not None else encode_entry(logged.entry)
