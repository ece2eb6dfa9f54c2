"""A database goes from one engine to the other and back, whole or not at all."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from storage.database.records import StoredModel, Verification
from storage.database.schema import metadata
from storage.errors import Conflict, DatabaseUnavailable, Incompatible
from storage.log.entries import (
    AnyEntry,
    MetalFixed,
    PriceListPublished,
    QuoteIssued,
    TokenIssued,
    TokenRevoked,
)
from storage.orders.actors import Role
from storage.orders.filters import ListQuery
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from storage.postgresql.transfer import TABLES, copy_from_postgresql, copy_into_postgresql
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.migrate import migrate_sqlite
from tests.contracts.database import FULL, GAP, life
from tests.support.changes import START, an_order, apply, created, entry_of, id_of
from tests.support.engines import execute, query
from tests.support.gates import execute as execute_sqlite

MODEL = StoredModel(
    sha256="a" * 64,
    analyser="1",
    byte_count=2**40,
    facts=b'{"volume_mm3": 1}',
    first_seen_at=START,
    score=0.1,
    requested_at=START + timedelta(microseconds=1),
    tenants=frozenset({"x", "Ы"}),
    verification=Verification("differs", START + timedelta(microseconds=2), b'{"state": "differs"}'),
)


def everything() -> list[AnyEntry]:
    """Entries that put rows into every table."""
    token = TokenIssued(id=id_of(9), at=START, token_id=id_of(9), secret_hash="h", role=Role.SHOP, name="s")
    lists = [
        PriceListPublished(id=id_of(n), at=START, version=name, valid_from=START, body=b"{}")
        for n, name in enumerate(("b", "c", "a"))
    ]
    return [
        entry_of(created(an_order(1, **FULL)), key="key"),
        *(entry_of(change) for change in life(2)),
        GAP,
        QuoteIssued(id=id_of(8), at=START, quote_id="q", sha256="a", valid_until=START, body=b'{"n": 1}'),
        *lists,
        MetalFixed(id=id_of(7), at=START, version="f", fixed_at=START, body=b"{}"),
        token,
        TokenRevoked(id=id_of(6), at=START, token_id=id_of(9)),
        msgspec.structs.replace(token, id=id_of(5), token_id=id_of(5), secret_hash="other"),
    ]


@pytest.fixture
async def laptop(tmp_path: Path) -> Path:
    path = tmp_path / "facet.db"
    migrate_sqlite(path)
    database = SqliteDatabase(path, 1.0, 1, 5.0, keeps_answers=True)
    await database.open()
    await apply(database, everything())
    await database.store_models([MODEL], 1e6)
    await database.lease_numbers(7)
    await database.secret("cursors", b"\x00key")
    await database.hold_lease("flusher", "laptop", 60)
    await database.heartbeat("laptop", 1)
    await database.close()
    return path


@pytest.fixture
async def url(fresh_database: str) -> str:
    await migrate_postgresql(fresh_database)
    return fresh_database


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table.name: connection.execute(f"SELECT rowid, * FROM {table.name} ORDER BY 1").fetchall()
            if table.name in ("price_lists", "metal_fixes")
            else sorted(connection.execute(f"SELECT * FROM {table.name}").fetchall())
            for table in TABLES
        }


async def test_a_database_that_went_to_postgresql_and_back_is_the_same(
    laptop: Path, url: str, tmp_path: Path
) -> None:
    there = await copy_into_postgresql(laptop, url)
    back = await copy_from_postgresql(url, tmp_path / "back.db")
    before = content(laptop)
    assert all(before.values()), "no table is empty"
    assert content(tmp_path / "back.db") == before
    assert there == back == {name: len(rows) for name, rows in before.items()}
    stayed = {"leases", "processes", "search_index", "search_pending"}
    assert {table.name for table in metadata.sorted_tables} - set(before) == stayed
    assert query(url, "SELECT * FROM leases") == query(url, "SELECT * FROM processes") == []


async def test_what_was_moved_is_read_as_before(laptop: Path, url: str) -> None:
    await copy_into_postgresql(laptop, url)
    old, new = SqliteDatabase(laptop, 1.0, 1, 5.0), PostgresDatabase(url, 4, 5.0, keeps_answers=True)
    await old.open()
    await new.open()
    for name in ("epoch", "installation", "load_tokens", "load_price_lists", "load_dead_letters"):
        assert await getattr(new, name)() == await getattr(old, name)(), name
    assert await new.load_list(ListQuery(), 9) == await old.load_list(ListQuery(), 9)
    assert await new.load_history(id_of(2)) == await old.load_history(id_of(2))
    assert await new.load_model("a" * 64) == MODEL
    assert await new.find_answer("scope key") == await old.find_answer("scope key")
    assert await new.lease_numbers(1) == await old.lease_numbers(1) == range(1010, 1011)
    await old.close()
    await new.close()


async def test_a_backup_under_load_is_of_one_moment(url: str, tmp_path: Path) -> None:
    database = PostgresDatabase(url, 4, 5.0, keeps_answers=True)
    await database.open()
    entries = [entry_of(change) for change in life(1, versions=2_000)]
    await apply(database, entries[:20])
    backup = asyncio.create_task(database.backup(tmp_path / "copy"))
    n = 20
    while not backup.done() and n < len(entries):
        await apply(database, entries[n : n + 1], after=n)
        n += 1
    await backup
    copy = SqliteDatabase(tmp_path / "copy", 1.0, 1, 5.0)
    await copy.open()
    order = await copy.load_order(id_of(1))
    assert order is not None
    assert 20 <= order.version < n
    assert order.version == (await copy.position()).n == len(await copy.load_history(id_of(1)))
    await copy.close()
    await database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO model_tenants VALUES ('a', 'b')",
        "UPDATE log_positions SET position = 1",
    ],
)
async def test_what_is_not_empty_is_not_overwritten(laptop: Path, url: str, statement: str) -> None:
    execute(url, statement)
    before = query(url, "SELECT id FROM installation")
    with pytest.raises(Conflict, match="not empty"):
        await copy_into_postgresql(laptop, url)
    assert query(url, "SELECT id FROM installation") == before
    assert query(url, "SELECT id FROM orders") == []


async def test_a_row_that_does_not_fit_leaves_nothing_behind(laptop: Path, url: str) -> None:
    execute_sqlite(laptop, "UPDATE tokens SET name = 'a' || char(0)")
    with pytest.raises(Incompatible, match="tokens"):
        await copy_into_postgresql(laptop, url)
    assert query(url, "SELECT id FROM orders") == []
    assert len(query(url, "SELECT id FROM installation")) == 1


async def test_a_server_that_is_away_is_said_in_one_line(laptop: Path, tmp_path: Path) -> None:
    nowhere = "postgresql://facet@127.0.0.1:1/facet"
    attempts: list[Callable[[], object]] = [
        lambda: copy_into_postgresql(laptop, nowhere),
        lambda: copy_from_postgresql(nowhere, tmp_path / "back.db"),
    ]
    for attempt in attempts:
        with pytest.raises(DatabaseUnavailable) as caught:
            await attempt()  # type: ignore[misc]
        assert "\n" not in caught.value.detail
