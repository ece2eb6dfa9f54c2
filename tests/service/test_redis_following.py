"""Several processes follow one log: what each sees and when, who brings it to the database, and what becomes
of one that falls behind or is gone."""

import asyncio
import time

import pytest
import redis

from storage.errors import Claimed
from storage.log.entries import Position
from storage.memory.lru import MISS
from storage.orders.encoded import EncodedOrder
from tests.contracts.change_log import listed
from tests.support.changes import an_order, created, entry_of
from tests.support.gates import until
from tests.support.proxies import proxied
from tests.support.shared_processes import PostgresData, Process, RedisFacet
from tests.support.small_bounds import smaller
from tests.support.stacks import IVAN, ManualClock

BOUNDS = smaller(lease_s=0.5, rebase_patience_s=0.5)


@pytest.fixture
def facet(migrated_database: str, fresh_redis: str) -> RedisFacet:
    return RedisFacet(PostgresData(migrated_database), fresh_redis, lambda: None)


def port_of(facet: RedisFacet) -> int:
    return int(facet.url.rpartition(":")[2].partition("/")[0])


def active_and_other(*processes: Process) -> tuple[Process, Process]:
    (active,) = [each for each in processes if each.storage.lease.held]
    (other,) = [each for each in processes if each is not active]
    return active, other


# Freshness


async def test_who_cannot_follow_does_not_answer_from_its_local_tier(facet: RedisFacet) -> None:
    clock = ManualClock()
    async with proxied(port_of(facet)) as proxy, facet.open(BOUNDS) as here:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with facet.open(BOUNDS, clock, url=url) as there:
            order = await here.shop.order()
            assert await there.storage.change_log.reach_head()
            assert isinstance(there.storage.reads.peek(order.id), EncodedOrder)
            proxy.hold()
            await here.shop.comment(order)
            assert isinstance(there.storage.reads.peek(order.id), EncodedOrder)  # within the bound
            clock.move(BOUNDS.freshness_s + 0.01)
            assert there.storage.reads.peek(order.id) is MISS
            proxy.restore()
            await until(lambda: there.storage.reads.fresh)
            assert (await there.storage.reads.order(order.id)).version == 2


async def test_who_resumes_past_the_trimmed_end_is_emptied_and_right_again(facet: RedisFacet) -> None:
    bounds = smaller(lease_s=0.5, log_keep_entries=0, flush_batch_entries=5)
    async with proxied(port_of(facet)) as proxy, facet.open(bounds) as here:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with facet.open(bounds, url=url) as there:
            order, idle = await here.shop.order(), await here.shop.order()
            await there.storage.change_log.reach_head()
            await listed(there.storage)
            joins = there.tier.joins
            proxy.cut()
            await until(lambda: not there.tier.joined)
            for number in range(20):
                order = (await here.shop.comment(order, str(number))).order
            await here.persisted()
            with redis.Redis.from_url(facet.url) as client:
                await until(lambda: int(client.hget("{facet}:meta", "floor") or 0) > 2)
            proxy.restore()
            await until(lambda: there.tier.joins > joins)
            await there.storage.change_log.reach_head()
            assert there.storage.tail.head == here.storage.tail.head
            assert await there.storage.reads.order(order.id) == order
            assert await there.storage.reads.order(idle.id) == idle
            assert await listed(there.storage) == await listed(here.storage)
            assert (await there.shop.comment(order)).order.version == order.version + 1


# Who brings it to the database


async def test_one_of_two_is_active_and_the_other_learns_how_far_it_is(facet: RedisFacet) -> None:
    async with facet.open(BOUNDS) as here, facet.open(BOUNDS) as there:
        await until(lambda: here.storage.lease.held or there.storage.lease.held)
        active, other = active_and_other(here, there)
        order = await other.shop.approved()
        outcome = await other.shop.take(order, IVAN)
        assert outcome.in_database
        await until(lambda: len(active.storage.tail) == len(other.storage.tail) == 0)
        assert other.storage.write_behind.batches == 0
        assert active.storage.write_behind.entries == outcome.position.n


async def test_a_lost_notice_is_made_up_for_by_a_look_at_the_database(facet: RedisFacet) -> None:
    async with facet.open(BOUNDS) as here, facet.open(BOUNDS) as there:
        await until(lambda: here.storage.lease.held or there.storage.lease.held)
        active, other = active_and_other(here, there)
        active.tier._outbox.flushed = lambda flushed: None  # type: ignore[method-assign]
        outcome = await other.shop.create()
        await other.storage.write_behind.wait_for(outcome.position.n, 5.0)
        assert other.storage.write_behind.batches == 0
        with redis.Redis.from_url(facet.url) as client:
            assert client.hget("{facet}:meta", "flushed") == b"0"


async def test_when_the_active_process_is_gone_another_takes_over_within_seconds(facet: RedisFacet) -> None:
    async with facet.open(BOUNDS) as here:
        await until(lambda: here.storage.lease.held)
        async with facet.open(BOUNDS) as there:
            here.writes.close()
            order = await here.shop.order()
            await there.storage.change_log.reach_head()
            began_s = time.monotonic()
            await here.crash()
            await there.persisted()
            assert time.monotonic() - began_s < 2.0
            assert await there.database.load_order(order.id) == order
            assert there.storage.lease.held


async def test_an_active_process_that_is_cut_off_from_redis_lets_another_take_over(
    facet: RedisFacet,
) -> None:
    """It reaches the database, but no longer knows what there is to bring."""
    async with (
        proxied(port_of(facet)) as proxy,
        facet.open(BOUNDS, url=f"redis://127.0.0.1:{proxy.port}/0") as there,
    ):
        await until(lambda: there.storage.lease.held)
        async with facet.open(BOUNDS) as here:
            proxy.cut()
            await until(lambda: not there.tier.joined)
            outcome = await here.shop.create()
            await here.storage.write_behind.wait_for(outcome.position.n, 5.0)
            assert here.storage.lease.held
            proxy.restore()
            await until(lambda: there.tier.joined)
            assert await there.storage.reads.order(outcome.order.id) == outcome.order


async def test_a_process_that_ends_in_order_gives_its_place_at_once(facet: RedisFacet) -> None:
    bounds = smaller(lease_s=30.0)
    async with facet.open(bounds) as there:
        await until(lambda: there.storage.lease.held)
    async with facet.open(bounds) as here:
        await until(lambda: here.storage.lease.held)


async def test_who_is_overtaken_in_the_database_learns_the_position_and_confirms_those_who_wait(
    facet: RedisFacet,
) -> None:
    """It was stopped inside its transaction, and lost its lease meanwhile."""
    async with facet.open(BOUNDS) as here:
        await until(lambda: here.storage.lease.held)
        async with here.writes.closed() as gate:
            outcome = await here.shop.create()
            waiting = asyncio.create_task(here.storage.write_behind.wait_for(outcome.position.n, 5.0))
            await gate.reached()
            async with facet.open(BOUNDS) as there:
                there.tier._outbox.flushed = lambda flushed: None  # type: ignore[method-assign]
                batch = [each.logged for each in there.storage.tail.waiting]
                old = await there.database.position()
                await there.database.apply(batch, old, Position(old.epoch, batch[-1].n))
                gate.open()
                await waiting
        assert here.storage.write_behind.batches == 0
        assert here.storage.write_behind.last_error is None
        assert await here.database.load_order(outcome.order.id) == outcome.order
        assert [each.version for each in await here.database.load_history(outcome.order.id)] == [1]


async def test_a_commit_whose_answer_got_lost_takes_effect_once(facet: RedisFacet) -> None:
    async with facet.open(BOUNDS) as here:
        await until(lambda: here.storage.lease.held)
        here.gated.lose_answers = 1
        outcome = await here.shop.create()
        await here.storage.write_behind.wait_for(outcome.position.n, 5.0)
        assert here.storage.write_behind.failures == 1
        order = (await here.shop.comment(outcome.order)).order
        await here.persisted()
        assert await here.database.load_order(order.id) == order
        assert [each.version for each in await here.database.load_history(order.id)] == [1, 2]


async def test_refused_changes_do_not_keep_a_process_from_following(facet: RedisFacet) -> None:
    """A refusal says nothing of the log's end, however fast one follows the other."""
    async with facet.open(BOUNDS) as here, facet.open(BOUNDS) as there:
        order = await here.shop.order()
        await here.storage.change_log.append(entry_of(created(an_order(1, reference="r"))))
        assert await there.storage.change_log.reach_head()
        stopped, refused = asyncio.Event(), 0

        async def ask_for_what_is_taken() -> None:
            nonlocal refused
            while not stopped.is_set():
                with pytest.raises(Claimed):
                    await there.storage.change_log.append(entry_of(created(an_order(2, reference="r"))))
                refused += 1

        asking = asyncio.create_task(ask_for_what_is_taken())
        await until(lambda: refused > 1_000)  # a read of the log that had begun before is over
        changed = await here.shop.comment(order)
        await until(lambda: there.storage.reads.has_seen(changed.position))
        stopped.set()
        await asking
