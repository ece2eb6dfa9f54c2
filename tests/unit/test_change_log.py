"""Where changes are accepted: shared fsyncs, nothing seen before it is durable, nothing lost or doubled when
the log fails, and bounds on what the database may lack."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.errors import BacklogFull, DuplicateReference, LogUnavailable, NotFound, OrderParked, Superseded
from storage.orders.filters import ListQuery
from storage.orders.order import Order
from storage.services.orders import ChangeOutcome
from storage.services.stack import Storage
from tests.support.acts import Workshop, keyed
from tests.support.changes import an_order, changed, created, entry_of, id_of
from tests.support.gates import GatedDatabase, GatedLog, cure, gated_database, gated_log, poison, turns, until
from tests.support.small_bounds import smaller
from tests.support.stacks import ManualClock, opened


@pytest.fixture
async def storage(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Storage]:
    bounds = smaller(log_deadline_s=0.2)
    async with opened(
        tmp_path / "data", clock, bounds, database_type=GatedDatabase, log_type=GatedLog
    ) as storage:
        yield storage


@pytest.fixture
def shop(storage: Storage) -> Workshop:
    return Workshop(storage)


@pytest.fixture
def log(storage: Storage) -> GatedLog:
    return gated_log(storage)


async def stored(storage: Storage, order_id: str) -> Order | None:
    await Workshop(storage).persisted()
    return await storage.database.load_order(order_id)


# Groups


async def test_concurrent_changes_share_an_fsync(shop: Workshop, log: GatedLog) -> None:
    async with log.appends.closed():
        first = asyncio.create_task(shop.order())
        await log.appends.reached()
        others = [asyncio.create_task(shop.order()) for _ in range(100)]
        await turns()
    await asyncio.gather(first, *others)
    assert [len(group) for group in log.appended] == [1, 100]
    assert (shop.storage.change_log.groups, shop.storage.change_log.appended) == (2, 101)


async def test_a_group_is_no_longer_than_its_bound(tmp_path: Path) -> None:
    bounds = smaller(log_group_entries=8)
    async with opened(tmp_path, bounds=bounds, log_type=GatedLog) as storage:
        shop, log = Workshop(storage), gated_log(storage)
        async with log.appends.closed():
            tasks = [asyncio.create_task(shop.order()) for _ in range(20)]
            await log.appends.reached()
            await turns()
        await asyncio.gather(*tasks)
        assert max(len(group) for group in log.appended) == 8
        assert sum(len(group) for group in log.appended) == 20


async def test_a_change_is_not_seen_before_it_is_durable(
    shop: Workshop, log: GatedLog, clock: ManualClock
) -> None:
    order = await shop.order()
    reads = shop.storage.reads
    page = (await reads.page(ListQuery(), 10, clock.now())).page
    async with log.appends.closed():
        changing = asyncio.create_task(shop.edit(order, note="new", reference="r"))
        creating = asyncio.create_task(shop.storage.change_log.append(entry_of(created(an_order(1)))))
        await log.appends.reached()
        await turns()
        assert (await reads.order(order.id)).note is None
        assert (await reads.page(ListQuery(), 10, clock.now())).page is page
        assert await reads.find_reference(order.created_by, "r") is None
        with pytest.raises(NotFound):
            await reads.get(id_of(1))
        assert not changing.done()
        assert not creating.done()
    await asyncio.gather(changing, creating)
    assert (await reads.order(order.id)).note == "new"
    assert (await reads.get(id_of(1))).held.version == 1


async def test_a_change_that_does_not_follow_the_newest_version_is_superseded(storage: Storage) -> None:
    first = created(an_order(1))
    await storage.change_log.append(entry_of(first))
    async with gated_database(storage).writes.closed():
        await storage.change_log.append(entry_of(changed(first.order, note="a")))
        with pytest.raises(Superseded):
            await storage.change_log.append(entry_of(changed(first.order, note="b"), entry_id=id_of(7)))


async def test_of_two_changes_of_one_version_under_way_the_second_is_superseded(
    storage: Storage, log: GatedLog
) -> None:
    first = created(an_order(1))
    await storage.change_log.append(entry_of(first))
    async with log.appends.closed():
        winner = asyncio.create_task(storage.change_log.append(entry_of(changed(first.order, note="a"))))
        await log.appends.reached()
        with pytest.raises(Superseded):
            await storage.change_log.append(entry_of(changed(first.order, note="b"), entry_id=id_of(7)))
    await winner


async def test_what_another_change_has_taken_since_the_order_book_looked_is_refused(storage: Storage) -> None:
    """A key, or a reference: the log would fail the whole group, the database would refuse the order."""
    async with gated_database(storage).writes.closed():
        await storage.change_log.append(entry_of(created(an_order(1, reference="r")), key="a"))
        with pytest.raises(LogUnavailable):
            await storage.change_log.append(entry_of(created(an_order(2)), key="a"))
        with pytest.raises(DuplicateReference):
            await storage.change_log.append(entry_of(created(an_order(2, reference="r"))))
        await storage.change_log.append(entry_of(created(an_order(3))))


# The log fails


async def test_a_failed_append_is_told_and_leaves_nothing_behind(shop: Workshop, log: GatedLog) -> None:
    order = await shop.order()
    log.fails_before = 1
    with pytest.raises(LogUnavailable):
        await shop.comment(order)
    assert (await shop.storage.reads.order(order.id)).version == 1
    assert (await shop.comment(order)).order.version == 2
    assert (await stored(shop.storage, order.id)) == await shop.storage.reads.order(order.id)


async def test_an_append_whose_answer_got_lost_is_accepted_when_the_log_has_it(
    shop: Workshop, log: GatedLog
) -> None:
    log.fails_after = 1
    outcome = await shop.create(key=keyed("a"))
    assert outcome.position.n == 1
    assert (await shop.create(key=keyed("a"))).order == outcome.order
    assert (await shop.comment(outcome.order)).order.version == 2
    assert [item.n for item in await log.read(0, 10)] == [1, 2]


async def test_all_of_a_failed_group_are_told_and_those_behind_it_go_on(
    shop: Workshop, log: GatedLog
) -> None:
    log.fails_before = 1
    async with log.appends.closed():
        first = [asyncio.create_task(shop.order()) for _ in range(3)]
        await log.appends.reached()
        await turns()
    results = await asyncio.gather(*first, return_exceptions=True)
    assert sum(isinstance(result, LogUnavailable) for result in results) >= 1
    accepted = {result.id for result in results if isinstance(result, Order)}
    found = await log.read(0, 10)
    assert {item.entry.change.order.id for item in found} == accepted  # type: ignore[union-attr]


async def test_a_log_that_does_not_answer_in_time_is_told_and_what_lands_late_is_seen(
    shop: Workshop, log: GatedLog
) -> None:
    order = await shop.order()
    async with log.appends.closed():
        with pytest.raises(LogUnavailable):
            await shop.comment(order, keyed=keyed("a"))
        assert (await shop.storage.reads.order(order.id)).version == 1
    await until(lambda: len(log.appended) == 2)
    again = await shop.comment(order, keyed=keyed("a"))
    assert again.order.version == 2
    assert (await shop.storage.reads.order(order.id)).version == 2


async def test_those_behind_a_log_that_does_not_answer_are_never_written(
    shop: Workshop, log: GatedLog
) -> None:
    order, other = await shop.order(), await shop.order()
    async with log.appends.closed():
        first = asyncio.create_task(shop.comment(order))
        await log.appends.reached()
        behind = asyncio.create_task(shop.comment(other))
        results = await asyncio.gather(first, behind, return_exceptions=True)
        assert [type(result) for result in results] == [LogUnavailable, LogUnavailable]
    await until(lambda: len(log.appended) == 3)
    await until(lambda: shop.storage.tail.head == 3)
    assert (await shop.storage.reads.order(other.id)).version == 1
    assert (await shop.comment(other)).order.version == 2


async def test_a_retry_while_the_first_try_hangs_in_the_log_does_not_double_it(
    shop: Workshop, log: GatedLog
) -> None:
    """Neither by its key nor by its reference, and nobody else's change suffers from it."""
    async with log.appends.closed():
        with pytest.raises(LogUnavailable):
            await shop.create(key=keyed("a"), reference="r")
        retries = [
            asyncio.create_task(shop.create(key=keyed("a"), reference="r")),
            asyncio.create_task(shop.create(reference="r")),
        ]
        await turns()
    results = await asyncio.gather(*retries, return_exceptions=True)
    assert not any(isinstance(result, ChangeOutcome) and not result.repeated for result in results)
    await until(lambda: shop.storage.tail.head == 1)
    assert (await shop.create(key=keyed("a"), reference="r")).repeated
    with pytest.raises(DuplicateReference):
        await shop.create(reference="r")
    await shop.persisted()
    assert await shop.storage.database.load_dead_letters() == []


# Bounds


async def test_the_backlog_is_bounded_in_entries_and_reads_go_on(tmp_path: Path) -> None:
    bounds = smaller(backlog_entries=3, flush_batch_entries=2)
    async with opened(tmp_path, bounds=bounds, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed():
            orders = [await shop.order() for _ in range(3)]
            with pytest.raises(BacklogFull) as caught:
                await shop.order()
            assert caught.value.retry_after_s > 0
            assert (await storage.reads.order(orders[0].id)) == orders[0]
        await shop.persisted()
        assert (await shop.order()).version == 1


async def test_the_backlog_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with opened(tmp_path, bounds=smaller(backlog_bytes=3_000), database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed():
            order = await shop.order(note="n" * 2_000)
            await shop.comment(order, "c" * 1_000)
            with pytest.raises(BacklogFull):
                await shop.comment(order)
        await shop.persisted()
        assert storage.tail.byte_count == 0


async def test_the_backlog_is_bounded_in_age(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock, smaller(backlog_age_s=60.0), database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed():
            await shop.order()
            clock.move(60.0)
            await shop.order()
            clock.move(0.1)
            with pytest.raises(BacklogFull):
                await shop.order()


async def test_a_parked_order_takes_no_changes_until_its_repair(
    shop: Workshop, storage: Storage, tmp_path: Path
) -> None:
    order, other = await shop.order(), await shop.order()
    await shop.persisted()
    poison(tmp_path / "data" / "facet.db", order.id)
    await shop.comment(order)
    await shop.persisted()
    with pytest.raises(OrderParked):
        await shop.comment(order)
    assert (await shop.comment(other)).order.version == 2
    assert storage.tail.parked == [order.id]
    cure(tmp_path / "data" / "facet.db")
    await storage.replay_dead_letters(order.id)
    assert (await shop.comment(order)).order.version == 3
    assert (await stored(storage, order.id)) == await storage.reads.order(order.id)
