"""The database in PostgreSQL. Implements `storage.database.contract.Database`."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as dialects

from storage.database.batches import expected_versions
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
from storage.postgresql import search
from storage.postgresql.apply import (
    COPIED_ROWS_MIN,
    any_parked,
    apply_one_by_one,
    apply_together,
    hold_position,
    move_position,
    recover_batch,
    store_answers,
)
from storage.postgresql.connection import Connection, PostgresReaders, StatementRefused
from storage.postgresql.rows import (
    ROWS,
    STORE_MODELS,
    STORE_TENANTS,
    columns_of,
)
from storage.postgresql.transfer import copy_from_postgresql
from storage.postgresql.writer import PostgresWriter

CONNECTIONS_MIN = 4
WRITE_DEADLINE_S = 5.0
"""How long one statement of a batch may take."""

_DIALECT = dialects.dialect()  # type: ignore[no-untyped-call]
_CHANGE_NOTHING = "UPDATE log_positions SET position = position WHERE FALSE"
"""Refused by a server that only reads: a standby, or one that was told so."""
WORDS = Words(
    inserted="ctid",
    tenants="coalesce(array_agg(tenant), '{}')",
    most_popular=(  # as `storage.memory.popularity.rank`
        "ln(greatest(requests_score, 1e-300)) / ln(2::float8)"
        " + extract(epoch FROM requested_at)::float8 / $1::float8"
    ),
    candidates=(
        "SELECT number FROM order_texts WHERE search_tokens(tokens) @> string_to_array(:tokens, ' ')"
    ),
    read_tenants=frozenset,
)
# After a rebase onto an older copy there can be orders beyond what the copy has leased.
_LEASE_NUMBERS = (
    "UPDATE sequences SET next = greatest(next, (SELECT coalesce(max(number), 0) + 1 FROM orders)) + $1"
    " WHERE name = $2 RETURNING next"
)
_AGO = "clock_timestamp() - make_interval(secs => $1)"
_HOLD_LEASE = (
    "INSERT INTO leases (name, holder, expires_at)"
    " VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at"
    " WHERE leases.holder = excluded.holder OR leases.expires_at <= clock_timestamp() RETURNING holder"
)
_KEEP_SECRET = "INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
_ATTEND = (
    "INSERT INTO processes (id, united, level, seen_at) VALUES ($1, $2, $3, clock_timestamp())"
    " ON CONFLICT (id) DO UPDATE"
    " SET united = excluded.united, level = excluded.level, seen_at = excluded.seen_at"
)
_LEVEL = (
    "SELECT greatest(level, $2, coalesce((SELECT min(level) FROM processes"
    f" WHERE seen_at >= {_AGO}), 0)), level FROM installation"
)
_RAISE_LEVEL = "UPDATE installation SET level = $1 WHERE level < $1"
_ATTENDANCE = (
    f"WITH forgotten AS (DELETE FROM processes WHERE seen_at < {_AGO})"
    " SELECT id, united, greatest(0, extract(epoch FROM clock_timestamp() - seen_at))::float8, level"
    f" FROM processes WHERE seen_at >= {_AGO} ORDER BY id"
)
_PRUNE_ANSWERS = (
    "WITH gone AS (DELETE FROM answers WHERE scope IN"
    " (SELECT scope FROM answers WHERE at < $1 ORDER BY at LIMIT $2) RETURNING scope)"
    " SELECT count(*) FROM gone"
)


class PostgresDatabase(Reads):
    """`keeps_answers`: whether answers to keyed requests are kept here, for a log that does not.
    `copied_rows_min`: from how many changes on a batch comes by COPY."""

    def __init__(
        self,
        url: str,
        reader_connections: int,
        read_deadline_s: float,
        write_deadline_s: float = WRITE_DEADLINE_S,
        *,
        keeps_answers: bool,
        copied_rows_min: int = COPIED_ROWS_MIN,
    ) -> None:
        super().__init__(ROWS, WORDS)
        self._copied_rows_min = copied_rows_min
        self._url = url
        self._keeps_answers = keeps_answers
        self._readers = PostgresReaders(url, max(CONNECTIONS_MIN, reader_connections), read_deadline_s)
        self._writer = PostgresWriter(url, write_deadline_s)

    async def open(self) -> None:
        """Raises DatabaseUnavailable when the server cannot be reached."""
        await self._readers.open()
        self._writer.open()

    async def close(self) -> None:
        await self._writer.close()
        await self._readers.close()

    async def probe(self) -> None:
        await self.epoch()
        await self._readers.fetch(_CHANGE_NOTHING)

    async def now(self) -> datetime | None:
        rows = await self._readers.fetch("SELECT clock_timestamp()")
        moment: datetime = rows[0][0]
        return moment

    async def secret(self, name: str, proposed: bytes) -> bytes:
        while not (rows := await self._readers.fetch("SELECT value FROM secrets WHERE name = $1", name)):
            await self._readers.fetch(_KEEP_SECRET, name, proposed)
        return bytes(rows[0][0])

    async def apply(self, batch: Sequence[LogRecord], old: Position, new: Position) -> list[Rejected]:
        async def together(connection: Connection) -> list[Rejected]:
            await self._move(connection, batch, old, new)
            before = expected_versions(batch)
            if before is None or await any_parked(connection, before):
                return await apply_one_by_one(connection, batch, old.epoch)
            await apply_together(connection, batch, before, old.epoch, self._copied_rows_min)
            return []

        async def one_by_one(connection: Connection) -> list[Rejected]:
            await self._move(connection, batch, old, new)
            return await apply_one_by_one(connection, batch, old.epoch)

        try:
            return await self._writer.run(together)
        except StatementRefused:
            return await self._writer.run(one_by_one)

    async def recover_entries(
        self, batch: Sequence[LogRecord], epoch: int, *, late: bool = False
    ) -> list[Rejected]:
        async def job(connection: Connection) -> list[Rejected]:
            await hold_position(connection)
            await store_answers(connection, batch, epoch, replaced=False)
            rejected = await recover_batch(connection, batch, epoch)
            if late and rejected:
                letters = [item.logged.entry.id for item in rejected]
                await connection.execute(
                    "UPDATE dead_letters SET order_id = NULL WHERE id = ANY ($1::text[])", letters
                )
            return rejected

        return await self._writer.run(job)

    async def load_answered(self, within_s: float, after: str, limit: int) -> list[str]:
        rows = await self._readers.fetch(
            "SELECT scope FROM answers WHERE at >= now() - make_interval(secs => $1) AND scope > $2"
            " ORDER BY scope LIMIT $3",
            within_s,
            after,
            limit,
        )
        return [row[0] for row in rows]

    async def prune_answers(self, before: datetime, limit: int) -> int:
        return int((await self._readers.fetch(_PRUNE_ANSWERS, before, limit))[0][0])

    async def tend_search(self, limit: int) -> int:
        async def job(connection: Connection) -> int:
            await hold_position(connection)
            return await search.tend(connection, limit)

        return await self._writer.run(job)

    async def fold_texts(self, limit: int) -> int:
        async def job(connection: Connection) -> int:
            await hold_position(connection)
            return await search.fold(connection, limit)

        return await self._writer.run(job)

    async def replay(self, order_id: str) -> None:
        async def job(connection: Connection) -> None:
            await hold_position(connection)
            # All of them first: one that stays behind would keep the order parked for the others.
            rows = await connection.fetch(
                "DELETE FROM dead_letters WHERE order_id = $1"
                " RETURNING id, epoch, position, order_id, error, payload, at",
                order_id,
            )
            for row in sorted(rows, key=lambda row: (row[1], row[2])):
                _, logged = ROWS.dead_letter_of(row)
                if rejected := await apply_one_by_one(connection, [logged], row[1]):
                    raise Conflict(f"The database still refuses it: {rejected[0].error}")

        await self._writer.run(job)

    async def store_models(self, models: Sequence[StoredModel], half_life_s: float) -> None:
        # In one order, so that two processes never wait for each other.
        latest = sorted({model.sha256: model for model in models}.values(), key=lambda model: model.sha256)
        tenants = sorted({(model.sha256, tenant) for model in models for tenant in model.tenants})

        async def job(connection: Connection) -> None:
            if latest:
                columns = columns_of([ROWS.model_row(item) for item in latest])
                await connection.execute(STORE_MODELS, *columns, half_life_s)
            if tenants:
                await connection.execute(STORE_TENANTS, *columns_of(tenants))

        await self._writer.run(job)

    async def lease_numbers(self, count: int) -> range:
        [[following]] = await self._readers.fetch(_LEASE_NUMBERS, count, ORDER_NUMBERS)
        return range(following - count, following)

    async def begin_epoch(self, old: int, new: int) -> None:
        async def job(connection: Connection) -> None:
            moved = await connection.fetch(
                "UPDATE log_positions SET epoch = $1, position = 0 WHERE name = $2 AND epoch = $3"
                " RETURNING epoch",
                new,
                ORDERS_POSITION,
                old,
            )
            if not moved:
                raise Fenced(f"The database is no longer in epoch {old}.")

        await self._writer.run(job)

    async def hold_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        return bool(await self._readers.fetch(_HOLD_LEASE, name, holder, ttl_s))

    async def give_lease(self, name: str, holder: str) -> None:
        await self._readers.fetch("DELETE FROM leases WHERE name = $1 AND holder = $2", name, holder)

    async def heartbeat(self, process: str, united: int, level: int = 1) -> None:
        await self._readers.fetch(_ATTEND, process, united, level)

    async def raise_level(self, within_s: float, least: int = 0) -> int:
        [[in_force, recorded]] = await self._readers.fetch(_LEVEL, within_s, least)
        if in_force > recorded:  # seldom: most of the time this only reads
            await self._readers.fetch(_RAISE_LEVEL, in_force)
        return int(in_force)

    async def members(self, within_s: float) -> list[Member]:
        return [Member(*row) for row in await self._readers.fetch(_ATTENDANCE, within_s)]

    async def leave(self, process: str) -> None:
        await self._readers.fetch("DELETE FROM processes WHERE id = $1", process)

    async def backup(self, target: Path) -> None:
        """A SQLite file of the same schema: a copy is the same, whichever engine it comes from."""
        await copy_from_postgresql(self._url, target)

    async def _move(
        self, connection: Connection, batch: Sequence[LogRecord], old: Position, new: Position
    ) -> None:
        await move_position(connection, old, new)
        if self._keeps_answers:
            await store_answers(connection, batch, old.epoch, replaced=True)

    async def _fetch(self, sql: str, *parameters: Any) -> list[Any]:
        return await self._readers.fetch(sql, *parameters)

    async def _find(self, sql: str, *parameters: Any) -> list[Any]:
        return await self._readers.find(sql, *parameters)

    async def _select(self, statement: sa.Select[Any], values: Values) -> list[Any]:
        sql, names, own = _compiled(statement)
        parameters = own | values
        return await self._readers.find(sql, *(parameters[name] for name in names))


@lru_cache(2 * SHAPES_MAX)
def _compiled(statement: sa.Select[Any]) -> tuple[str, tuple[str, ...], Values]:
    """Its SQL, the names of its values in their order, and those values that it has itself."""
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params)
