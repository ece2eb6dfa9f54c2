"""The search index is kept near the orders by the process that flushes."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.cache.read_through import CacheStatus
from storage.database import search_upkeep
from storage.errors import DatabaseUnavailable
from storage.orders.filters import ListQuery, OrderFilter
from storage.services.stack import Storage
from tests.support.acts import Workshop
from tests.support.gates import execute
from tests.support.stacks import ManualClock, opened

NEEDLE = ListQuery(filter=OrderFilter(q="елка"))


@pytest.fixture
async def storage(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Storage]:
    async with opened(tmp_path / "data", clock) as storage:
        shop = Workshop(storage)
        for n in range(5):
            await shop.order(customer="Ёлка", reference=f"R{n}")
        await shop.persisted()
        yield storage


def error_of(storage: Storage) -> str | None:
    return storage.search_upkeep.last_error


async def count_found(storage: Storage) -> tuple[int, str]:
    found = await storage.reads.page(NEEDLE, 10, storage.clock.now())
    return found.page.body.count(b'"id"'), found.source


async def test_texts_are_stored_anew_then_taken_in_and_lists_are_read_again(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "data" / "facet.db"
    monkeypatch.setattr(search_upkeep, "ORDERS_TOGETHER", 2)
    monkeypatch.setattr(search_upkeep, "LONG_ORDERS", 3)
    execute(
        path, "UPDATE orders SET search = number || char(10) || 'ёлка' || char(10) || char(10) || char(10)"
    )
    storage.reads.views.clear()
    assert await count_found(storage) == (0, CacheStatus.MISS)
    assert await count_found(storage) == (0, CacheStatus.LOCAL)
    with caplog.at_level(logging.INFO, "facet.storage"):
        await storage.search_upkeep.tend()
    assert await count_found(storage) == (5, CacheStatus.MISS)
    assert execute(path, "SELECT count(*) FROM search_pending") == [(0,)]
    assert "5 texts of orders are stored" in caplog.text
    await storage.search_upkeep.tend()
    assert await count_found(storage) == (5, CacheStatus.LOCAL)


async def test_what_the_database_refuses_ends_nothing_and_keeps_nothing_else_waiting(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "data" / "facet.db"
    await storage.search_upkeep.tend()
    execute(path, "UPDATE orders SET search = number || char(10) || 'ёлка' WHERE reference = 'R0'")
    execute(
        path, "CREATE TRIGGER veto BEFORE UPDATE OF search ON orders BEGIN SELECT RAISE(ABORT, 'veto'); END"
    )
    await storage.search_upkeep.tend()
    assert "veto" in (error_of(storage) or "")
    assert execute(path, "SELECT count(*) FROM search_pending") == [(0,)]
    execute(path, "DROP TRIGGER veto")
    await storage.search_upkeep.tend()
    assert error_of(storage) is None
    assert await count_found(storage) == (5, CacheStatus.MISS)
    assert caplog.text.count("the index stays behind") == 1


async def test_a_database_that_is_away_ends_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(limit: int) -> int:
        raise DatabaseUnavailable("The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(storage.database, "fold_texts", away)
        await storage.search_upkeep.tend()
        assert error_of(storage) == "The database is away."
    await storage.search_upkeep.tend()
    assert error_of(storage) is None
    assert await count_found(storage) == (5, CacheStatus.MISS)
