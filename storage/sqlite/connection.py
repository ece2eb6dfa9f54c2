"""Opening connections, and a small pool of readers."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from storage.errors import DatabaseUnavailable
from storage.sqlite.models import add_functions

Parameters = Iterable[Any] | Mapping[str, Any]


async def open_writer(path: Path, busy_timeout_s: float) -> aiosqlite.Connection:
    """The one writing connection. WAL with FULL: a commit survives power loss."""
    connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=512)
    for pragma in (
        f"busy_timeout={int(busy_timeout_s * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "journal_size_limit=67108864",
        "temp_store=MEMORY",
    ):
        await connection.execute(f"PRAGMA {pragma}")
    return connection


async def open_reader(path: Path) -> aiosqlite.Connection:
    """Read-only: never checkpoints, never holds the writer up."""
    connection = await aiosqlite.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, cached_statements=256
    )
    await connection.execute("PRAGMA query_only=ON")
    await connection.execute("PRAGMA cache_size=-16000")
    await add_functions(connection)
    return connection


class SqliteReaders:
    """A fixed number of read-only connections. Each statement sees one snapshot of the database."""

    def __init__(self, path: Path, count: int, deadline_s: float) -> None:
        self._path = path
        self._count = count
        self._deadline_s = deadline_s
        self._all: list[aiosqlite.Connection] = []
        self._free: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue(count)

    async def open(self) -> None:
        for _ in range(self._count):
            connection = await open_reader(self._path)
            self._all.append(connection)
            self._free.put_nowait(connection)

    async def fetch(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        """All rows of one statement. Raises DatabaseUnavailable past the deadline."""
        try:
            async with asyncio.timeout(self._deadline_s), self._borrowed() as connection:
                return list(await connection.execute_fetchall(sql, parameters))
        except TimeoutError:
            raise DatabaseUnavailable(f"The database did not answer within {self._deadline_s:g} s.") from None
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailable(f"The database does not answer: {error}.") from error

    async def backup(self, target: Path) -> None:
        """A consistent copy, taken from one snapshot."""
        async with self._borrowed() as connection, aiosqlite.connect(target) as copy:
            await connection.backup(copy)

    async def close(self) -> None:
        for connection in self._all:
            await connection.close()

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[aiosqlite.Connection]:
        connection = await self._free.get()
        try:
            yield connection
        finally:
            # A cancelled statement still runs in the connection's thread; the next one queues behind it.
            self._free.put_nowait(connection)
