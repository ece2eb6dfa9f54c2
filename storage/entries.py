"""What the log holds. One struct per kind of entry, tagged, so that a newer reader knows an older entry."""

from datetime import datetime
from enum import StrEnum

import msgspec

from storage.orders import Change, Role

FORMAT = 1
"""Version of the encoding, the first byte of each stored entry."""


class Answer(msgspec.Struct, gc=False, frozen=True, kw_only=True, omit_defaults=True):
    """The first answer to a keyed request. Without a body: the order as the entry leaves it."""

    status: int
    body: bytes | None = None
    location: str | None = None


class Remembered(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """An Idempotency-Key with its answer. `scope` hashes token, method, path and key."""

    scope: str
    key: str
    body_hash: str
    answer: Answer


class Entry(msgspec.Struct, gc=False, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """One accepted change of anything. The id tells an entry from another that claims its version."""

    id: str
    at: datetime
    remembered: Remembered | None = None


class OrderChanged(Entry, gc=False, frozen=True, kw_only=True, tag="order", omit_defaults=True):
    change: Change


class QuoteIssued(Entry, gc=False, frozen=True, kw_only=True, tag="quote", omit_defaults=True):
    """A promise to a customer. `body` is the quote as it was answered."""

    quote_id: str
    sha256: str
    tenant: str | None = None
    valid_until: datetime
    body: bytes


class PriceListPublished(Entry, gc=False, frozen=True, kw_only=True, tag="price_list", omit_defaults=True):
    version: str
    valid_from: datetime
    valid_to: datetime | None = None
    body: bytes


class MetalFixed(Entry, gc=False, frozen=True, kw_only=True, tag="metal_fix", omit_defaults=True):
    version: str
    fixed_at: datetime
    body: bytes


class TokenIssued(Entry, gc=False, frozen=True, kw_only=True, tag="token", omit_defaults=True):
    """The secret itself is never stored, only its SHA-256."""

    token_id: str
    secret_hash: str
    role: Role
    name: str
    customer: str | None = None


class TokenRevoked(Entry, gc=False, frozen=True, kw_only=True, tag="token_revoked", omit_defaults=True):
    token_id: str


class AnswerKept(Entry, gc=False, frozen=True, kw_only=True, tag="answer", omit_defaults=True):
    """Nothing changed but that a keyed request was answered."""


class Thing(StrEnum):
    """What the tiers hold by key."""

    ORDER = "order"
    MODEL = "model"
    LISTS = "lists"


class Forgotten(Entry, gc=False, frozen=True, kw_only=True, tag="forgotten", omit_defaults=True):
    """Every process forgets what it holds of a thing and reads it again. `repaired`: the database has taken
    the order's dead letters."""

    thing: Thing
    key: str = ""
    repaired: bool = False


AnyEntry = (
    OrderChanged
    | QuoteIssued
    | PriceListPublished
    | MetalFixed
    | TokenIssued
    | TokenRevoked
    | AnswerKept
    | Forgotten
)

_FORMAT_BYTE = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyEntry] = msgspec.msgpack.Decoder(AnyEntry)


def encode_entry(entry: AnyEntry) -> bytes:
    return _FORMAT_BYTE + _encoder.encode(entry)


def decode_entry(payload: bytes) -> AnyEntry:
    """Raises ValueError for a format this release does not know."""
    if payload[0] != FORMAT:
        raise ValueError(f"log entry of format {payload[0]}, this release reads {FORMAT}")
    return _decoder.decode(memoryview(payload)[1:])
