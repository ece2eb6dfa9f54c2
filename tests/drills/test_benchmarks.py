"""The benchmarks of Redis with PostgreSQL: what they compare does the same work on both sides."""

from collections.abc import Callable, Iterator

import asyncpg
import pytest

from benchmarks import coherence, flushes, shared_gets, uploads, writes_layers
from benchmarks.engines import Engines, engines
from benchmarks.flushes import Executemany, Log
from benchmarks.pool_each import PoolChanges
from storage.log.entries import Position
from storage.orders.workflow import Status
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from tests.support.engines import query

HISTORY = "SELECT order_id, version, from_status, to_status, actor, was FROM order_history ORDER BY 1, 2"
ORDERS = "SELECT id, version, status, status_version, search FROM orders ORDER BY id"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with engines(tmp_path_factory.mktemp("engines")) as servers:
        yield servers


async def given_orders(url: str, count: int) -> list[str]:
    """A database with so many orders in it, written as they would be by write-behind."""
    await migrate_postgresql(url)
    connection = await asyncpg.connect(url)
    batch = Log().next_batch()[:count]
    await Executemany(connection).apply(batch, Position(1, 0), Position(1, count))
    await connection.close()
    return [row["id"] for row in query(url, "SELECT id FROM orders ORDER BY id")]


@pytest.mark.parametrize("way", ["change", "change_lean"])
async def test_the_pool_commits_the_order_and_one_row_of_history(way: str, fresh_database: str) -> None:
    (order_id,) = await given_orders(fresh_database, 1)
    changes = await PoolChanges.open(fresh_database)
    order = await getattr(changes, way)(order_id, Status.SUBMITTED)
    again = await getattr(changes, way)(order_id, Status.SUBMITTED)
    await changes.close()
    assert (order.version, order.status) == (2, "SUBMITTED")
    assert again == order, "an order that is there already stays as it is"
    assert [tuple(row)[1:4] for row in query(fresh_database, ORDERS)] == [(2, "SUBMITTED", 2)]
    assert [tuple(row)[1:4] for row in query(fresh_database, HISTORY)] == [
        (1, None, "FILE_UPLOADED"),
        (2, "FILE_UPLOADED", "SUBMITTED"),
    ]


async def test_both_flushes_leave_the_same_rows(new_database: Callable[[], str]) -> None:
    ours, theirs = new_database(), new_database()
    for url in (ours, theirs):
        await migrate_postgresql(url)
    database = PostgresDatabase(ours, 1, 30.0, keeps_answers=True)
    await database.open()
    connection = await asyncpg.connect(theirs)
    log, stands = Log(), await database.position()
    for _ in range(2):
        batch = log.next_batch()
        new = Position(stands.epoch, batch[-1].n)
        assert await database.apply(batch, stands, new) == []
        await Executemany(connection).apply(batch, stands, new)
        stands = new
    await connection.close()
    await database.close()
    for statement in (ORDERS, HISTORY, "SELECT epoch, position FROM log_positions ORDER BY name"):
        assert query(ours, statement) == query(theirs, statement)
    assert len(query(ours, HISTORY)) == 2 * flushes.BATCH


async def test_layers_change_every_order_each_time(servers: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes_layers, "ORDERS", 200)
    monkeypatch.setattr(writes_layers, "OUR_CHANGES", 400)
    monkeypatch.setattr(writes_layers, "THEIR_CHANGES", 400)
    found = await writes_layers.measure_layers(servers, 1)
    assert {name: len(rounds) for name, rounds in found.items()} == {
        "facet": 1,
        "commit_each": 1,
        "commit_each_lean": 1,
    }
    assert all(each.per_s > 0 and each.p99_ms > 0 for (each,) in found.values())
    versions = "SELECT min(version), max(version) FROM orders"
    assert tuple(query(servers.postgres.url_of("layer"), versions)[0]) == (5, 5)
    assert tuple(query(servers.postgres.url_of("layer_each"), versions)[0]) == (9, 9)


async def test_gets_find_every_order_in_redis(servers: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORDERS", "OUR_GETS", "THEIR_GETS"):
        monkeypatch.setattr(shared_gets, name, 40)
    found = await shared_gets.measure_gets(servers, 1)
    assert set(found) == {"get", "get_redis_py", "load", "load_redis_py"}
    assert all(each.per_s > 0 for (each,) in found.values())


@pytest.mark.slow
def test_coherence_sees_every_acknowledged_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coherence, "ORDERS", 50)
    result = coherence.run(1, most_s=0.2, paced_s=0.2)
    shown = result["figures"]
    for way in ("from_flusher", "to_flusher"):
        assert shown[f"{way}_changes"] > 0
        assert 0 <= shown[f"{way}_p50_ms"] <= shown[f"{way}_p99_ms"] <= shown[f"{way}_max_ms"]
        assert result["ratios"][f"{way}_p99_of_100_ms"] == pytest.approx(
            shown[f"{way}_p99_ms"] / 100, abs=0.001
        )


@pytest.mark.slow
def test_asking_goes_on_beside_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "IDLE_S", 0.3)
    monkeypatch.setattr(uploads, "BESIDE_S", 0.3)
    result = uploads.run(1, facets=20_000)
    shown = result["figures"]
    assert shown["uploads"] >= 20, "each sender has one at least"
    for phase in ("idle", "beside_uploads"):
        assert 0 < shown[f"{phase}_p50_ms"] <= shown[f"{phase}_p99_ms"]
        assert 0 < shown[f"{phase}_held_by_processor_ms_at_most"] <= shown[f"{phase}_held_ms_at_most"]
    assert result["ratios"]["p99_beside_uploads_x_idle"] > 0
