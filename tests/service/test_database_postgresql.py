"""PostgreSQL keeps the contract of the database."""

import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from storage.database.contract import Database
from storage.database.schema import FIRST_ORDER_NUMBER, metadata
from storage.log.entries import Position
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.workflow import Kind, Status
from storage.postgresql.database import WORDS, PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from tests.contracts.database import DatabaseContract, Opened, life
from tests.support.changes import an_order, apply, changed, created, entry_of, id_of
from tests.support.engines import execute, query

READ_DEADLINE_S = 5.0
SEEDED = ("log_positions", "sequences", "installation", "search_index")


@pytest.fixture
async def template(postgres_url: str) -> str:
    """The name of a migrated database: making a copy is much quicker than migrating."""
    name = "facet_template"
    if not query(postgres_url, f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
        execute(postgres_url, f"CREATE DATABASE {name}")
        await migrate_postgresql(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")))
    return name


@pytest.fixture
def copies(postgres_url: str, template: str) -> Iterator[list[str]]:
    made: list[str] = []
    yield made
    for name in made:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


def empty(url: str) -> None:
    """As it was made: much quicker than making another."""
    names = [table.name for table in metadata.sorted_tables if table.name not in SEEDED]
    execute(url, f"TRUNCATE order_texts, {', '.join(names)}")
    execute(url, "UPDATE search_index SET built = 0, until = 0")
    execute(url, "UPDATE log_positions SET epoch = 1, position = 0, lineage = 1")
    execute(url, f"UPDATE sequences SET next = {FIRST_ORDER_NUMBER}")


class TestPostgresDatabase(DatabaseContract):
    COPIED_ROWS_MIN = 1_000
    url: str

    @pytest.fixture
    def opened(self, postgres_url: str, template: str, copies: list[str]) -> Opened:
        @asynccontextmanager
        async def opened(*, keeps_answers: bool = True) -> AsyncIterator[Database]:
            if copies:
                empty(self.url)
            else:
                copies.append(f"facet_{uuid.uuid4().hex}")
                execute(postgres_url, f"CREATE DATABASE {copies[0]} TEMPLATE {template}")
                self.url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{copies[0]}"))
            execute(self.url, f"UPDATE installation SET id = '{uuid.uuid4()}'")
            database = PostgresDatabase(
                self.url,
                4,
                READ_DEADLINE_S,
                keeps_answers=keeps_answers,
                copied_rows_min=self.COPIED_ROWS_MIN,
            )
            await database.open()
            try:
                yield database
            finally:
                await database.close()

        return opened

    def poison(self, order_id: str, when: str = "TRUE") -> None:
        execute(
            self.url,
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poisoned'; END $$",
        )
        execute(
            self.url,
            "CREATE TRIGGER poison BEFORE INSERT ON order_history FOR EACH ROW"
            f" WHEN (NEW.order_id = '{order_id}' AND {when}) EXECUTE FUNCTION poison()",
        )

    def execute_sql(self, sql: str) -> None:
        execute(self.url, sql)

    def cure(self) -> None:
        execute(self.url, "DROP TRIGGER poison ON order_history")

    async def test_the_planner_uses_the_index_for_a_text_that_many_have(self, database: Database) -> None:
        execute(
            self.url,
            "INSERT INTO order_texts SELECT n, CASE WHEN n % 10 = 0 THEN 'abc ' ELSE '' END || 'def ' || n"
            " FROM generate_series(1, 3000) AS n",
        )
        execute(self.url, "ANALYZE order_texts")
        planned = query(self.url, "EXPLAIN " + WORDS.candidates.replace(":tokens", "'abc'"))
        assert "order_texts_by_token" in str(planned)

    @pytest.mark.parametrize(
        "fields", [{"note": "a\0b"}, {"quantity": 2**63}, {"customer": "x" * 201}, {"reference": "\0"}]
    )
    async def test_a_value_that_postgresql_cannot_hold_harms_its_own_order_alone(
        self, database: Database, fields: dict[str, object]
    ) -> None:
        wrong = entry_of(created(an_order(1, **fields)), key="k")
        assert len(await apply(database, [wrong, entry_of(life(2)[0])])) == 1
        assert await database.load_order(id_of(2)) is not None
        assert [item.entry for _, item in await database.load_dead_letters()] == [wrong]
        assert await database.find_answer("scope k") == (Position(1, 1), wrong)

    async def test_looking_for_what_postgresql_cannot_hold_finds_nothing(self, database: Database) -> None:
        await apply(database, [entry_of(life()[0])])
        for nowhere in (OrderFilter(q="\0"), OrderFilter(number=2**70), OrderFilter(customer="a\0")):
            assert await database.load_list(ListQuery(filter=nowhere), 10) == (Position(1, 1), [])
            assert await database.load_counts(nowhere) == (Position(1, 1), {})
        assert await database.find_reference("a", "\0") is None
        assert await database.load_order("\0") is None
        assert await database.load_order(id_of(1)) is not None

    async def test_moments_come_back_to_the_microsecond(self, database: Database) -> None:
        """Of a change of the status, of a remark after it, and of an order that waited for two centuries."""
        drawn = random.Random(1)
        waits_s = [drawn.uniform(0, 7 * 10**span) for span in [*range(10), *[9] * 10] for _ in range(15)]
        orders = [an_order(n) for n in range(1, len(waits_s) + 1)]
        await apply(database, [entry_of(created(order)) for order in orders])
        moved = [
            changed(order, seconds=wait_s, kind=Kind.STATUS, status=Status.FILE_UPLOADED)
            for order, wait_s in zip(orders, waits_s, strict=True)
        ]
        remarked = [changed(change.order, seconds=1e-6, kind=Kind.COMMENT) for change in moved[::2]]
        last = {change.order.id: change.order for change in (*moved, *remarked)}
        await apply(database, [entry_of(change) for change in (*moved, *remarked)], after=len(orders))
        assert {order_id: await database.load_order(order_id) for order_id in last} == last


class TestPostgresDatabaseThatCopies(TestPostgresDatabase):
    """The same where every batch comes by COPY, as long ones do."""

    COPIED_ROWS_MIN = 1
