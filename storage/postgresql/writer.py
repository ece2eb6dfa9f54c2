"""The connection that batches of the log go through, and the one task that owns it.

After any failure that is not the server's plain refusal the
connection is dropped and the next job opens another: what it left is rolled back by the server.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from storage.database.job_queue import JobQueue
from storage.errors import StorageError
from storage.postgresql.connection import (
    Connection,
    StatementRefused,
    closed,
    connect,
    is_refusal,
    refusal,
    terminate,
    unavailable,
)

Result = TypeVar("Result")
Job = Callable[[Connection], Awaitable[Result]]


class PostgresWriter(JobQueue[Connection]):
    """Runs jobs one after the other, each in a transaction of its own. `deadline_s` is for each statement."""

    def __init__(self, url: str, deadline_s: float) -> None:
        super().__init__()
        self._url = url
        self._deadline_s = deadline_s
        self._connection: Connection | None = None

    def open(self) -> None:
        self._start("postgresql writer")

    async def close(self) -> None:
        await super().close()
        if self._connection is not None:
            await closed(self._connection)

    async def _transaction(self, job: Job[Result]) -> Result:
        """Raises StatementRefused, or DatabaseUnavailable: then the job has most likely left nothing, but a
        COMMIT whose answer was lost may have happened. BEGIN and COMMIT by hand: the driver's own block would
        wait without a deadline for a server that has stopped."""
        try:
            connection = await self._connected()
            await connection.execute("BEGIN")
            result = await self._outcome(connection, job)
            await connection.execute("COMMIT")
        except (StorageError, StatementRefused):
            raise
        except Exception as error:
            self._drop()
            raise unavailable(error) from error
        except BaseException:
            self._drop()
            raise
        return result

    async def _outcome(self, connection: Connection, job: Job[Result]) -> Result:
        """What the server or the job plainly refuses is rolled back; the connection stays good."""
        try:
            return await job(connection)
        except (StorageError, StatementRefused):
            await connection.execute("ROLLBACK")
            raise
        except Exception as error:
            if not is_refusal(error):
                raise
            await connection.execute("ROLLBACK")
            raise StatementRefused(refusal(error)) from error

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            # Every row of a batch is looked up by its key, whatever the planner thinks of a table that it has
            # no statistics of: a batch never reads all orders.
            connection = await connect(
                self._url, self._deadline_s, enable_hashjoin="off", enable_mergejoin="off"
            )
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            terminate(connection)
