"""The writing connection and the one task that owns it.

A statement of a cancelled caller can leave a transaction open. So nobody but this task touches the
connection: others hand it a job and wait for the job's outcome.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from storage.errors import DatabaseUnavailable, StorageError
from storage.sqlite.connection import open_writer

Result = TypeVar("Result")
Job = Callable[[aiosqlite.Connection], Awaitable[Result]]

QUEUE_JOBS = 64


class SqliteWriter:
    """Runs jobs one after the other, each in a transaction of its own."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._jobs: asyncio.Queue[tuple[Job[Any], asyncio.Future[Any]] | None] = asyncio.Queue(QUEUE_JOBS)
        self._connection: aiosqlite.Connection
        self._task: asyncio.Task[None]

    async def open(self) -> None:
        self._connection = await open_writer(self._path, self._busy_timeout_s)
        self._task = asyncio.create_task(self._run(), name="sqlite writer")

    async def run(self, job: Job[Result]) -> Result:
        """The job's result once it is committed. Raises DatabaseUnavailable when the database is locked,
        full or broken; what a row cannot be stored for is raised as sqlite3 says it. Either way
        nothing of the job is left."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        await self._jobs.put((job, done))
        return await done

    async def close(self) -> None:
        await self._jobs.put(None)
        await self._task
        await self._connection.close()

    async def _run(self) -> None:
        while (item := await self._jobs.get()) is not None:
            job, done = item
            try:
                result = await self._transaction(job)
            except (sqlite3.IntegrityError, sqlite3.DataError, StorageError) as error:
                _settle(done, error=error)
            except sqlite3.Error as error:
                unavailable = DatabaseUnavailable(f"The database does not accept changes: {error}.")
                unavailable.__cause__ = error
                _settle(done, error=unavailable)
            except BaseException as error:
                _settle(done, error=error)
                if not isinstance(error, Exception):
                    raise
            else:
                _settle(done, result=result)

    async def _transaction(self, job: Job[Result]) -> Result:
        await self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = await job(self._connection)
            await self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                await self._connection.execute("ROLLBACK")
            raise
        return result


def _settle(done: "asyncio.Future[Any]", *, result: Any = None, error: BaseException | None = None) -> None:
    if done.done():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
