"""Bring a database to this release's schema: numbered Alembic migrations, each in a transaction.

Migrations only add (tables, columns with a default, indexes) and never change or drop what a release before
them uses: in a rolling upgrade the old release goes on working with the newer schema.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from storage.errors import Incompatible
from storage.log.entries import LEVEL
from storage.postgresql.connection import FAILURES, Connection, closed, connect, unavailable

_MIGRATIONS = Path(__file__).parent / "migrations"
_CONNECT_DEADLINE_S = 5.0
_MIGRATION_MS = "600000"
_MIGRATION_LOCK = 0x6661636574
"""Of processes that start together one migrates and the others wait for it."""


class Migrated(NamedTuple):
    before: str | None
    after: str | None


def migrate_sqlite(path: Path) -> Migrated:
    """Runs alone, before any other connection to the file is open. Raises Incompatible when the file was
    written by a newer release."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))  # whatever is in its name
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("PRAGMA journal_mode=WAL"))
            connection.execute(sa.text("PRAGMA synchronous=FULL"))
            connection.commit()
            return _upgrade(connection)
    except sa.exc.DatabaseError as error:
        raise Incompatible(f"{path} cannot be opened: {error.orig}") from error
    finally:
        engine.dispose()


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

    try:
        guard = await session()
        try:
            await guard.execute(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
            return await _upgraded(session)
        finally:
            await closed(guard)
    except sa.exc.DBAPIError as error:
        raise unavailable(error.orig or error) from error
    except FAILURES as error:
        raise unavailable(error) from error


async def _upgraded(session: Callable[[], Awaitable[Connection]]) -> Migrated:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=sa.NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def known_schemas() -> list[str]:
    """Newest first."""
    return [revision.revision for revision in ScriptDirectory.from_config(_config()).walk_revisions()]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _upgrade(connection: sa.Connection) -> Migrated:
    config = _config()
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    before = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if before is not None and before not in known:
        if not _only_added(connection):
            raise Incompatible(
                f"The database has schema {before}, newer than this release knows: upgrade Facet."
            )
        connection.rollback()
        return Migrated(before, before)
    connection.rollback()
    if before != script.get_current_head():
        command.upgrade(config, "head")
    return Migrated(before, script.get_current_head())


def _only_added(connection: sa.Connection) -> bool:
    """Whether this release can use the schema of a later one: migrations only add, so it can while nothing
    above its own level of the log is in use. A process of a rolling upgrade that dies may come back."""
    try:
        level = connection.execute(sa.text("SELECT level FROM installation")).scalar_one()
    except sa.exc.DatabaseError:  # it is from before there were levels, and of another history
        return False
    return int(level) <= LEVEL
