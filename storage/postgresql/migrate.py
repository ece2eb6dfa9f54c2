"""Bring a database in PostgreSQL to this release's schema."""

from collections.abc import Awaitable, Callable

import sqlalchemy as sa

from storage.database.migrate import CURRENT_SCHEMA, Migrated, known_schemas, migrate
from storage.postgresql.connection import FAILURES, Connection, closed, connect, unavailable

_CONNECT_DEADLINE_S = 5.0
_MIGRATION_MS = "600000"
_MIGRATION_LOCK = 0x6661636574
"""Of processes that start together one migrates and the others wait for it."""


async def migrate_postgresql(url: str) -> Migrated:
    """May run while others use the database, and while others migrate it. Raises Incompatible when a newer
    release has migrated it, DatabaseUnavailable when the server or the database cannot be reached."""

    async def session() -> Connection:
        return await connect(
            url,
            _CONNECT_DEADLINE_S,
            endless=True,
            statement_timeout=_MIGRATION_MS,
            lock_timeout=_MIGRATION_MS,
            idle_in_transaction_session_timeout=_MIGRATION_MS,
        )

    newest = known_schemas()[0]
    try:
        guard = await session()
        try:
            if await _schema_of(guard) == newest:
                return Migrated(newest, newest)
            await guard.execute(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
            return await _migrate(session)
        finally:
            await closed(guard)
    except sa.exc.DBAPIError as error:
        raise unavailable(error.orig or error) from error
    except FAILURES as error:
        raise unavailable(error) from error


async def _schema_of(connection: Connection) -> str | None:
    if await connection.fetchval("SELECT to_regclass('alembic_version') IS NULL"):
        return None
    schema: str | None = await connection.fetchval(CURRENT_SCHEMA)
    return schema


async def _migrate(session: Callable[[], Awaitable[Connection]]) -> Migrated:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=sa.NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(migrate)
    finally:
        await engine.dispose()
