"""The database in a SQLite file keeps the contract of databases, and what is its own."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from storage.database.contract import Database
from storage.errors import DatabaseUnavailable
from storage.log.entries import Position
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.migrate import migrate_sqlite
from tests.contracts.database import DatabaseContract, Opened, life
from tests.support.changes import an_order, apply, created, entry_of, id_of
from tests.support.gates import cure, execute, locked, poison


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("template") / "facet.db"
    migrate_sqlite(path)
    return path.read_bytes()


class TestSqliteDatabase(DatabaseContract):
    @pytest.fixture
    def opened(self, template: bytes, tmp_path: Path) -> Opened:
        self.path = tmp_path / "facet.db"

        @asynccontextmanager
        async def opened(*, keeps_answers: bool = False) -> AsyncIterator[Database]:
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self.path.write_bytes(template)
            execute(self.path, f"UPDATE installation SET id = '{uuid.uuid4()}'")
            database = SqliteDatabase(self.path, 0.05, 2, 5.0, keeps_answers=keeps_answers)
            await database.open()
            try:
                yield database
            finally:
                await database.close()

        return opened

    def poison(self, order_id: str, when: str = "TRUE") -> None:
        poison(self.path, order_id, when)

    def cure(self) -> None:
        cure(self.path)

    def execute_sql(self, sql: str) -> None:
        execute(self.path, sql)

    async def test_a_locked_file_takes_nothing_and_all_of_it_when_it_is_free(
        self, database: Database
    ) -> None:
        entries = [entry_of(change) for change in life()]
        with locked(self.path):
            with pytest.raises(DatabaseUnavailable):
                await apply(database, entries)
            assert await database.position() == Position(1, 0)
        assert await apply(database, entries) == []
        assert await database.load_order(id_of(1)) == life()[-1].order

    async def test_a_number_that_sqlite_cannot_hold_harms_its_own_order_alone(
        self, database: Database
    ) -> None:
        huge = entry_of(created(an_order(1, quantity=2**63)))
        assert len(await apply(database, [huge, entry_of(life(2)[0])])) == 1
        assert await database.load_order(id_of(2)) is not None

    async def test_the_search_text_is_stored_as_memory_sees_it(self, database: Database) -> None:
        await apply(database, [entry_of(created(an_order(1, note="Ёлка")))])
        assert "ёлка" in execute(self.path, "SELECT search FROM orders")[0][0]

    async def test_a_read_past_its_deadline_says_that_the_database_does_not_answer(
        self, opened: Opened
    ) -> None:
        async with opened():
            hurried = SqliteDatabase(self.path, 0.05, 1, 0.0)
            await hurried.open()
            with pytest.raises(DatabaseUnavailable):
                await hurried.load_order(id_of(1))
            await hurried.close()
