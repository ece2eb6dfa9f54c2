"""Redis stalls, is full, forgets its scripts or loses an answer: changes are refused or happen once, and
reads go on."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis

from server.demo.private_servers.servers import ValkeyServer, ask
from storage.cache.read_through import CacheStatus
from storage.errors import LogUnavailable, OutcomeUnknown, Unavailable
from storage.log.entries import Position
from storage.orders.filters import ListQuery
from storage.orders.order import Order
from storage.redis.connection import opened
from storage.redis.endpoint import endpoint_of
from storage.redis.keys import Keys
from storage.redis.scripts import APPEND
from tests.support.acts import keyed
from tests.support.gates import turns, until
from tests.support.proxies import proxied
from tests.support.shared_processes import PostgresData, Process, RedisFacet
from tests.support.small_bounds import smaller

BOUNDS = smaller(lease_s=0.5, rebase_patience_s=0.5, shared_idle_s=0.1, shared_deadline_s=0.75)


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> ValkeyServer:
    redis_server.start()
    ask(redis_server.port, "CONFIG", "SET", "maxmemory", "0")
    ask(redis_server.port, "FLUSHALL")
    return redis_server


@pytest.fixture
def facet(migrated_database: str, valkey: ValkeyServer) -> RedisFacet:
    return RedisFacet(PostgresData(migrated_database), valkey.url, lambda: None)


@pytest.fixture
async def process(facet: RedisFacet) -> AsyncIterator[Process]:
    async with facet.open(BOUNDS) as process:
        yield process


async def test_while_redis_stalls_changes_are_refused_quickly_and_reads_are_marked_stale(
    process: Process, valkey: ValkeyServer
) -> None:
    order, epoch = await process.shop.order(), process.tier.epoch
    await process.persisted()
    valkey.pause()
    try:
        began_s = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await process.shop.comment(order, keyed=keyed("a"))
        assert time.monotonic() - began_s < 1.0
        await until(lambda: not process.tier.joined)
        began_s = time.monotonic()
        for _ in range(10):
            with pytest.raises(LogUnavailable):
                await process.shop.create()
        assert time.monotonic() - began_s < 0.1
        await until(lambda: not process.storage.reads.fresh)
        assert (await process.storage.reads.get(order.id)).source == CacheStatus.STALE
        page = await process.storage.reads.page(ListQuery(), 10, process.storage.clock.now())
        assert page.source == CacheStatus.STALE
    finally:
        valkey.resume()
    await until(lambda: process.tier.joined)
    assert process.tier.epoch == epoch
    again = await process.shop.comment(order, keyed=keyed("a"))
    assert again.order.version == 2
    await process.persisted()
    history = await process.database.load_history(order.id)
    assert [item.version for item in history] == [1, 2]
    assert (await process.storage.reads.get(order.id)).source == CacheStatus.LOCAL


async def test_full_redis_refuses_changes_and_nothing_else(process: Process, valkey: ValkeyServer) -> None:
    async with process.writes.closed() as gate:
        order = await process.shop.order()
        await gate.reached()
        ask(valkey.port, "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable) as refused:
            await process.shop.comment(order)
        assert not isinstance(refused.value, OutcomeUnknown)
        assert process.storage.change_log.last_error is not None
        assert await process.storage.reads.order(order.id) == order
    await process.persisted()
    await until(lambda: ask(valkey.port, "HGET", "{facet}:meta", "flushed") == "1")
    assert int(ask(valkey.port, "TTL", order_key(process, order.id))) > 0
    assert process.tier.joined
    assert process.storage.change_log.last_error is not None
    ask(valkey.port, "CONFIG", "SET", "maxmemory", "0")
    await until(lambda: process.storage.change_log.last_error is None)  # without a change
    assert (await process.shop.comment(order)).order.version == 2


def order_key(process: Process, order_id: str) -> str:
    return f"{{facet}}:{process.tier.epoch}:order:{order_id}"


async def test_a_change_whose_answer_got_lost_happens_once(facet: RedisFacet, valkey: ValkeyServer) -> None:
    async with proxied(valkey.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with facet.open(BOUNDS, url=url) as process:
            order = await process.shop.order()
            proxy.lose_answer_to = APPEND.sha.encode()
            with pytest.raises(OutcomeUnknown):
                await process.shop.comment(order, keyed=keyed("a"))
            assert proxy.lost.is_set()
            proxy.lose_answer_to = None
            await until(lambda: process.tier.joined)
            again = await process.shop.comment(order, keyed=keyed("a"))
            assert (again.order.version, again.repeated) == (2, True)
            assert process.storage.tail.head == 2
            await process.persisted()
            assert [item.version for item in await process.database.load_history(order.id)] == [1, 2]


async def test_forgotten_scripts_do_no_harm(process: Process, valkey: ValkeyServer) -> None:
    order, joins = await process.shop.order(), process.tier.joins
    ask(valkey.port, "SCRIPT", "FLUSH")
    with pytest.raises(Unavailable):
        await process.shop.comment(order)
    await until(lambda: process.tier.joined and process.tier.joins > joins)
    assert (await process.shop.comment(order)).order.version == 2
    await process.persisted()
    await until(lambda: ask(valkey.port, "HGET", "{facet}:meta", "flushed") == "2")


async def test_a_value_of_another_format_is_a_miss(
    facet: RedisFacet, process: Process, valkey: ValkeyServer
) -> None:
    order = await process.shop.order()
    await process.persisted()
    ask(valkey.port, "SET", order_key(process, order.id), "9 of a later release")
    async with facet.open(BOUNDS) as another:
        found = await another.storage.reads.get(order.id)
        assert (found.source, found.held.version) == (CacheStatus.MISS, 1)


async def test_the_master_turned_replica_is_left_and_nothing_is_lost(
    process: Process, valkey: ValkeyServer
) -> None:
    order = await process.shop.order()
    ask(valkey.port, "REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(OutcomeUnknown):
            await process.shop.comment(order)
        await until(lambda: not process.tier.joined)
    finally:
        ask(valkey.port, "REPLICAOF", "NO", "ONE")
    await until(lambda: process.tier.joined)
    assert (await process.shop.comment(order)).order.version == 2


# What Redis holds


async def test_a_pending_order_has_no_expiry_and_gets_one_when_the_database_has_it(
    process: Process, valkey: ValkeyServer
) -> None:
    async with process.writes.closed():
        order = await process.shop.order()
        assert ask(valkey.port, "TTL", order_key(process, order.id)) == -1
    await process.persisted()
    await until(lambda: ask(valkey.port, "TTL", order_key(process, order.id)) > 0)


async def test_a_fill_never_goes_backwards(process: Process, valkey: ValkeyServer) -> None:
    tier = process.tier
    old = await process.shop.order(note="old")
    before = Position(tier.epoch, process.storage.tail.head)
    new = (await process.shop.edit(old, note="new")).order
    await process.persisted()
    await until(lambda: ask(valkey.port, "HGET", "{facet}:meta", "flushed") == "2")
    ask(valkey.port, "DEL", order_key(process, old.id))

    async def offered(version: Order, seen: Position) -> Order | None:
        refused, kept = tier.status().fills_refused, tier.status().fills
        tier.offer(version, seen)
        await until(lambda: tier.status().fills_refused + tier.status().fills > refused + kept)
        return await tier.load(old.id)

    now = Position(tier.epoch, process.storage.tail.head)
    assert await offered(old, before) is None
    assert await offered(new, now) == new
    assert await offered(old, now) == new
    ask(valkey.port, "DEL", order_key(process, old.id))
    ask(valkey.port, "HSET", f"{{facet}}:{tier.epoch}:voids", old.id, str(now.n + 1))
    assert await offered(new, now) is None  # its load began before an invalidation
    after = Position(tier.epoch, now.n + 1)
    assert await offered(new, Position(tier.epoch - 1, after.n)) is None
    assert await offered(new, after) == new
    ask(valkey.port, "HDEL", f"{{facet}}:{tier.epoch}:marks", old.id)  # as when the log is trimmed
    assert await offered(old, after) == new


async def test_an_entry_in_redis_is_as_other_releases_read_it(process: Process, valkey: ValkeyServer) -> None:
    """Two releases run side by side: what one writes, the scripts of the other trim."""
    created = await process.shop.create(reference="r")
    await process.shop.edit(created.order, reference=None)
    with redis.Redis.from_url(valkey.url) as client:
        entries = client.xrange(Keys("facet", process.tier.epoch).log)
    claimed = f"reference {created.order.created_by} r".encode()
    assert [list(fields) for _, fields in entries] == [[b"p", b"o", b"c", b"f"]] * 2
    assert [fields[b"c"] for _, fields in entries] == [claimed + b"\x1f", b"\x1f" + claimed]
    assert {fields[b"o"] for _, fields in entries} == {created.order.id.encode()}


# The link


async def test_a_link_is_cancelled_whenever_it_is(valkey: ValkeyServer) -> None:
    """While it sends, while it waits, when the answer has just come."""
    for count in range(40):
        link = await opened(endpoint_of(valkey.url, "facet", 0.4), 0.4)

        async def asking() -> None:
            while True:
                await link.call("PING")  # noqa: B023

        task = asyncio.create_task(asking())
        await turns(count)
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        await link.close()
