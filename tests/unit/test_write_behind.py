"""From the log to the database: batches, failures, restarts, and epochs of the log that do not agree."""

import asyncio
import shutil
from pathlib import Path

import pytest

from storage.embedded.change_log import EmbeddedChangeLog
from storage.errors import Conflict, OutcomeUnknown, Unavailable
from storage.log.entries import Position
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.log import SqliteLog
from storage.sqlite.migrate import migrate_sqlite
from tests.support.acts import Workshop, keyed
from tests.support.changes import created, entry_of
from tests.support.gates import GatedDatabase, cure, execute, gated_database, locked, poison, turns, until
from tests.support.small_bounds import smaller
from tests.support.stacks import IVAN, SHOP, ManualClock, log_of, opened


def database_of(path: Path) -> Path:
    return path / "facet.db"


async def held(storage: Storage, order: Order) -> tuple[Order | None, list[int]]:
    """What the database holds of an order: its state and the versions of its history."""
    history = await storage.database.load_history(order.id)
    return await storage.database.load_order(order.id), [item.version for item in history]


def copy_database(path: Path, target: Path) -> None:
    """A copy of a database that nobody has open."""
    target.mkdir(exist_ok=True)
    shutil.copy(database_of(path), database_of(target))


# Batches


async def test_changes_reach_the_database_in_batches_with_their_position(tmp_path: Path) -> None:
    async with opened(tmp_path, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed() as gate:
            order = await shop.order()
            await gate.reached()
            for n in range(50):
                order = (await shop.comment(order, str(n))).order
        await shop.persisted()
        assert storage.write_behind.batches == 2
        assert storage.write_behind.entries == 51
        assert await held(storage, order) == (order, list(range(1, 52)))
        assert await storage.database.position() == Position(1, 51)


async def test_a_batch_is_no_longer_than_its_bound(tmp_path: Path) -> None:
    bounds = smaller(flush_batch_entries=10)
    async with opened(tmp_path, bounds=bounds, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed():
            await asyncio.gather(*(shop.order() for _ in range(35)))
        await shop.persisted()
        assert storage.write_behind.batches >= 4


async def test_a_wait_ends_when_the_entry_is_in_the_database(tmp_path: Path) -> None:
    async with opened(tmp_path, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed() as gate:
            outcome = await shop.create()
            waiting = asyncio.create_task(storage.write_behind.wait_for(outcome.position.n, 10.0))
            await gate.reached()
            await turns()
            assert not waiting.done()
            with pytest.raises(OutcomeUnknown):
                await storage.write_behind.wait_for(outcome.position.n, 0.0)
        await waiting
        assert await storage.database.load_order(outcome.order.id) == outcome.order
        await storage.write_behind.wait_for(outcome.position.n, 0.0)


# Failures


async def test_a_locked_database_holds_no_acknowledgement_up_and_gets_everything_later(
    tmp_path: Path,
) -> None:
    bounds = smaller(busy_timeout_s=0.02, flush_retry_s=0.01, flush_retry_max_s=0.02)
    async with opened(tmp_path, bounds=bounds) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        with locked(database_of(tmp_path)):
            for n in range(20):
                order = (await shop.comment(order, str(n))).order
            orders = [await shop.order() for _ in range(5)]
            assert await storage.reads.order(order.id) == order
            await until(lambda: storage.write_behind.failures >= 2)
            failed = storage.write_behind.last_error
            assert failed is not None
            assert len(storage.tail) == 25
        await shop.persisted()
        assert storage.write_behind.last_error is None
        assert await held(storage, order) == (order, list(range(1, 22)))
        for other in orders:
            assert await held(storage, other) == (other, [1])


async def test_a_poisoned_entry_parks_its_order_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        shop = Workshop(storage)
        orders = [await shop.order() for _ in range(3)]
        await shop.persisted()
        poison(database_of(tmp_path), orders[1].id)
        outcomes = [await shop.comment(order) for order in orders]
        await shop.persisted()
        assert await held(storage, orders[0]) == (outcomes[0].order, [1, 2])
        assert await held(storage, orders[1]) == (orders[1], [1])
        assert await held(storage, orders[2]) == (outcomes[2].order, [1, 2])
        with pytest.raises(Conflict):
            await storage.replay_dead_letters(orders[1].id)
        assert storage.tail.parked == [orders[1].id]


async def test_changes_accepted_before_their_order_was_parked_are_set_aside_with_it(
    tmp_path: Path,
) -> None:
    """They come with a later batch, in which nothing would refuse them."""
    bounds = smaller(flush_batch_entries=1)
    async with opened(tmp_path, bounds=bounds, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        poison(database_of(tmp_path), order.id, "NEW.version = 2")
        async with gated_database(storage).writes.closed():
            for n in range(4):
                await shop.comment(order, str(n))
        await shop.persisted()
        assert await held(storage, order) == (order, [1])
        assert (await storage.reads.order(order.id)).version == 5
        cure(database_of(tmp_path))
        await storage.replay_dead_letters(order.id)
        assert await held(storage, order) == (await storage.reads.order(order.id), [1, 2, 3, 4, 5])
        assert storage.tail.pending_orders == 0


async def test_a_fork_is_counted_and_set_aside(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        execute(database_of(tmp_path), f"UPDATE order_history SET entry_id = '{order.id}'")
        await storage.change_log.append(entry_of(created(order)))
        await shop.persisted()
        assert storage.write_behind.forks == 1
        ((letter, _),) = await storage.database.load_dead_letters()
        assert letter.error.startswith("fork")


async def test_what_is_flushed_is_trimmed_from_the_log_now_and_then(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened(tmp_path, clock) as storage:
        shop = Workshop(storage)
        for _ in range(5):
            await shop.create()
        await shop.create(key=keyed("a"))
        await shop.persisted()
        assert len(await log_of(storage).read(0, 100)) == 6
        clock.move(2.0)
        await shop.create()
        await shop.persisted()
        await until(lambda: storage.tail.flushed == 7)
        while len(found := await log_of(storage).read(0, 100)) > 1:
            await turns(1)
        assert found[0].n == 6


# Stopping and starting


async def test_a_stop_brings_everything_to_the_database(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        orders = await asyncio.gather(*(Workshop(storage).order() for _ in range(100)))
        assert await storage.drain(10.0)
        for order in orders:
            assert await storage.database.load_order(order.id) == order
        assert await storage.database.position() == Position(1, 100)


async def test_what_a_stop_could_not_bring_is_replayed_exactly_once(tmp_path: Path) -> None:
    async with opened(tmp_path, database_type=GatedDatabase, drain_s=0.05) as storage:
        shop = Workshop(storage)
        order = await shop.order(reference="r")
        await shop.persisted()
        gated_database(storage).away = True
        order = (await shop.comment(order)).order
        other = await shop.order()
        assert not await storage.drain(0.05)
    for replayed in (2, 0):
        async with opened(tmp_path) as storage:
            assert storage.change_log.replayed == replayed
            assert await storage.reads.order(order.id) == order
            assert await storage.reads.order(other.id) == other
            await Workshop(storage).persisted()
            assert await held(storage, order) == (order, [1, 2])
            assert await held(storage, other) == (other, [1])


async def test_lists_after_a_replay_show_what_the_database_lacks(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock, database_type=GatedDatabase, drain_s=0.05) as storage:
        order = await Workshop(storage).order()
        await Workshop(storage).persisted()
        gated_database(storage).away = True
        order = (await Workshop(storage).comment(order)).order
    async with opened(tmp_path, clock, database_type=GatedDatabase, drain_s=0.05) as storage:
        gated_database(storage).away = True
        bodies = await storage.reads.views.bodies(ListQuery(), 10)
        assert bodies == [(await storage.reads.get(order.id)).held.body]
        assert b'"version":2' in bodies[0]


async def test_dead_letters_keep_their_order_parked_across_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        poison(database_of(tmp_path), order.id)
        await shop.comment(order)
    async with opened(tmp_path) as storage:
        assert storage.tail.parked == [order.id]
        assert (await storage.reads.order(order.id)).version == 2
        cure(database_of(tmp_path))
        await storage.replay_dead_letters(order.id)
        assert (await Workshop(storage).comment(order)).order.version == 3


async def test_a_list_that_is_loaded_shows_a_parked_order_as_it_was_acknowledged(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        poison(database_of(tmp_path), order.id)
        await shop.step(order, Status.FILE_UPLOADED, SHOP)
        await shop.persisted()
        storage.reads.views.clear()
        submitted = ListQuery(filter=OrderFilter(statuses=frozenset({Status.FILE_UPLOADED})))
        assert len(await storage.reads.views.bodies(submitted, 10)) == 1
        opened_orders = ListQuery(filter=OrderFilter(statuses=frozenset({Status.INITIATED})))
        assert await storage.reads.views.bodies(opened_orders, 10) == []
        cure(database_of(tmp_path))


async def test_the_first_orders_after_a_start_need_no_database(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        with locked(database_of(tmp_path)):
            order = await Workshop(storage).order()
            assert (await storage.reads.order(order.id)).number == order.number


async def test_a_change_that_comes_after_the_stop_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        order = await Workshop(storage).order()
        await storage.drain(10.0)
        with pytest.raises(Unavailable):
            await Workshop(storage).comment(order)


# Two epochs of the log


async def test_a_lost_log_begins_a_new_epoch_and_nothing_of_the_database_is_lost(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        order = await Workshop(storage).approved()
    for path in tmp_path.glob("log.db*"):
        path.unlink()
    async with opened(tmp_path) as storage:
        assert storage.change_log.epoch == 2
        assert await storage.database.position() == Position(2, 0)
        taken = await Workshop(storage).take(order)
        assert (taken.order.version, taken.in_database) == (order.version + 1, True)
        assert taken.position == Position(2, 1)
    async with opened(tmp_path) as storage:
        assert storage.change_log.epoch == 2
        assert await storage.reads.order(order.id) == taken.order


async def test_a_database_replaced_by_an_older_copy_gets_what_the_log_holds(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with opened(data) as storage:
        order = await Workshop(storage).order()
    copy_database(data, copy)
    async with opened(data) as storage:
        order = (await Workshop(storage).comment(order)).order
        other = await Workshop(storage).order()
    copy_database(copy, data)
    async with opened(data) as storage:
        assert storage.change_log.replayed == 2
        await Workshop(storage).persisted()
        assert await held(storage, order) == (order, [1, 2])
        assert await held(storage, other) == (other, [1])


@pytest.mark.parametrize("epoch", [1, 4], ids=["replayed", "united"])
async def test_numbers_are_not_given_twice_after_an_older_copy_was_restored(
    tmp_path: Path, epoch: int
) -> None:
    """The copy does not know the blocks that were leased after it."""
    data, copy, bounds = tmp_path / "data", tmp_path / "copy", smaller(number_block=2)
    async with opened(data, bounds=bounds) as storage:
        await Workshop(storage).order()
    copy_database(data, copy)
    async with opened(data, bounds=bounds) as storage:
        orders = [await Workshop(storage).order() for _ in range(9)]
    copy_database(copy, data)
    execute(database_of(data), f"UPDATE log_positions SET epoch = {epoch}")
    async with opened(data, bounds=bounds) as storage:
        orders += [await Workshop(storage).order() for _ in range(9)]
        await Workshop(storage).persisted()
        assert await storage.database.load_dead_letters() == []
        assert len({order.number for order in orders}) == 18


async def test_what_an_unknown_log_holds_is_united_into_the_database(tmp_path: Path) -> None:
    """The database is of another epoch: entries that it has are skipped, the others are applied."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with opened(data) as storage:
        order = await Workshop(storage).order()
    copy_database(data, copy)
    async with opened(data) as storage:
        order = (await Workshop(storage).comment(order)).order
        other = await Workshop(storage).order()
    copy_database(copy, data)
    execute(database_of(data), "UPDATE log_positions SET epoch = 4, position = 77")
    async with opened(data) as storage:
        assert storage.change_log.epoch == 5
        assert await held(storage, order) == (order, [1, 2])
        assert await held(storage, other) == (other, [1])
        assert (await Workshop(storage).comment(order)).position == Position(5, 1)
        assert (await storage.reads.order(order.id)).version == 3


async def test_a_crash_within_a_rebase_is_made_good_by_the_next(tmp_path: Path) -> None:
    """The database has begun the new epoch, the log has not."""
    async with opened(tmp_path) as storage:
        order = await Workshop(storage).approved()
        order = (await Workshop(storage).take(order, IVAN)).order
    execute(database_of(tmp_path), "UPDATE log_positions SET epoch = 2, position = 0")
    async with opened(tmp_path) as storage:
        assert storage.change_log.epoch == 3
        assert await held(storage, order) == (order, list(range(1, order.version + 1)))
        assert await storage.database.load_dead_letters() == []


async def test_a_writer_that_lost_its_position_ends_and_says_so(tmp_path: Path) -> None:
    migrate_sqlite(database_of(tmp_path))
    bounds, clock = smaller(), ManualClock()
    database, log = (
        SqliteDatabase(database_of(tmp_path), 0.1, 1, 5.0),
        SqliteLog(tmp_path / "log.db", 1.0, 5.0),
    )
    await database.open()
    await log.open()
    storage = Storage(
        database,
        lambda tail: EmbeddedChangeLog(log, database, tail, bounds, clock),
        analyser="1",
        bounds=bounds,
        clock=clock,
    )
    deaths: dict[str, BaseException] = {}
    await storage.open(deaths.__setitem__)
    execute(database_of(tmp_path), "UPDATE log_positions SET position = 5")
    await Workshop(storage).order()
    await until(lambda: deaths)
    assert {name: type(error).__name__ for name, error in deaths.items()} == {"write-behind": "Fenced"}
    await storage.drain(1.0)
    await storage.close()
