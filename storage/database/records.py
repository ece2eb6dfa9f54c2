"""What is loaded from the database, as records."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from storage.log.entries import LogRecord, Position
from storage.orders.actors import Role
from storage.orders.filters import Place
from storage.orders.order import Order
from storage.orders.workflow import Status


class ListSnapshot(NamedTuple):
    """The first rows of a list and the position they were read at, from one snapshot."""

    position: Position
    rows: list[Order]


class RowsSnapshot(NamedTuple):
    """The same as places and as what answers show."""

    position: Position
    rows: list[tuple[Place, bytes]]


class CountsSnapshot(NamedTuple):
    position: Position
    counts: dict[Status, int]


class StoredQuote(msgspec.Struct, frozen=True):
    id: str
    tenant: str | None
    valid_until: datetime
    body: bytes


class StoredVersion(msgspec.Struct, frozen=True):
    """A price list or a metal fix: immutable once published."""

    version: str
    starts_at: datetime
    ends_at: datetime | None
    body: bytes


class StoredToken(msgspec.Struct, frozen=True):
    id: str
    secret_hash: str
    role: Role
    name: str
    customer: str | None
    created_at: datetime


DIFFERS, ACCEPTED, REJECTED = "differs", "accepted", "rejected"
DISPUTED = (DIFFERS, REJECTED)
"""What a person has still to look at, or has found to be wrong."""
DECISIONS = (ACCEPTED, REJECTED)
"""What a person has decided of facts that differ."""


class Verification(msgspec.Struct, frozen=True):
    """What came of holding a model's facts against another program's: `state` in one word, the rest in
    `body`. The first one of the same facts stays, but for a later decision of a person."""

    state: str
    at: datetime
    body: bytes


def prevailing(held: Verification | None, other: Verification | None) -> Verification | None:
    """Of two about the same facts, of which one is held."""
    if held is None or other is None:
        return held or other
    if other.state not in DECISIONS:
        return held
    return other if held.state not in DECISIONS or other.at > held.at else held


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model's facts as they were computed, and how much it is asked for. `score`: as of `requested_at`."""

    sha256: str
    analyser: str
    byte_count: int
    facts: bytes
    first_seen_at: datetime
    score: float
    requested_at: datetime
    tenants: frozenset[str] = frozenset()
    verification: Verification | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that the database refused for good, set aside with its error."""

    id: str
    position: str
    order_id: str | None
    error: str
    at: datetime


class Epoch(NamedTuple):
    """Where the database stands. `lineage`: the first epoch after the last restoration; what an earlier
    epoch held must not come in any more."""

    position: Position
    lineage: int


class Member(NamedTuple):
    """A process that follows the log; `united` is the last epoch of which it has brought all it held, `level`
    the level of the log that it reads."""

    process: str
    united: int
    seen_ago_s: float
    level: int = 1


class Rejected(NamedTuple):
    """An entry that a batch could not apply, and why."""

    logged: LogRecord
    error: str


def parked(letters: list[tuple[DeadLetter, LogRecord]]) -> list[tuple[str, LogRecord]]:
    """What a dead letter parks, with the order and why it was refused."""
    return [(f"{letter.order_id}: {letter.error}", logged) for letter, logged in letters if letter.order_id]
