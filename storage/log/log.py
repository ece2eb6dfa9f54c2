"""The log: every accepted change is one entry in it, and everything else follows it.

A position is (epoch, n). An epoch is one epoch of the log; n only grows within it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from storage.errors import Invalid, Upgrading
from storage.log.entries import AnyEntry, decode_entry, encode_entry


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


class Log(Protocol):
    """Durable, ordered, appended to by one caller at a time."""

    @property
    def epoch(self) -> int: ...

    @property
    def head(self) -> int:
        """Position of the newest durable entry."""
        ...

    async def append(self, entries: Sequence[AnyEntry]) -> list[LogRecord]:
        """All of them or none, durable on return, at the positions after `head`, in this order.

        Raises LogUnavailable; what became of the entries is then known only after `recover`.
        """
        ...

    async def recover(self) -> list[LogRecord]:
        """After a failed append: what did reach the log beyond `head`; moves `head`."""
        ...

    async def probe(self) -> None:
        """Writes something that changes nothing. Raises LogUnavailable."""
        ...

    async def read(self, after: int, limit: int) -> list[LogRecord]: ...

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        """The entry that answered this keyed request, while the log keeps it."""
        ...

    async def trim(self, flushed: int, keyed_before: datetime, limit: int) -> int:
        """Forget at most `limit` entries up to the flushed position; keyed ones only when older than that."""
        ...

    async def begin_epoch(self, epoch: int) -> None:
        """Start a new life: all entries are gone, positions begin again."""
        ...

    async def close(self) -> None: ...
