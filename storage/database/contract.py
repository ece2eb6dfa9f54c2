"""The contract of the database: what is loaded from it and how changes reach it.

Changes of orders reach it through write-behind, and through `recover_entries` and `replay` when something was
lost or refused. Facts of models, leases and heartbeats are written directly.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from storage.database.records import (
    CountsSnapshot,
    DeadLetter,
    Epoch,
    ListSnapshot,
    Member,
    Rejected,
    RowsSnapshot,
    StoredModel,
    StoredQuote,
    StoredToken,
    StoredVersion,
)
from storage.log.entries import AnyEntry, LogRecord, Position
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import HistoryItem, Order


class Database(Protocol):
    async def position(self) -> Position:
        """How far the database has read the log."""

    async def epoch(self) -> Epoch: ...

    async def probe(self) -> None:
        """Changes nothing. Raises DatabaseUnavailable when it does not answer, or refuses every change."""

    async def now(self) -> datetime | None:
        """By a clock that other machines share; None where there is none."""

    async def installation(self) -> str:
        """Tells this Facet's data from another's. Kept by backups."""

    async def secret(self, name: str, proposed: bytes) -> bytes:
        """A key that all processes of this installation share; the proposed one when there is none yet."""

    async def load_order(self, order_id: str) -> Order | None: ...

    async def load_history(self, order_id: str) -> list[HistoryItem]: ...

    async def load_list(self, query: ListQuery, limit: int) -> ListSnapshot: ...

    async def load_rows(self, query: ListQuery, limit: int) -> RowsSnapshot:
        """The same rows, for who only shows them: in less time."""

    async def load_counts(self, order_filter: OrderFilter) -> CountsSnapshot: ...

    async def find_reference(self, created_by: str, reference: str) -> str | None:
        """The id of the order for which this token used this reference."""

    async def load_quote(self, quote_id: str) -> StoredQuote | None: ...

    async def load_model(self, sha256: str) -> StoredModel | None: ...

    async def load_popular_models(self, limit: int, half_life_s: float) -> list[StoredModel]:
        """Those asked for most, by counts that halve in that time, the first of them first."""

    async def load_models_that_differ(self, limit: int) -> list[StoredModel]:
        """Those whose verification is one of DISPUTED, the latest first."""

    async def load_price_lists(self) -> list[StoredVersion]: ...

    async def load_metal_fixes(self) -> list[StoredVersion]: ...

    async def load_tokens(self) -> list[StoredToken]: ...

    async def load_dead_letters(self) -> list[tuple[DeadLetter, LogRecord]]: ...

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        """The batch and the new position in one transaction, guarded by the old position.

        What the database refuses for good is set aside as dead letters in the same transaction, with every
        later entry of the same order. Raises DatabaseUnavailable when nothing was done and trying again
        may help, Fenced when another process has moved the position.
        """

    async def recover_entries(
        self, batch: Sequence[LogRecord], epoch: int, *, late: bool = False
    ) -> list[Rejected]:
        """Entries of another epoch of the log, one by one: known ones are skipped by their id, what does
        not fit (a fork, or a gap before the version) becomes a dead letter. Answers to keyed requests are
        kept. The position stays.

        `late`: the next epoch of the log has begun. What does not fit is kept as a dead letter, but it
        parks no order: the order continues with what was accepted since."""

    async def rejected(self, old: Position, new: Position) -> dict[int, str]:
        """The dead letters among the entries after `old` up to `new`: position -> error."""

    async def find_answer(self, scope: str) -> tuple[Position, AnyEntry] | None:
        """The entry that answered this keyed request."""

    async def load_answered(self, within_s: float, after: str, limit: int) -> list[str]:
        """Scopes of the keyed requests answered lately, in their order, after this one."""

    async def prune_answers(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` answers given before that moment."""

    async def tend_search(self, limit: int) -> int:
        """Bring the search index nearer to the orders, by so many changes and older orders each at most, in
        one transaction. Returns how many it were; 0 when all is done."""

    async def fold_texts(self, limit: int) -> int:
        """Store anew the texts of so many orders at most that an earlier release has stored in its form.
        Returns how many it were; 0 when there are no more."""

    async def replay(self, order_id: str) -> None:
        """Apply the dead letters of one order, in order, and forget them. Raises Conflict with the
        database's words when one is still refused; then nothing is changed."""

    async def store_models(self, models: Sequence[StoredModel], half_life_s: float) -> None:
        """Tenants join those that are known. Scores are added to what the database has by now: other
        processes count as well."""

    async def lease_numbers(self, count: int) -> range: ...

    async def begin_epoch(self, old: int, new: int) -> None:
        """From one epoch of the log to the next, position 0. Raises Fenced when the database is no longer in
        the old one."""

    async def hold_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease by the database's own clock; False while another holder's is valid."""

    async def give_lease(self, name: str, holder: str) -> None:
        """Let go of a lease, if this holder has it."""

    async def heartbeat(self, process: str, united: int, level: int = 1) -> None:
        """This process is alive, and reads this level of the log."""

    async def raise_level(self, within_s: float, least: int = 0) -> int:
        """The level of the log that is in force: as high as every process seen lately can read, at least as
        high as it ever was, and as `least`."""

    async def members(self, within_s: float) -> list[Member]:
        """Processes seen lately; older records are forgotten."""

    async def leave(self, process: str) -> None: ...

    async def backup(self, target: Path) -> None: ...

    async def close(self) -> None: ...
