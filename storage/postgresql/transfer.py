"""All tables from one engine to the other, in one snapshot and one transaction.

What belongs to running processes (leases, who is there) stays behind, and so does the search index. Both
sides have this release's schema.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa

from storage.clock import from_text, to_text
from storage.database.schema import is_moment, metadata
from storage.errors import Conflict, DatabaseUnavailable, Incompatible
from storage.postgresql.connection import Connection, is_refusal, session
from storage.sqlite.migrate import migrate_sqlite

COPY_DEADLINE_S = 3_600.0
CONNECT_DEADLINE_S = 5.0
ROWS_TOGETHER = 1_000
ROWS_TOLD = 50_000
"""How often, in rows, a long table says how far it is."""
Tell = Callable[[str, int], None]
"""Called with a table and the rows that it has brought so far."""
_STAYS_BEHIND = ("leases", "processes", "search_pending", "search_index")
_SEEDED = ("log_positions", "sequences", "installation")
"""Tables that a migration puts a row into."""
_INSERTION_ORDER = ("price_lists", "metal_fixes")
"""Of what was published at the same moment the later counts."""

TABLES = [table for table in metadata.sorted_tables if table.name not in _STAYS_BEHIND]


async def copy_from_postgresql(url: str, target: Path) -> dict[str, int]:
    """The whole database as a new SQLite file; rows per table. Raises DatabaseUnavailable."""
    await asyncio.to_thread(migrate_sqlite, target)
    async with _long_session(url) as connection, _writing(target) as copy:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            counts = {table.name: await _fill_sqlite(connection, copy, table) for table in TABLES}
        await asyncio.to_thread(copy.commit)
    return counts


def tell_nobody(table: str, rows: int) -> None:
    pass


async def require_empty(url: str) -> None:
    """Raises Conflict when a migrated PostgreSQL has anything in it that a copy would meet."""
    async with _long_session(url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await _demand_empty(connection)
        finally:
            await transaction.rollback()


async def copy_into_postgresql(source: Path, url: str, tell: Tell = tell_nobody) -> dict[str, int]:
    """A SQLite file that is not in use, into an empty, migrated PostgreSQL; rows per table.

    Raises Conflict when there is anything in it already, Incompatible when a row does not fit, and
    DatabaseUnavailable. Then PostgreSQL is as it was.
    """
    counts: dict[str, int] = {}
    with contextlib.closing(_reading(source)) as origin:
        async with _long_session(url) as connection, connection.transaction():
            await _demand_empty(connection)
            for table in TABLES:
                counts[table.name] = await _fill_postgresql(origin, connection, table, tell)
            await _compare(connection, counts)
    return counts


@contextlib.asynccontextmanager
async def _long_session(url: str) -> AsyncIterator[Connection]:
    """Reading and writing the other side take time in between."""
    async with session(
        url,
        CONNECT_DEADLINE_S,
        endless=True,
        statement_timeout="0",
        idle_in_transaction_session_timeout="600000",
    ) as connection:
        yield connection


@contextlib.asynccontextmanager
async def _writing(path: Path) -> AsyncIterator[sqlite3.Connection]:
    connection = await asyncio.to_thread(sqlite3.connect, path, check_same_thread=False)
    try:
        yield connection
    except sqlite3.Error as error:
        raise DatabaseUnavailable(f"The copy cannot be written: {error}.") from error
    finally:
        await asyncio.to_thread(connection.close)


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


async def _fill_sqlite(connection: Connection, copy: sqlite3.Connection, table: sa.Table) -> int:
    names, moments = _names(table), _moments(table)
    marks = ", ".join("?" * len(table.columns))
    await asyncio.to_thread(copy.execute, f"DELETE FROM {table.name}")
    count = 0
    cursor = await connection.cursor(f"SELECT {names} FROM {table.name} {_ordering(table, 'ctid')}")
    while found := await cursor.fetch(ROWS_TOGETHER, timeout=COPY_DEADLINE_S):
        rows = [_converted(tuple(row), moments, to_text) for row in found]
        await asyncio.to_thread(
            copy.executemany, f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows
        )
        count += len(rows)
    return count


async def _fill_postgresql(
    origin: sqlite3.Connection, connection: Connection, table: sa.Table, tell: Tell
) -> int:
    count = 0

    async def records() -> AsyncIterator[tuple[Any, ...]]:
        nonlocal count
        moments = _moments(table)
        cursor = origin.execute(f"SELECT {_names(table)} FROM {table.name} {_ordering(table, 'rowid')}")
        while rows := await asyncio.to_thread(cursor.fetchmany, ROWS_TOGETHER):
            for row in rows:
                count += 1
                if count % ROWS_TOLD == 0:
                    tell(table.name, count)
                yield _converted(row, moments, from_text)

    try:
        await connection.copy_records_to_table(
            table.name,
            records=records(),
            columns=[column.name for column in table.columns],
            timeout=COPY_DEADLINE_S,
        )
    except asyncpg.PostgresError as error:
        if is_refusal(error):
            raise Incompatible(f"A row of {table.name} does not fit into PostgreSQL: {error}") from error
        raise
    tell(table.name, count)
    return count


async def _demand_empty(connection: Connection) -> None:
    """Locks out other processes, looks, and makes room for the rows that every database has one of."""
    names = ", ".join(table.name for table in TABLES)
    await connection.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    for table in TABLES:
        if table.name not in _SEEDED and await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {table.name})"
        ):
            raise Conflict(f"The database is not empty: there are rows in {table.name}.")
    if await connection.fetchval("SELECT EXISTS (SELECT FROM log_positions WHERE position > 0)"):
        raise Conflict("The database is not empty: it has read a log.")
    for name in _SEEDED:
        await connection.execute(f"DELETE FROM {name}")


async def _compare(connection: Connection, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        arrived = await connection.fetchval(f"SELECT count(*) FROM {name}")
        if arrived != count:
            raise Incompatible(f"Of {count} rows of {name}, {arrived} arrived.")


def _names(table: sa.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)


def _moments(table: sa.Table) -> list[int]:
    return [place for place, column in enumerate(table.columns) if is_moment(column)]


def _ordering(table: sa.Table, physical: str) -> str:
    return f"ORDER BY published_at, {physical}" if table.name in _INSERTION_ORDER else ""


def _converted(row: tuple[Any, ...], moments: list[int], convert: Any) -> tuple[Any, ...]:
    values = list(row)
    for place in moments:
        if values[place] is not None:
            values[place] = convert(values[place])
    return tuple(values)
