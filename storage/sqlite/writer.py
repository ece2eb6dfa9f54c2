"""The writing connection and the one task that owns it."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite

from storage.database.job_queue import JobQueue
from storage.errors import DatabaseUnavailable
from storage.sqlite.connection import open_writer

Result = TypeVar("Result")
Job = Callable[[aiosqlite.Connection], Awaitable[Result]]


class SqliteWriter(JobQueue[aiosqlite.Connection]):
    """Runs jobs one after the other, each in a transaction of its own."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._connection: aiosqlite.Connection

    async def open(self) -> None:
        self._connection = await open_writer(self._path, self._busy_timeout_s)
        self._start("sqlite writer")

    async def close(self) -> None:
        await super().close()
        await self._connection.close()

    async def _transaction(self, job: Job[Result]) -> Result:
        """Raises DatabaseUnavailable when the database is locked, full or broken; what a row cannot be stored
        for is raised as sqlite3 says it. Either way nothing of the job is left."""
        try:
            return await self._committed(job)
        except (sqlite3.IntegrityError, sqlite3.DataError):
            raise
        except sqlite3.Error as error:
            raise DatabaseUnavailable(f"The database does not accept changes: {error}.") from error

    async def _committed(self, job: Job[Result]) -> Result:
        await self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = await job(self._connection)
            await self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                await self._connection.execute("ROLLBACK")
            raise
        return result
