"""Reading: one load for any number of callers, never older than what is known."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from storage.bounds import Bounds
from storage.cache.read_through import CacheStatus, ReadThrough
from storage.database.records import ListSnapshot
from storage.errors import Behind, DatabaseUnavailable, NotFound
from storage.log.entries import Position
from storage.memory.lru import ABSENT, MISS
from storage.orders.filters import ALL, ListQuery, OrderFilter
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.services.stack import Storage
from tests.support.acts import Workshop
from tests.support.changes import an_order, changed, created, entry_of, id_of
from tests.support.gates import Gate, GatedDatabase, cure, execute, gated_database, poison, turns, until
from tests.support.small_bounds import smaller
from tests.support.stacks import SHOP, ManualClock, opened


@pytest.fixture
async def storage(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Storage]:
    async with opened(tmp_path / "data", clock, database_type=GatedDatabase) as storage:
        yield storage


@pytest.fixture
def shop(storage: Storage) -> Workshop:
    return Workshop(storage)


@pytest.fixture
def reads(storage: Storage) -> ReadThrough:
    return storage.reads


@pytest.fixture
def gate(storage: Storage) -> Gate:
    return gated_database(storage).reads


async def forgotten(shop: Workshop, **fields: object) -> Order:
    """An order that is in the database and nowhere else."""
    order = await shop.order(**fields)
    await shop.persisted()
    shop.storage.reads.local.invalidate(order.id)
    return order


# Loads


async def test_a_thousand_callers_share_one_load(shop: Workshop, reads: ReadThrough, gate: Gate) -> None:
    order = await forgotten(shop)
    async with gate.closed():
        callers = [asyncio.create_task(reads.get(order.id)) for _ in range(1_000)]
        await gate.reached()
    found = await asyncio.gather(*callers)
    assert gated_database(shop.storage).order_loads == 1
    assert {item.held.body for item in found} == {found[0].held.body}
    assert found[0].source == CacheStatus.MISS
    assert (await reads.get(order.id)).source == CacheStatus.LOCAL


async def test_a_caller_that_goes_away_does_not_take_the_load_from_the_others(
    shop: Workshop, reads: ReadThrough, gate: Gate
) -> None:
    order = await forgotten(shop)
    async with gate.closed():
        first = asyncio.create_task(reads.get(order.id))
        await gate.reached()
        second = asyncio.create_task(reads.get(order.id))
        await turns()
        first.cancel()
        await turns()
    assert (await second).held.id == order.id
    assert gated_database(shop.storage).order_loads == 1


async def test_a_list_is_loaded_once_for_all_callers(
    shop: Workshop, reads: ReadThrough, clock: ManualClock, gate: Gate
) -> None:
    await shop.order()
    async with gate.closed():
        callers = [asyncio.create_task(reads.page(ListQuery(), 10, clock.now())) for _ in range(500)]
        counters = [asyncio.create_task(reads.counts(ALL)) for _ in range(500)]
        await gate.reached(2)
    assert len({item.page.body for item in await asyncio.gather(*callers)}) == 1
    assert len({item.body for item in await asyncio.gather(*counters)}) == 1
    assert reads.views.loads == 2
    assert (await reads.page(ListQuery(), 10, clock.now())).source == CacheStatus.LOCAL


# What does not exist


async def test_what_does_not_exist_is_asked_of_the_database_once_for_a_while(
    shop: Workshop, reads: ReadThrough, clock: ManualClock
) -> None:
    for _ in range(5):
        with pytest.raises(NotFound):
            await reads.get(id_of(1))
    assert gated_database(shop.storage).order_loads == 1
    clock.move(Bounds().absent_age_s)
    with pytest.raises(NotFound):
        await reads.get(id_of(1))
    assert gated_database(shop.storage).order_loads == 2


async def test_what_cannot_be_an_id_never_reaches_the_database(shop: Workshop, reads: ReadThrough) -> None:
    for text in ("", "1", "'; DROP TABLE orders", id_of(1).upper().replace("0", "A"), id_of(1) + "\n"):
        with pytest.raises(NotFound):
            await reads.get(text)
    assert gated_database(shop.storage).order_loads == 0


async def test_a_creation_ends_the_knowledge_that_an_order_does_not_exist(
    storage: Storage, reads: ReadThrough
) -> None:
    with pytest.raises(NotFound):
        await reads.get(id_of(1))
    assert reads.peek(id_of(1)) is ABSENT
    await storage.change_log.append(entry_of(created(an_order(1))))
    assert (await reads.get(id_of(1))).held.version == 1


async def test_a_creation_during_the_load_is_found_by_it(
    storage: Storage, reads: ReadThrough, gate: Gate
) -> None:
    async with gate.closed():
        reading = asyncio.create_task(reads.get(id_of(1)))
        await gate.reached()
        await storage.change_log.append(entry_of(created(an_order(1))))
        await storage.write_behind.wait_for(storage.tail.head, 10.0)
    assert (await reading).held.version == 1
    assert (await reads.get(id_of(1))).held.version == 1


# Never older


async def test_a_load_never_puts_back_what_a_change_has_overtaken(
    shop: Workshop, reads: ReadThrough, gate: Gate
) -> None:
    """The load holds version 1 in its hand while version 2 is made, persisted and evicted."""
    order = await forgotten(shop)
    async with gate.closed():
        reading = asyncio.create_task(reads.get(order.id))
        await gate.reached()
        await shop.storage.change_log.append(entry_of(changed(order, note="newer")))
        await shop.persisted()
        reads.local.lru.clear()
    assert (await reading).held.version == 2
    assert (await reads.order(order.id)).note == "newer"


async def test_pending_changes_are_consulted_before_the_database(shop: Workshop, reads: ReadThrough) -> None:
    database = gated_database(shop.storage)
    order = await forgotten(shop)
    async with database.writes.closed():
        await shop.comment(order)
        loads = database.order_loads
        reads.local.lru.clear()
        found = await reads.get(order.id)
        assert (found.held.version, found.source) == (2, CacheStatus.PENDING)
        reads.local.invalidate(order.id)
        assert await reads.refresh(order.id)
        assert (await reads.get(order.id)).held.version == 2
        assert database.order_loads == loads


async def test_a_history_read_during_a_flush_has_every_version_once(
    shop: Workshop, reads: ReadThrough, gate: Gate
) -> None:
    database = gated_database(shop.storage)
    order = await forgotten(shop)
    async with database.writes.closed():
        await shop.comment(order)
        assert [item.version for item in (await reads.history(order.id)).items] == [1, 2]
        await shop.comment(order)
        gate.close()
        reading = asyncio.create_task(reads.history(order.id))
        await gate.reached()
    await shop.persisted()
    await shop.storage.change_log.append(entry_of(changed((await reads.order(order.id)), note="late")))
    await shop.persisted()
    gate.open()
    assert [item.version for item in (await reading)[0]] == [1, 2, 3, 4]
    assert [item.version for item in (await reads.history(order.id)).items] == [1, 2, 3, 4]


async def test_a_list_read_during_changes_shows_them(
    shop: Workshop, reads: ReadThrough, clock: ManualClock, gate: Gate
) -> None:
    order = await forgotten(shop)
    async with gate.closed():
        reading = asyncio.create_task(reads.page(ListQuery(), 10, clock.now()))
        counting = asyncio.create_task(reads.counts(ALL))
        await gate.reached(2)
        await shop.storage.change_log.append(entry_of(changed(order, status=Status.SUBMITTED)))
        await shop.storage.change_log.append(entry_of(created(an_order(1, number=9))))
        await shop.persisted()
    shown = msgspec.json.decode((await reading).page.body)["items"]
    assert {(item["id"], item["status"]) for item in shown} == {
        (order.id, "SUBMITTED"),
        (id_of(1), "INITIATED"),
    }
    counts = msgspec.json.decode((await counting).body)["counts"]
    assert (counts["SUBMITTED"], counts["INITIATED"]) == (1, 1)


async def test_a_list_that_the_kept_changes_no_longer_reach_is_loaded_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    bounds = smaller(journal_entries=4, log_group_entries=4)
    async with opened(tmp_path / "data", clock, bounds) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        await storage.reads.page(ListQuery(), 10, clock.now())
        for n in range(8):
            await shop.comment(order, str(n))
            await shop.persisted()
        found = await storage.reads.page(ListQuery(), 10, clock.now())
        assert found.source == CacheStatus.MISS
        assert msgspec.json.decode(found.page.body)["items"][0]["version"] == 9


async def test_a_position_that_is_not_reached_yet_is_refused(shop: Workshop, reads: ReadThrough) -> None:
    outcome = await shop.create()
    await reads.require_position(outcome.position)
    await reads.require_position(Position(0, 99))
    for position in (Position(1, outcome.position.n + 1), Position(2, 0)):
        with pytest.raises(Behind):
            await reads.require_position(position)


# Invalidation by key


def repair(tmp_path: Path, order: Order) -> None:
    """Somebody mends a row by hand."""
    execute(tmp_path / "data" / "facet.db", f"UPDATE orders SET note = 'mended' WHERE id = '{order.id}'")


async def test_after_an_invalidation_the_database_is_read_again_everywhere(
    shop: Workshop, reads: ReadThrough, clock: ManualClock, tmp_path: Path
) -> None:
    order = await shop.order()
    await shop.persisted()
    await reads.page(ListQuery(), 10, clock.now())
    repair(tmp_path, order)
    assert (await reads.order(order.id)).note is None
    assert await reads.refresh(order.id)
    assert (await reads.order(order.id)).note == "mended"
    page = (await reads.page(ListQuery(), 10, clock.now())).page
    assert msgspec.json.decode(page.body)["items"][0]["note"] == "mended"


async def test_an_invalidation_during_a_load_keeps_its_answer_out(
    shop: Workshop, reads: ReadThrough, gate: Gate, tmp_path: Path
) -> None:
    order = await forgotten(shop)
    async with gate.closed():
        early = asyncio.create_task(reads.get(order.id))
        await gate.reached()
        repair(tmp_path, order)
        invalidating = asyncio.create_task(reads.refresh(order.id))
        await gate.reached(2)
    await asyncio.gather(early, invalidating)
    assert (await reads.order(order.id)).note == "mended"


async def test_an_invalidation_during_the_load_of_a_history_keeps_it_out(
    shop: Workshop, reads: ReadThrough, gate: Gate, tmp_path: Path
) -> None:
    order = await shop.order()
    await shop.persisted()
    async with gate.closed():
        early = asyncio.create_task(reads.history(order.id))
        await gate.reached()
        execute(tmp_path / "data" / "facet.db", "UPDATE order_history SET comment = 'mended'")
        invalidating = asyncio.create_task(reads.refresh(order.id))
        await gate.reached(2)
    await asyncio.gather(early, invalidating)
    assert (await reads.history(order.id)).items[0].comment == "mended"


async def test_an_invalidation_of_all_lists_during_a_load_keeps_its_answer_out(
    shop: Workshop, reads: ReadThrough, gate: Gate, clock: ManualClock, tmp_path: Path
) -> None:
    order = await forgotten(shop)
    async with gate.closed():
        early = asyncio.create_task(reads.page(ListQuery(), 10, clock.now()))
        await gate.reached()
        repair(tmp_path, order)
        reads.views.clear()
    await early
    page = (await reads.page(ListQuery(), 10, clock.now())).page
    assert msgspec.json.decode(page.body)["items"][0]["note"] == "mended"


async def test_an_order_that_is_gone_leaves_every_list(
    shop: Workshop, reads: ReadThrough, clock: ManualClock, tmp_path: Path
) -> None:
    order = await forgotten(shop)
    query = ListQuery(filter=OrderFilter(customer="anna"))
    await reads.page(query, 10, clock.now())
    await reads.counts(ALL)
    execute(tmp_path / "data" / "facet.db", "DELETE FROM orders")
    assert not await reads.refresh(order.id)
    assert msgspec.json.decode((await reads.page(query, 10, clock.now())).page.body)["items"] == []
    assert msgspec.json.decode((await reads.counts(ALL)).body)["counts"]["INITIATED"] == 0


# Waiting, inspecting, parking


async def test_a_long_poll_wakes_at_the_orders_next_change_and_at_no_others(
    shop: Workshop, reads: ReadThrough
) -> None:
    order, other = await shop.order(), await shop.order()
    waiters = [asyncio.create_task(reads.wait_for_change(order.id, 60.0)) for _ in range(3)]
    gone = asyncio.create_task(reads.wait_for_change(order.id, 60.0))
    await turns()
    gone.cancel()
    await shop.comment(other)
    assert not any(waiter.done() for waiter in waiters)
    await shop.comment(order)
    await asyncio.gather(*waiters)
    assert reads._watchers == {}


async def test_a_long_poll_ends_at_its_timeout(shop: Workshop, reads: ReadThrough) -> None:
    order = await shop.order()
    await reads.wait_for_change(order.id, 0.0)
    assert reads._watchers == {}


async def test_inspection_tells_what_each_tier_holds(shop: Workshop, reads: ReadThrough) -> None:
    order = await forgotten(shop)
    async with gated_database(shop.storage).writes.closed():
        await shop.comment(order)
        inspected = await reads.inspect(order.id)
        assert (inspected.state, inspected.shared is not None) == ("pending", True)
        assert inspected.local is not None
        assert inspected.database is not None
        assert (inspected.local.version, inspected.database.version) == (2, 1)
    await shop.persisted()
    assert (await reads.inspect(order.id)).state == "persisted"
    with pytest.raises(NotFound):
        await reads.inspect(id_of(99))


async def test_a_parked_order_is_served_as_it_was_acknowledged(
    shop: Workshop, reads: ReadThrough, tmp_path: Path
) -> None:
    order = await forgotten(shop)
    poison(tmp_path / "data" / "facet.db", order.id)
    await shop.comment(order)
    await shop.persisted()
    reads.local.lru.clear()
    assert (await reads.get(order.id)).held.version == 2
    assert [item.version for item in (await reads.history(order.id)).items] == [1, 2]
    assert (await reads.inspect(order.id)).state == "parked"
    cure(tmp_path / "data" / "facet.db")
    await shop.storage.replay_dead_letters(order.id)
    assert (await reads.inspect(order.id)).state == "persisted"
    assert (await shop.comment(order, who=SHOP)).order.version == 3


async def test_warmed_orders_are_hits_and_never_older_than_what_is_held(
    shop: Workshop, reads: ReadThrough
) -> None:
    orders = [await forgotten(shop) for _ in range(5)]
    assert reads.peek(orders[0].id) is MISS
    assert await reads.warm_orders(3) == 3
    assert sum(reads.peek(order.id) is not MISS for order in orders) == 3
    await shop.comment(orders[4])
    await reads.warm_orders(3)
    assert (await reads.order(orders[4].id)).version == 2


@pytest.fixture
async def short_list(tmp_path: Path, clock: ManualClock) -> AsyncIterator[tuple[Storage, ListQuery]]:
    """A list that was loaded once and has become short since."""
    bounds = smaller(view_rows=202, view_rows_min=201, warm_orders=10)
    async with opened(tmp_path / "data", clock, bounds) as storage:
        shop = Workshop(storage)
        orders = await asyncio.gather(*(shop.order() for _ in range(210)))
        await shop.persisted()
        query = ListQuery(filter=OrderFilter(statuses=frozenset({Status.INITIATED})))
        await storage.reads.page(query, 10, clock.now())
        for order in orders[-4:]:
            await shop.step(order, Status.FILE_UPLOADED, SHOP)
        await shop.persisted()
        assert storage.reads.views.loads == 1
        yield storage, query


async def test_a_list_that_became_short_is_loaded_again_before_somebody_waits(
    short_list: tuple[Storage, ListQuery], clock: ManualClock
) -> None:
    storage, query = short_list
    found = await storage.reads.page(query, 10, clock.now())
    assert found.source == CacheStatus.LOCAL
    await until(lambda: storage.reads.views.loads == 2)


async def test_a_short_list_that_cannot_be_loaded_again_is_served_as_it_is(
    short_list: tuple[Storage, ListQuery], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody's log is filled with loads that nobody waited for."""
    storage, query = short_list
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))

    async def away(query: ListQuery, limit: int) -> ListSnapshot:
        raise DatabaseUnavailable("It is away.")

    monkeypatch.setattr(storage.database, "load_list", away)
    for _ in range(3):
        assert (await storage.reads.page(query, 10, clock.now())).source == CacheStatus.LOCAL
        await turns()
    assert storage.reads.views.loads > 1
    gc.collect()
    assert unseen == []
