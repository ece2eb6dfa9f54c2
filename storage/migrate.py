"""Bring a database to this release's schema: numbered Alembic migrations, each in a transaction."""

from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.errors import Incompatible

_MIGRATIONS = Path(__file__).parent / "migrations"


class Migrated(NamedTuple):
    before: str | None
    after: str | None


def migrate_sqlite(path: Path) -> Migrated:
    """Runs alone, before any other connection to the file is open. Raises Incompatible when the file was
    written by a newer release."""
    engine = sa.create_engine(f"sqlite:///{path}")
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


def _upgrade(connection: sa.Connection) -> Migrated:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    before = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if before is not None and before not in known:
        raise Incompatible(f"The database has schema {before}, newer than this release knows: upgrade Facet.")
    connection.rollback()
    if before != script.get_current_head():
        command.upgrade(config, "head")
    return Migrated(before, script.get_current_head())
