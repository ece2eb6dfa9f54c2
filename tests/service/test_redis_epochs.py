"""Redis loses its memory, in every way it can: what was acknowledged and some process holds is in the
database afterwards, once, and nothing goes backwards."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from server.demo.private_servers.servers import (
    CommandFailed,
    ValkeyCluster,
    ValkeySentinel,
    ValkeyServer,
    ask,
)
from storage.errors import Incompatible, LogUnavailable, Unavailable
from storage.memory.lru import MISS
from storage.orders.order import Order
from storage.redis.keys import Keys
from tests.support.acts import keyed
from tests.support.gates import DEADLINE_S, until
from tests.support.proxies import Proxy, proxied
from tests.support.shared_processes import PostgresData, Process, RedisFacet
from tests.support.small_bounds import smaller

BOUNDS = smaller(rebase_patience_s=0.5, lease_s=0.5)


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> ValkeyServer:
    redis_server.start()
    ask(redis_server.port, "FLUSHALL")
    return redis_server


def flushed_all(server: ValkeyServer) -> None:
    ask(server.port, "FLUSHALL")


def killed(server: ValkeyServer) -> None:
    server.kill()
    server.start()


def stopped(server: ValkeyServer) -> None:
    server.stop()
    server.start()


LOSSES: list[Callable[[ValkeyServer], None]] = [flushed_all, killed, stopped, ValkeyServer.restart_empty]


@pytest.fixture
def facet(migrated_database: str, valkey: ValkeyServer) -> RedisFacet:
    return RedisFacet(PostgresData(migrated_database), valkey.url, lambda: flushed_all(valkey))


async def joined(*processes: Process) -> None:
    """On a busy machine they may have opened before Redis has answered."""
    await until(lambda: all(each.tier.joined for each in processes))


async def in_epoch(*processes: Process, after: int) -> None:
    """Returns when all of them follow a later epoch of the log."""
    await until(lambda: all(each.tier.joined and each.tier.epoch > after for each in processes))


async def commented(process: Process, order: Order) -> Order:
    """Tried again while the log is away for a moment more, as any caller would."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(Unavailable):
                return (await process.shop.comment(order)).order


async def shown(process: Process, order: Order) -> int:
    return (await process.storage.reads.order(order.id)).version


@pytest.mark.parametrize("lose", LOSSES)
async def test_what_was_acknowledged_is_in_the_database_and_goes_on(
    facet: RedisFacet, valkey: ValkeyServer, lose: Callable[[ValkeyServer], None]
) -> None:
    async with facet.open(BOUNDS) as here, facet.open(BOUNDS) as there:
        await joined(here, there)
        old = await here.shop.order(note="old")
        await here.persisted()
        async with here.writes.closed(), there.writes.closed():
            first = await here.shop.create(key=keyed("a"), reference="r")
            second = await there.shop.create()
            await here.shop.comment(old)
            epoch = here.tier.epoch
            await asyncio.to_thread(lose, valkey)
            await in_epoch(here, there, after=epoch)
        for process in (here, there):
            assert await shown(process, old) == 2
            assert await shown(process, first.order) == await shown(process, second.order) == 1
            assert process.storage.reads.has_seen(first.position)
            again = await process.shop.create(key=keyed("a"), reference="r")
            assert (again.order, again.repeated) == (first.order, True)
        assert (await there.shop.comment(old)).order.version == 3
        await asyncio.gather(here.persisted(), there.persisted())
        assert [item.version for item in await here.database.load_history(old.id)] == [1, 2, 3]
        assert await here.database.load_order(second.order.id) == second.order
        assert await here.database.load_dead_letters() == []
        assert {here.tier.epoch, there.tier.epoch} == {epoch + 1}


async def test_an_older_copy_of_redis_moves_nothing_back(
    facet: RedisFacet, valkey: ValkeyServer, tmp_path: Path
) -> None:
    async with facet.open(BOUNDS) as process:
        order = await process.shop.order()
        await process.persisted()
        copy = await asyncio.to_thread(dump_of, valkey)
        order = (await process.shop.edit(order, note="new")).order
        epoch = process.tier.epoch
        await asyncio.to_thread(restore, valkey, copy)
        await in_epoch(process, after=epoch)
        assert await process.storage.reads.order(order.id) == order
        assert (await commented(process, order)).version == 3
        await process.persisted()
        assert [item.version for item in await process.database.load_history(order.id)] == [1, 2, 3]


async def test_a_new_life_keeps_even_a_few_marks_in_a_hash_table(
    facet: RedisFacet, valkey: ValkeyServer
) -> None:
    """Not in a list that is searched for every change."""
    async with facet.open(BOUNDS) as process:
        await process.shop.order()
        with redis.Redis.from_url(valkey.url) as client:
            marks = Keys("facet", process.tier.epoch).marks
            assert client.object("encoding", marks) == b"hashtable"


def dump_of(server: ValkeyServer) -> dict[bytes, bytes]:
    with redis.Redis.from_url(server.url) as client:
        return {name: client.dump(name) for name in client.scan_iter()}


def restore(server: ValkeyServer, copy: dict[bytes, bytes]) -> None:
    """As a server that starts with the files of a backup."""
    server.restart_empty()
    with redis.Redis.from_url(server.url) as client:
        for name, value in copy.items():
            client.restore(name, 0, value, replace=True)


async def test_a_replica_without_the_tail_takes_over(
    migrated_database: str, redis_sentinel: ValkeySentinel
) -> None:
    group = redis_sentinel
    facet = RedisFacet(PostgresData(migrated_database), group.url, lambda: None)
    async with facet.open(BOUNDS) as here, facet.open(BOUNDS) as there:
        await joined(here, there)
        order = await here.shop.order()
        await here.persisted()
        async with here.writes.closed(), there.writes.closed():
            await asyncio.to_thread(group.replica.pause)
            changed = (await there.shop.comment(order)).order
            late = await here.shop.order()
            epoch = here.tier.epoch
            await asyncio.to_thread(group.master.kill)
            await asyncio.to_thread(group.replica.resume)
            await in_epoch(here, there, after=epoch)
            assert group.master_port() == group.replica.port
        for process in (here, there):
            assert await process.storage.reads.order(order.id) == changed
            assert await process.storage.reads.order(late.id) == late
        assert (await here.shop.comment(order)).order.version == 3
        await here.persisted()
        assert [item.version for item in await here.database.load_history(order.id)] == [1, 2, 3]


@pytest.fixture
def on_cluster(migrated_database: str, redis_cluster: ValkeyCluster) -> RedisFacet:
    """Facet on a cluster that is whole and empty."""
    redis_cluster.wait_until_ok()
    for each in redis_cluster.nodes:
        ask(each.port, "FLUSHALL")
    return RedisFacet(PostgresData(migrated_database), redis_cluster.url, lambda: None)


async def test_a_cluster_node_is_killed_and_comes_back(
    on_cluster: RedisFacet, redis_cluster: ValkeyCluster
) -> None:
    async with on_cluster.open(BOUNDS) as process:
        async with process.writes.closed():
            order = await process.shop.order()
            epoch = process.tier.epoch
            await asyncio.to_thread(killed, owner_of(redis_cluster))
            await in_epoch(process, after=epoch)
        assert (await commented(process, order)).version == 2
        await process.persisted()
        assert [item.version for item in await process.database.load_history(order.id)] == [1, 2]


async def test_the_slot_moves_to_another_node(on_cluster: RedisFacet, redis_cluster: ValkeyCluster) -> None:
    """The link learns of it by MOVED; what the other node lacks comes from the process."""
    async with on_cluster.open(BOUNDS) as process:
        async with process.writes.closed():
            order = await process.shop.order()
            epoch = process.tier.epoch
            await asyncio.to_thread(move_slot, redis_cluster, owner_of(redis_cluster), drop_keys)
            await in_epoch(process, after=epoch)
        assert (await commented(process, order)).version == 2
        await process.persisted()
        assert [item.version for item in await process.database.load_history(order.id)] == [1, 2]


async def test_the_slot_moves_with_its_keys(on_cluster: RedisFacet, redis_cluster: ValkeyCluster) -> None:
    """Key by key, while both nodes have a part: nothing is acknowledged that only one of them keeps."""
    async with on_cluster.open(BOUNDS) as process:
        async with process.writes.closed():
            order = await process.shop.order()
            moving = asyncio.create_task(
                asyncio.to_thread(move_slot, redis_cluster, owner_of(redis_cluster), move_keys)
            )
            said = 0
            while not moving.done():
                try:
                    order = (await process.shop.comment(order)).order
                    said += 1
                except LogUnavailable:
                    await until(lambda: moving.done() or process.tier.joined)
            await moving
            await until(lambda: process.tier.joined)
        await process.persisted()
        history = await process.database.load_history(order.id)
        assert [item.version for item in history] == list(range(1, len(history) + 1))
        assert len(history) >= 1 + said


def owner_of(cluster: ValkeyCluster) -> ValkeyServer:
    """The node that serves our slot now: others may have moved it before."""
    return next(node for node in cluster.nodes if _serves(node))


def _serves(node: ValkeyServer) -> bool:
    try:
        ask(node.port, "GET", "{facet}")
    except CommandFailed:
        return False
    return True


def drop_keys(home: ValkeyServer, target: ValkeyServer, slot: str) -> None:
    ask(home.port, "FLUSHALL")


def move_keys(home: ValkeyServer, target: ValkeyServer, slot: str) -> None:
    while keys := ask(home.port, "CLUSTER", "GETKEYSINSLOT", slot, "1"):
        ask(home.port, "MIGRATE", "127.0.0.1", str(target.port), keys[0], "0", "1000")


def move_slot(
    cluster: ValkeyCluster, home: ValkeyServer, empty: Callable[[ValkeyServer, ValkeyServer, str], None]
) -> None:
    """As an operator does it: a node that imports a slot claims it with an epoch of its own, which the former
    owner's gossip cannot outbid; and a node that hands its slot over refers those who miss a key to the
    other, so that nobody begins anew there meanwhile."""
    slot = str(ask(home.port, "CLUSTER", "KEYSLOT", "{facet}"))
    target = next(node for node in cluster.nodes if node is not home)
    name = ask(target.port, "CLUSTER", "MYID")
    ask(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", ask(home.port, "CLUSTER", "MYID"))
    ask(home.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", name)
    empty(home, target, slot)
    # The new one first: it then answers for the slot.
    for node in (target, *cluster.nodes):
        ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", name)


async def test_who_was_away_during_the_rebase_brings_its_part_late_and_others_are_told(
    facet: RedisFacet, valkey: ValkeyServer
) -> None:
    async with (
        proxied(valkey.port) as near,
        proxied(valkey.port) as far,
        facet.open(BOUNDS, url=url_of(near)) as here,
        facet.open(BOUNDS, url=url_of(far)) as there,
    ):
        order = await here.shop.order()
        await here.persisted()
        await there.storage.change_log.reach_head()
        async with here.writes.closed(), there.writes.closed():
            epoch = here.tier.epoch
            near.cut()
            await until(lambda: not here.tier.joined)
            changed = (await there.shop.comment(order)).order
            far.cut()
            await until(lambda: not there.tier.joined)
            await asyncio.to_thread(flushed_all, valkey)
            near.restore()
            await in_epoch(here, after=epoch)
            assert await shown(here, order) == 1
            far.restore()
            await in_epoch(there, after=epoch)
            await until(lambda: here.storage.tail.head == 1)
            await until(lambda: here.storage.reads.peek(order.id) is not MISS)
            for process in (here, there):
                assert await process.storage.reads.order(order.id) == changed
        assert (await here.shop.comment(order)).order.version == 3
        await here.persisted()
        assert [item.version for item in await here.database.load_history(order.id)] == [1, 2, 3]


def url_of(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


async def test_the_redis_of_another_installation_is_refused(facet: RedisFacet) -> None:
    async with facet.open(BOUNDS) as process:
        await process.shop.order()
    facet.data.execute("UPDATE installation SET id = 'another'")
    with pytest.raises(Incompatible, match="another Facet"):
        async with facet.open(BOUNDS):
            pass
