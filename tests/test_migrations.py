"""Migrations bring a database to the schema that the code names, once, and refuse what is newer."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from storage.errors import Incompatible
from storage.migrate import migrate_sqlite
from storage.schema import FIRST_ORDER_NUMBER, ORDER_NUMBERS, ORDERS_POSITION, metadata
from tests.gates import execute


def test_a_new_database_gets_exactly_the_tables_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_every_index_of_the_schema_is_there_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    for table in metadata.sorted_tables:
        for index in table.indexes:
            columns = [row[2] for row in execute(path, f"PRAGMA index_info({index.name})")]
            assert columns == [column.name for column in index.columns]


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "facet.db"
    first = migrate_sqlite(path)
    execute(path, "UPDATE log_positions SET position = 9")
    second = migrate_sqlite(path)
    assert first.before is None
    assert second.before == second.after == first.after
    assert execute(path, "SELECT name, epoch, position FROM log_positions") == [(ORDERS_POSITION, 1, 9)]


def test_numbers_begin_at_the_first(tmp_path: Path) -> None:
    migrate_sqlite(tmp_path / "facet.db")
    found = execute(tmp_path / "facet.db", "SELECT name, next FROM sequences")
    assert found == [(ORDER_NUMBERS, FIRST_ORDER_NUMBER)]


def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Incompatible, match="9999"):
        migrate_sqlite(path)
    assert execute(path, "SELECT version_num FROM alembic_version") == [("9999",)]
