"""Bring a database in a SQLite file to this release's schema."""

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from storage.database.migrate import CURRENT_SCHEMA, Migrated, known_schemas, migrate
from storage.errors import Incompatible


def migrate_sqlite(path: Path) -> Migrated:
    """Runs alone, before any other connection to the file is open. Raises Incompatible when the file was
    written by a newer release."""
    newest = known_schemas()[0]
    if _schema_of(path) == newest:
        return Migrated(newest, newest)
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))  # whatever is in its name
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("PRAGMA journal_mode=WAL"))
            connection.execute(sa.text("PRAGMA synchronous=FULL"))
            connection.commit()
            return migrate(connection)
    except sa.exc.DatabaseError as error:
        raise Incompatible(f"{path} cannot be opened: {error.orig}") from error
    finally:
        engine.dispose()


def _schema_of(path: Path) -> str | None:
    """None also for what is no database yet, or none at all: the migration says what is wrong with it."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            row = connection.execute(CURRENT_SCHEMA).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else str(row[0])
