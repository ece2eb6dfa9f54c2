"""The log in a file: every accepted change is one entry in it, and everything else follows it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from storage.log.entries import AnyEntry, LogRecord, Position


class Log(Protocol):
    """Durable, ordered, appended to by one caller at a time."""

    @property
    def epoch(self) -> int: ...

    @property
    def head(self) -> int:
        """Position of the newest durable entry."""

    async def append(self, entries: Sequence[AnyEntry]) -> list[LogRecord]:
        """All of them or none, durable on return, at the positions after `head`, in this order.

        Raises LogUnavailable; what became of the entries is then known only after `recover`.
        """

    async def recover(self) -> list[LogRecord]:
        """After a failed append: what did reach the log beyond `head`; moves `head`."""

    async def probe(self) -> None:
        """Writes something that changes nothing. Raises LogUnavailable."""

    async def read(self, after: int, limit: int) -> list[LogRecord]: ...

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        """The entry that answered this keyed request, while the log keeps it."""

    async def scopes(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Positions and scopes of so many answers that the log keeps, behind this position, in order."""

    async def trim(self, flushed: int, keyed_before: datetime, limit: int) -> int:
        """Forget at most `limit` entries up to the flushed position; keyed ones only when older than that."""

    async def begin_epoch(self, epoch: int) -> None:
        """Start a new epoch: all entries are gone, positions begin again."""

    async def close(self) -> None: ...
