"""Migrations bring a database to the schema that the code names, once, and refuse what is newer."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from storage.database.migrate import known_schemas
from storage.database.schema import FIRST_ORDER_NUMBER, ORDER_NUMBERS, ORDERS_POSITION, metadata
from storage.errors import DatabaseUnavailable, Incompatible
from storage.log.entries import LEVEL
from storage.postgresql.migrate import migrate_postgresql
from storage.sqlite.migrate import migrate_sqlite
from tests.support import engines
from tests.support.commands import facet
from tests.support.gates import execute


def _context(connection: sa.Connection) -> MigrationContext:
    """Without what each engine has in its own way: the search index, and orders without a date."""

    def is_compared(thing: object, name: str | None, *_: object) -> bool:
        return not (name or "").startswith(("order_texts", "orders_without_due"))

    return MigrationContext.configure(connection, opts={"include_object": is_compared})


def test_a_new_database_gets_exactly_the_tables_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(_context(connection), metadata) == []
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


def test_a_database_of_a_newer_release_is_left_as_it_is(tmp_path: Path) -> None:
    """It is used while the newer release has written nothing that this one does not read, else refused."""
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    assert migrate_sqlite(path) == ("9999", "9999")
    execute(path, f"UPDATE installation SET level = {LEVEL + 1}")
    with pytest.raises(Incompatible, match="9999"):
        migrate_sqlite(path)
    assert execute(path, "SELECT version_num FROM alembic_version") == [("9999",)]


# PostgreSQL


async def test_postgresql_gets_exactly_the_tables_of_the_schema(fresh_database: str) -> None:
    await migrate_postgresql(fresh_database)
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(fresh_database)
    )

    def differences(connection: sa.Connection) -> object:
        return compare_metadata(_context(connection), metadata)

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_types_and_collations_are_those_that_the_schema_would_create(fresh_database: str) -> None:
    """A comparison of names and kinds would not notice a collation."""
    columns = (
        "SELECT table_name, column_name, data_type, character_maximum_length, collation_name, is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'public'"
        " AND table_name NOT IN ('alembic_version', 'order_texts')"
        " ORDER BY table_name, column_name"
    )
    await migrate_postgresql(fresh_database)
    migrated = engines.query(fresh_database, columns)
    engines.execute(fresh_database, "DROP SCHEMA public CASCADE")
    engines.execute(fresh_database, "CREATE SCHEMA public")
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(fresh_database)
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    assert migrated == engines.query(fresh_database, columns)
    found = {(row[0], row[1]): (row[2], row[4]) for row in migrated}
    assert found["orders", "id"] == ("character varying", "C")
    assert found["orders", "created_at"] == ("timestamp with time zone", None)


async def test_every_index_of_the_schema_is_there_in_postgresql(fresh_database: str) -> None:
    await migrate_postgresql(fresh_database)
    found = {
        row[0]: row[1]
        for row in engines.query(
            fresh_database, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        )
    }
    for table in metadata.sorted_tables:
        for index in table.indexes:
            columns = ", ".join(column.name for column in index.columns)
            assert f"({columns})" in found[str(index.name)].replace('"', "")


async def test_of_processes_that_start_together_one_migrates(fresh_database: str) -> None:
    done = await asyncio.gather(*(migrate_postgresql(fresh_database) for _ in range(4)))
    assert sorted(str(each.before) for each in done).count("None") == 1
    assert len({each.after for each in done}) == 1
    assert len(engines.query(fresh_database, "SELECT id FROM installation")) == 1


async def test_a_postgresql_of_a_newer_release_is_left_as_it_is(fresh_database: str) -> None:
    await migrate_postgresql(fresh_database)
    engines.execute(fresh_database, "UPDATE alembic_version SET version_num = '9999'")
    assert await migrate_postgresql(fresh_database) == ("9999", "9999")
    engines.execute(fresh_database, f"UPDATE installation SET level = {LEVEL + 1}")
    with pytest.raises(Incompatible, match="9999"):
        await migrate_postgresql(fresh_database)
    assert engines.query(fresh_database, "SELECT version_num FROM alembic_version")[0][0] == "9999"


async def test_an_unknown_database_is_said_in_one_line(fresh_database: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not exist") as caught:
        await migrate_postgresql(f"{fresh_database}x")
    assert "\n" not in caught.value.detail


def test_the_command_migrates_the_database_that_is_set(fresh_database: str, tmp_path: Path) -> None:
    settings, newest = {"FACET_DATABASE_URL": fresh_database}, known_schemas()[0]
    for said in (f"schema none -> {newest}", f"schema {newest}"):
        done = facet("migrate", "--data-dir", str(tmp_path / "data"), **settings)
        assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
    assert engines.query(fresh_database, "SELECT version_num FROM alembic_version") == [(newest,)]
    assert not (tmp_path / "data").exists()
    nowhere = facet("migrate", FACET_DATABASE_URL="postgresql://facet@127.0.0.1:1/facet")
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
