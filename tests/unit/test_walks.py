"""Walks through a list by cursor: pages of a held list cost no read, deep ones keep nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from storage.cache.list_views import Page
from storage.cache.read_through import CacheStatus
from storage.orders.filters import ListQuery, OrderFilter, Sort, SortField, decode_cursor
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.services.stack import Storage
from tests.support.acts import Workshop
from tests.support.gates import GatedDatabase, turns
from tests.support.small_bounds import smaller
from tests.support.stacks import SELLER, ManualClock, opened

ORDERS = 330
VIEW_ROWS = 220


@pytest.fixture
async def storage(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Storage]:
    bounds = smaller(view_rows=VIEW_ROWS, view_rows_min=200, warm_orders=10)
    async with opened(tmp_path / "data", clock, bounds=bounds, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        for n in range(ORDERS):
            clock.move(1.0)
            await shop.order(customer=f"customer {n % 7}")
        await shop.persisted()
        yield storage


async def walked(
    storage: Storage, query: ListQuery, limit: int, pages: int | None = None
) -> AsyncIterator[tuple[Page, str]]:
    """Page for page, with where each came from."""
    while pages != 0:
        found = await storage.reads.page(query, limit, storage.clock.now())
        yield found.page, found.source
        if found.page.next is None:
            return
        query = msgspec.structs.replace(query, after=decode_cursor(found.page.next, query.sort))
        pages = None if pages is None else pages - 1


def counting(load: Callable[[ListQuery, int], Awaitable[object]], limits: list[int]) -> object:
    async def load_counted(query: ListQuery, limit: int) -> object:
        limits.append(limit)
        return await load(query, limit)

    return load_counted


def ids_of(page: Page) -> list[str]:
    return [item["id"] for item in msgspec.json.decode(page.body)["items"]]


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-due_at", "-updated_at"])
async def test_a_walk_meets_every_order_once(storage: Storage, sort: str) -> None:
    query = ListQuery(sort=Sort(SortField(sort.removeprefix("-")), sort.startswith("-")))
    met = [order_id async for page, _ in walked(storage, query, 37) for order_id in ids_of(page)]
    assert len(met) == len(set(met)) == ORDERS


async def test_pages_of_a_held_list_are_cut_from_it(storage: Storage) -> None:
    views = storage.reads.views
    await storage.reads.page(ListQuery(), 10, storage.clock.now())
    loads = views.loads
    sources = [source async for _, source in walked(storage, ListQuery(), 10, pages=20)]
    assert views.loads == loads
    assert sources == [CacheStatus.LOCAL] * 20


async def test_a_walk_takes_nothing_from_those_who_look_at_lists(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, now = storage.reads.views, storage.clock.now()
    used = [ListQuery(filter=OrderFilter(customer=f"customer {n}")) for n in range(7)]
    for query in used:
        await storage.reads.page(query, 10, now)
    loads, held, bytes_held = views.loads, set(views.lru), views.lru.byte_count
    rows_read: list[int] = []
    database = storage.database
    for name in ("load_list", "load_rows"):
        monkeypatch.setattr(database, name, counting(getattr(database, name), rows_read))
    pages = [page async for page, _ in walked(storage, ListQuery(), 50)]
    assert sum(len(ids_of(page)) for page in pages) == ORDERS
    assert set(views.lru) == held | {ListQuery()}
    assert views.lru.byte_count < bytes_held + 2 * VIEW_ROWS * 1_000
    assert rows_read[0] == VIEW_ROWS + 1
    assert set(rows_read[1:]) == {51}
    assert views.loads == loads + len(rows_read)


async def test_a_deep_page_shows_what_has_changed_since_the_database_was_read(storage: Storage) -> None:
    """Orders leave the list between the read and the answer: the page is whole all the same."""
    initiated = OrderFilter(statuses=frozenset({Status.INITIATED}))
    query = ListQuery(filter=initiated, sort=Sort(SortField.CREATED_AT, False))
    pages = [page async for page, _ in walked(storage, query, 60)]
    assert pages[2].next is not None
    behind = msgspec.structs.replace(query, after=decode_cursor(pages[2].next, query.sort))
    database = storage.database
    assert isinstance(database, GatedDatabase)
    leaving: list[Order] = [await storage.reads.order(order_id) for order_id in ids_of(pages[3])[:5]]
    database.reads.close()
    reading = asyncio.create_task(storage.reads.page(behind, 60, storage.clock.now()))
    await turns()
    for order in leaving:
        await Workshop(storage).step(order, Status.CANCELLED, SELLER, comment="not wanted")
    database.reads.open()
    shown = ids_of((await reading).page)
    assert shown == [order_id for page in pages[3:] for order_id in ids_of(page)][5:65]


async def test_a_deep_page_is_never_empty_while_there_is_more(storage: Storage) -> None:
    """All that the database has of a page, and of some behind it, has left the list meanwhile."""
    initiated = OrderFilter(statuses=frozenset({Status.INITIATED}))
    query = ListQuery(filter=initiated, sort=Sort(SortField.CREATED_AT, False))
    pages = [page async for page, _ in walked(storage, query, 5)]
    behind = msgspec.structs.replace(query, after=decode_cursor(pages[49].next or "", query.sort))
    database = storage.database
    assert isinstance(database, GatedDatabase)
    gone = [order_id for page in pages[50:54] for order_id in ids_of(page)]
    leaving = [await storage.reads.order(order_id) for order_id in gone]
    storage.reads.views.clear()
    database.writes.close()
    for order in leaving:
        await Workshop(storage).step(order, Status.CANCELLED, SELLER, comment="not wanted")
    found = await storage.reads.page(behind, 5, storage.clock.now())
    database.writes.open()
    assert ids_of(found.page) == ids_of(pages[54])
