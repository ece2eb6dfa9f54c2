"""Bring a database to this release's schema: numbered Alembic migrations, each in a transaction.

Migrations only add (tables, columns with a default, indexes) and never change or drop what a release before
them uses: in a rolling upgrade the old release continues to work with the newer schema.

A database whose schema is current needs no migration: then neither Alembic nor SQLAlchemy's ORM is loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from storage.errors import Incompatible
from storage.log.entries import LEVEL

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"

CURRENT_SCHEMA = "SELECT version_num FROM alembic_version"
"""Where Alembic records it."""


class Migrated(NamedTuple):
    before: str | None
    after: str | None


def known_schemas() -> list[str]:
    """Newest first. Each migration's file is named after it."""
    files = (_MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return sorted((file.name.partition("_")[0] for file in files), reverse=True)


def migrate(connection: sa.Connection) -> Migrated:
    """Raises Incompatible for a schema of a newer release that this one cannot use."""
    from alembic import command
    from alembic.runtime.migration import MigrationContext

    before = MigrationContext.configure(connection).get_current_revision()
    newest, *_ = known = known_schemas()
    if before is not None and before not in known:
        if not _only_added(connection):
            raise Incompatible(
                f"The database has schema {before}, newer than this release knows: upgrade Facet."
            )
        connection.rollback()
        return Migrated(before, before)
    connection.rollback()
    if before != newest:
        command.upgrade(_config(connection), "head")
    return Migrated(before, newest)


def _config(connection: sa.Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _only_added(connection: sa.Connection) -> bool:
    """Whether this release can use the schema of a later one: migrations only add, so it can while nothing
    above its own level of the log is in use. A process of a rolling upgrade that dies may come back."""
    try:
        level = connection.execute(sa.text("SELECT level FROM installation")).scalar_one()
    except sa.exc.DatabaseError:  # it is from before there were levels, and of another history
        return False
    return int(level) <= LEVEL
