"""What the log holds. One struct per kind of entry, tagged, so that a newer reader knows an older entry.

A new kind, or a new field of a kind or of an order, makes a new level of the log: raise LEVEL and name it in
`level_of`. Nothing of a level is written while a process is present that reads less.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from storage.errors import Upgrading
from storage.orders.actors import Role
from storage.orders.order import Change, Stored
from storage.orders.unknown_fields import EPOCH, known_part

FORMAT = 1
"""Version of the encoding, the first byte of each stored entry."""


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

LEVEL = 1
"""The level of the log that this release reads, and writes once all others read it."""
KIND_LEVELS: dict[type[Entry], int] = {}
"""Kinds of entries that came with a level above the first."""

_FORMAT_BYTE = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)


def level_of(entry: AnyEntry) -> int:
    """Which level of the log a process must read to understand this entry."""
    return KIND_LEVELS.get(type(entry), 1)


def require_level(in_force: int, entry: AnyEntry) -> None:
    """Raises Upgrading when a process is present that would not understand this entry, or when this process
    may not understand what the entry is about."""
    if in_force > LEVEL:
        raise Upgrading("This process is of an earlier release than what is in use: replace it.")
    if level_of(entry) > in_force:
        raise Upgrading("Processes of an earlier release are still running.", retry_after_s=5)


def encode_entry(entry: AnyEntry) -> bytes:
    return _FORMAT_BYTE + _encoder.encode(entry)


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
