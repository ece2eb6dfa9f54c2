"""The database in a SQLite file. Implements `storage.database.contract.Database`."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite as dialects

from storage.clock import to_text
from storage.database.queries import SHAPES_MAX, Values
from storage.database.reads import Reads, Words
from storage.database.records import (
    Member,
    Rejected,
    StoredModel,
)
from storage.database.schema import ORDER_NUMBERS, ORDERS_POSITION
from storage.errors import Conflict, Fenced
from storage.log.entries import LogRecord, Position
from storage.sqlite import leases, search
from storage.sqlite.apply import (
    REFUSED,
    apply_one_by_one,
    apply_together,
    flows,
    move_position,
    store_answers,
)
from storage.sqlite.connection import SqliteReaders
from storage.sqlite.models import RANK, store_models
from storage.sqlite.rows import KEEP_ANSWER, REPLACE_ANSWER, ROWS
from storage.sqlite.writer import SqliteWriter

_DIALECT = dialects.dialect(paramstyle="named")
_WORDS = Words(
    inserted="rowid",
    tenants="json_group_array(tenant)",
    most_popular=RANK,
    candidates="SELECT rowid AS number FROM order_texts WHERE order_texts MATCH :tokens",
    read_tenants=lambda text: frozenset(json.loads(text)),
)
_PLACEHOLDER = re.compile(r"\$\d+")

# After a rebase onto an older copy there can be orders beyond what the copy has leased.
_LEASE_NUMBERS = (
    "UPDATE sequences SET next = max(next, (SELECT coalesce(max(number), 0) + 1 FROM orders)) + ?"
    " WHERE name = ? RETURNING next"
)


class SqliteDatabase(Reads):
    def __init__(
        self,
        path: Path,
        busy_timeout_s: float,
        reader_connections: int,
        read_deadline_s: float,
        *,
        keeps_answers: bool = False,
    ) -> None:
        """`keeps_answers`: whether answers to keyed requests are kept here, for a log that does not."""
        super().__init__(ROWS, _WORDS)
        self._keeps_answers = keeps_answers
        self._writer = SqliteWriter(path, busy_timeout_s)
        self._readers = SqliteReaders(path, reader_connections, read_deadline_s)

    async def open(self) -> None:
        await self._writer.open()
        await self._readers.open()

    async def close(self) -> None:
        """Readers first: the last connection to close checkpoints, and only the writer may."""
        await self._readers.close()
        await self._writer.close()

    async def probe(self) -> None:
        await self.epoch()

    async def now(self) -> datetime | None:
        return None

    async def secret(self, name: str, proposed: bytes) -> bytes:
        while not (rows := await self._fetch("SELECT value FROM secrets WHERE name = $1", name)):
            await self._writer.run(partial(leases.keep_secret, name=name, proposed=proposed))
        return bytes(rows[0][0])

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        async def together(connection: aiosqlite.Connection) -> list[Rejected]:
            await move_position(connection, old, new)
            await self._keep_answers(connection, batch, old.epoch)
            if not await flows(connection, batch):
                return await apply_one_by_one(connection, batch, old.epoch)
            await apply_together(connection, batch, old.epoch)
            return []

        async def one_by_one(connection: aiosqlite.Connection) -> list[Rejected]:
            await move_position(connection, old, new)
            await self._keep_answers(connection, batch, old.epoch)
            return await apply_one_by_one(connection, batch, old.epoch)

        try:
            return await self._writer.run(together)
        except REFUSED:
            return await self._writer.run(one_by_one)

    async def recover_entries(
        self, batch: Sequence[LogRecord], epoch: int, *, late: bool = False
    ) -> list[Rejected]:
        async def job(connection: aiosqlite.Connection) -> list[Rejected]:
            await store_answers(connection, KEEP_ANSWER, batch, epoch)
            rejected = await apply_one_by_one(connection, batch, epoch)
            if late:
                letters = [(item.logged.entry.id,) for item in rejected]
                await connection.executemany("UPDATE dead_letters SET order_id = NULL WHERE id = ?", letters)
            return rejected

        return await self._writer.run(job)

    async def load_answered(self, within_s: float, after: str, limit: int) -> list[str]:
        since = to_text(datetime.now(UTC) - timedelta(seconds=within_s))
        rows = await self._fetch(
            "SELECT scope FROM answers WHERE at >= $1 AND scope > $2 ORDER BY scope LIMIT $3",
            since,
            after,
            limit,
        )
        return [row[0] for row in rows]

    async def prune_answers(self, before: datetime, limit: int) -> int:
        return await self._writer.run(partial(leases.prune_answers, before=before, limit=limit))

    async def tend_search(self, limit: int) -> int:
        return await self._writer.run(partial(search.tend, limit=limit))

    async def fold_texts(self, limit: int) -> int:
        return await self._writer.run(partial(search.fold, limit=limit))

    async def replay(self, order_id: str) -> None:
        letters = [
            (letter, logged)
            for letter, logged in await self.load_dead_letters()
            if letter.order_id == order_id
        ]

        async def job(connection: aiosqlite.Connection) -> None:
            # All of them first: one that stays behind would keep the order parked for the others.
            await connection.executemany(
                "DELETE FROM dead_letters WHERE id = ?", [(letter.id,) for letter, _ in letters]
            )
            for letter, logged in letters:
                epoch = int(letter.position.partition("-")[0])
                if rejected := await apply_one_by_one(connection, [logged], epoch):
                    raise Conflict(f"The database still refuses it: {rejected[0].error}")

        await self._writer.run(job)

    async def store_models(self, models: Sequence[StoredModel], half_life_s: float) -> None:
        await self._writer.run(partial(store_models, models=models, half_life_s=half_life_s))

    async def lease_numbers(self, count: int) -> range:
        async def job(connection: aiosqlite.Connection) -> range:
            rows = await connection.execute_fetchall(_LEASE_NUMBERS, (count, ORDER_NUMBERS))
            following = next(iter(rows))[0]
            return range(following - count, following)

        return await self._writer.run(job)

    async def begin_epoch(self, old: int, new: int) -> None:
        async def job(connection: aiosqlite.Connection) -> None:
            cursor = await connection.execute(
                "UPDATE log_positions SET epoch = ?, position = 0 WHERE name = ? AND epoch = ?",
                (new, ORDERS_POSITION, old),
            )
            if cursor.rowcount != 1:
                raise Fenced(f"The database is no longer in epoch {old}.")

        await self._writer.run(job)

    async def hold_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        return await self._writer.run(partial(leases.hold_lease, name=name, holder=holder, ttl_s=ttl_s))

    async def give_lease(self, name: str, holder: str) -> None:
        await self._writer.run(partial(leases.give_lease, name=name, holder=holder))

    async def heartbeat(self, process: str, united: int, level: int = 1) -> None:
        await self._writer.run(partial(leases.heartbeat, process=process, united=united, level=level))

    async def raise_level(self, within_s: float, least: int = 0) -> int:
        return await self._writer.run(partial(leases.raise_level, within_s=within_s, least=least))

    async def members(self, within_s: float) -> list[Member]:
        return await self._writer.run(partial(leases.members, within_s=within_s))

    async def leave(self, process: str) -> None:
        await self._writer.run(partial(leases.leave, process=process))

    async def backup(self, target: Path) -> None:
        await self._readers.backup(target)

    async def _keep_answers(
        self, connection: aiosqlite.Connection, batch: Sequence[LogRecord], epoch: int
    ) -> None:
        if self._keeps_answers:
            await store_answers(connection, REPLACE_ANSWER, batch, epoch)

    async def _fetch(self, sql: str, *parameters: Any) -> list[Any]:
        return await self._readers.fetch(_translate(sql), parameters)

    async def _select(self, statement: sa.Select[Any], values: Values) -> list[Any]:
        sql, own = _compiled(statement)
        parameters = {
            name: to_text(value) if isinstance(value, datetime) else value
            for name, value in (own | values).items()
        }
        return await self._readers.fetch(sql, parameters)


@lru_cache(2 * SHAPES_MAX)
def _compiled(statement: sa.Select[Any]) -> tuple[str, Values]:
    """Its SQL, and the values of its names, where it has some itself."""
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), dict(compiled.params)


@cache
def _translate(sql: str) -> str:
    """A statement with SQLite's own placeholders. There is a fixed number of statements."""
    return _PLACEHOLDER.sub("?", sql)
