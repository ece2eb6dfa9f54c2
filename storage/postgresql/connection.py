"""Opening connections, the readers' pool, and what a failure of the server is called."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from storage.errors import DatabaseUnavailable
from storage.postgresql import framing

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

framing.install()

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    OverflowError,
    UnicodeEncodeError,
)
"""What a call to the server ends with; the last two when a value cannot even be sent. A connection that
breaks, or carries an invalid message, may end it with anything else: see `unavailable`."""

_REFUSED_CLASSES = ("22", "23", "44", "54", "P0")
IDLE_IN_TRANSACTION_MS = 2_000
"""When the server ends a transaction whose owner has stopped, so that it does not block others."""
LOCK_WAIT_MS = 1_000


def is_refusal(error: BaseException) -> bool:
    """Whether the server will never take this row: a constraint, a value that does not fit, a trigger's veto.
    Everything else may be different the next time."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "22")[:2] in _REFUSED_CLASSES
    return isinstance(error, UnicodeEncodeError | OverflowError | StatementRefused)


class StatementRefused(Exception):
    """Something that the database will never take; nothing of the transaction is left."""


def refusal(error: BaseException) -> str:
    """Why, in words that can be stored."""
    return str(error).replace("\0", "\\0")[:1_000]


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """The same in one line, of whatever is raised by a call on a connection: what drivers and event loops
    raise of one that is lost is theirs to choose (uvloop: RuntimeError)."""
    if isinstance(error, DatabaseUnavailable):
        return error
    words = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, TimeoutError):
        words = ["it did not answer in time"]
    failure = DatabaseUnavailable(f"PostgreSQL is not available: {words[0].rstrip('.')}.")
    failure.__cause__ = error
    if not isinstance(error, (*FAILURES, StatementRefused, RuntimeError)):
        failure.unforeseen = error
    return failure


async def connect(url: str, deadline_s: float, *, endless: bool = False, **settings: str) -> Connection:
    """A session that waits for nothing for long unless told otherwise. Raises one of FAILURES."""
    return await asyncpg.connect(
        url,
        timeout=deadline_s,
        command_timeout=None if endless else deadline_s,
        server_settings={
            "application_name": "facet",
            "TimeZone": "UTC",
            "synchronous_commit": "on",
            "default_transaction_isolation": "read committed",
            "statement_timeout": str(int(deadline_s * 1000)),
            "lock_timeout": str(LOCK_WAIT_MS),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
            **settings,
        },
    )


class PostgresReaders:
    """Connections for single statements, each a transaction of its own. Opened as they are needed; one whose
    statement did not end as it should is closed, not used again."""

    def __init__(self, url: str, count: int, deadline_s: float) -> None:
        self._url = url
        self._deadline_s = deadline_s
        self._places = asyncio.Semaphore(count)
        self._idle: list[Connection] = []

    async def open(self) -> None:
        await self.fetch("SELECT 1")

    async def fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """All rows of one statement. Raises DatabaseUnavailable, past the deadline at the latest."""
        try:
            return await self._fetch(sql, parameters)
        except Exception as error:
            raise unavailable(error) from error

    async def find(self, sql: str, *parameters: Any) -> list[Any]:
        """The same for values that callers give: one that no column can hold is not found."""
        try:
            return await self._fetch(sql, parameters)
        except Exception as error:
            if is_refusal(error):
                return []
            raise unavailable(error) from error

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await closed(connection)

    async def _fetch(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        async with asyncio.timeout(self._deadline_s), self._places:
            connection = self._pop() or await connect(self._url, self._deadline_s)
            try:
                rows = await connection.fetch(sql, *parameters)
            except Exception as error:
                if is_refusal(error):
                    self._idle.append(connection)
                else:
                    self._drop(connection)
                raise
            except BaseException:
                terminate(connection)
                raise
            self._idle.append(connection)
            return list(rows)

    def _pop(self) -> Connection | None:
        """One that is open: a server that restarts closes them all."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    def _drop(self, connection: Connection) -> None:
        """What befell one has most likely befallen all: the next statement opens a new one."""
        idle, self._idle = self._idle, []
        for each in (connection, *idle):
            terminate(each)


def terminate(connection: Connection) -> None:
    """At once; one that is over already may say so in any way."""
    with contextlib.suppress(Exception):
        connection.terminate()


async def closed(connection: Connection) -> None:
    """Politely, if the server answers."""
    try:
        await connection.close(timeout=1.0)
    except Exception:
        terminate(connection)


@contextlib.asynccontextmanager
async def session(
    url: str, deadline_s: float, *, endless: bool = False, **settings: str
) -> AsyncIterator[Connection]:
    """A connection for one long piece of work. Raises DatabaseUnavailable when the server fails in it."""
    try:
        connection = await connect(url, deadline_s, endless=endless, **settings)
    except Exception as error:
        raise unavailable(error) from error
    try:
        yield connection
    except FAILURES as error:
        terminate(connection)
        raise unavailable(error) from error
    except BaseException:
        terminate(connection)
        raise
    await closed(connection)
