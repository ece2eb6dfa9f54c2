"""Models on several processes over one Redis and one PostgreSQL: one computes, all know, and who may see a
model is the same everywhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from server.demo.private_servers.servers import ValkeyServer
from storage.models.shared import Refusal
from storage.services.models import ModelRefused
from storage.services.stack import Storage
from tests.support.computations import FACTS, Computation
from tests.support.floods import answered_from_memory, ask_once, make_popular, stored, upload_all
from tests.support.gates import until
from tests.support.shared_processes import PostgresData, Process, RedisFacet
from tests.support.small_bounds import smaller

RING = "5" * 64
COPY = f"{{facet}}:copy:facts:1:{RING}"
TURN = f"{{facet}}:turn:facts:{RING}"
REFUSAL = Refusal("no_facets", "The file has no facets.", "Export it again.")
QUICK = smaller(model_turn_s=0.4, model_look_max_s=0.05)
"""A process that has ended is noticed soon."""


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> ValkeyServer:
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server


@pytest.fixture
def facet(migrated_database: str, valkey: ValkeyServer) -> RedisFacet:
    return RedisFacet(PostgresData(migrated_database), valkey.url, lambda: None)


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """What another program sees in Redis."""
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@contextlib.asynccontextmanager
async def processes(facet: RedisFacet, count: int) -> AsyncIterator[list[Process]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(facet.open(QUICK)) for _ in range(count)]
        await until(lambda: all(process.tier.joined for process in opened))
        yield opened


async def upload(process: Process, work: Computation, tenant: str = "t") -> str:
    """Where the facts came from."""
    found, source = await process.storage.models.facts(RING, 7, tenant, work)
    assert (found.facts, found.byte_count) == (FACTS, 7)
    assert tenant in found.tenants
    return source


async def source_of(process: Process, tenant: str) -> str | None:
    found = await process.storage.models.find_for(RING, tenant)
    assert found is None or tenant in found[0].tenants
    return None if found is None else found[1]


async def persisted(*all_of_them: Process) -> None:
    for process in all_of_them:
        await stored(process.storage)


async def test_of_four_processes_one_computes_for_all_and_leaves_a_copy(
    facet: RedisFacet, client: redis.Redis
) -> None:
    work = [Computation() for _ in range(4)]
    async with processes(facet, 4) as opened:
        async with contextlib.AsyncExitStack() as stack:
            for each in work:
                await stack.enter_async_context(each.gate.closed())
            callers = [
                asyncio.create_task(upload(process, each))
                for process, each in zip(opened, work, strict=True)
                for _ in range(100)
            ]
            await until(lambda: any(each.gate.waiting for each in work))
            assert client.exists(TURN)
        sources = await asyncio.gather(*callers)
        assert sum(each.count for each in work) == 1
        assert sources.count("computed") == 100
        assert sources.count("shared") == 300
        assert sum(process.storage.models.computing.computations for process in opened) == 1
        assert sum(process.storage.models.computing.takeovers for process in opened) == 0
        copy = client.get(COPY)
        assert copy is not None
        assert FACTS in copy
        assert 0 < client.ttl(COPY) <= QUICK.shared_ttl_s
        await until(lambda: not client.exists(TURN))


async def test_a_long_computation_keeps_its_turn(facet: RedisFacet, client: redis.Redis) -> None:
    slow, idle = Computation(), Computation()
    async with processes(facet, 2) as (one, two):
        async with slow.gate.closed():
            first = asyncio.create_task(upload(one, slow))
            await slow.gate.reached()
            second = asyncio.create_task(upload(two, idle))
            for _ in range(4):  # renewed so often: more than a whole turn has gone by
                await until(lambda: client.pttl(TURN) < 0.8 * 1000 * QUICK.model_turn_s)
                await until(lambda: client.pttl(TURN) > 0.9 * 1000 * QUICK.model_turn_s)
            assert idle.count == 0
        assert (await first, await second) == ("computed", "shared")


async def test_when_the_computing_process_is_killed_another_takes_over(facet: RedisFacet) -> None:
    lost, works = Computation(), [Computation(), Computation()]
    async with processes(facet, 3) as (one, two, three):
        async with lost.gate.closed():
            gone = asyncio.create_task(upload(one, lost))
            await lost.gate.reached()
            waiting = [asyncio.create_task(upload(*each)) for each in zip((two, three), works, strict=True)]
            await one.crash()
            gone.cancel()
            assert sorted(await asyncio.gather(*waiting)) == ["computed", "shared"]
        assert works[0].count + works[1].count == 1
        assert [p.storage.models.computing.takeovers for p in (two, three)].count(1) == 1
        await asyncio.gather(gone, return_exceptions=True)


async def test_what_failed_for_a_passing_reason_on_one_process_is_tried_on_another(
    facet: RedisFacet, client: redis.Redis
) -> None:
    busy, free = Computation(fails=ConnectionError("all workers are busy")), Computation()
    async with processes(facet, 2) as (one, two):
        async with busy.gate.closed():
            failing = asyncio.create_task(upload(one, busy))
            await busy.gate.reached()
            waiting = asyncio.create_task(upload(two, free))
            await until(lambda: client.exists(TURN))
        with pytest.raises(ConnectionError):
            await failing
        assert not one.storage.models.refusals
        assert await waiting == "computed"


async def test_a_file_refused_on_one_process_is_refused_on_the_others_without_a_look(
    facet: RedisFacet, client: redis.Redis
) -> None:
    look, never = Computation(REFUSAL), Computation()
    async with processes(facet, 2) as (one, two):
        for process, work in ((one, look), (two, never), (two, never)):
            with pytest.raises(ModelRefused) as refused:
                await upload(process, work)
            assert refused.value.refusal == REFUSAL
        assert (look.count, never.count) == (1, 0)
        assert two.storage.models.loads == 0
        assert 0 < client.ttl(COPY) <= 60


async def test_while_redis_is_away_every_process_computes_for_itself(
    facet: RedisFacet, valkey: ValkeyServer
) -> None:
    work = [Computation(), Computation()]
    async with processes(facet, 2) as opened:
        valkey.kill()
        await until(lambda: not any(process.tier.joined for process in opened))
        sources = await asyncio.gather(*(upload(*each) for each in zip(opened, work, strict=True)))
        assert sources == ["computed", "computed"]
        assert [await source_of(process, "t") for process in opened] == ["local", "local"]
        valkey.start()
        await until(lambda: all(process.tier.joined for process in opened))


async def test_redis_going_away_ends_the_wait_for_another_process(
    facet: RedisFacet, valkey: ValkeyServer
) -> None:
    slow, quick = Computation(), Computation()
    async with processes(facet, 2) as (one, two):
        async with slow.gate.closed():
            first = asyncio.create_task(upload(one, slow))
            await slow.gate.reached()
            second = asyncio.create_task(upload(two, quick))
            valkey.kill()
            assert await second == "computed"
        assert await first == "computed"
        valkey.start()


async def test_a_model_uploaded_on_one_process_is_known_to_its_tenant_on_the_others_at_once(
    facet: RedisFacet,
) -> None:
    """Also where it was asked for a moment before, and never to anybody else."""
    async with processes(facet, 2) as (one, two):
        assert await source_of(two, "owner") is None
        assert await upload(one, Computation(), "owner") == "computed"
        assert await source_of(two, "owner") == "shared"
        for process in (one, two, two):
            assert await source_of(process, "stranger") is None
        await persisted(one, two)
        assert await source_of(two, "stranger") is None
        assert await upload(two, Computation(), "stranger") == "local"
        assert await source_of(one, "stranger") == "shared"


async def test_a_stranger_asks_the_database_once_in_a_while(facet: RedisFacet) -> None:
    async with processes(facet, 2) as (one, two):
        await upload(one, Computation(), "owner")
        assert await source_of(two, "owner") == "shared"
        assert [await source_of(two, "stranger") for _ in range(10)] == [None] * 10
        assert two.storage.models.loads == 1


async def test_who_may_see_a_model_survives_the_loss_of_every_copy(
    facet: RedisFacet, client: redis.Redis
) -> None:
    async with processes(facet, 2) as (one, two):
        await upload(one, Computation(), "first")
        assert await source_of(two, "first") == "shared"
        await upload(one, Computation(), "second")
        await persisted(one)
        client.delete(*client.keys("{facet}:copy:*"))
        assert await source_of(two, "second") == "database"
        assert await source_of(two, "third") is None


async def test_requests_on_several_processes_add_up_in_the_database(facet: RedisFacet) -> None:
    async with processes(facet, 3) as opened:
        for process in opened:
            for _ in range(4):
                await upload(process, Computation())
        await persisted(*opened)
        found = await opened[0].database.load_model(RING)
        assert found is not None
        assert found.score == pytest.approx(12, abs=0.01)
        for process in opened:
            await upload(process, Computation())
        await persisted(*opened)
        found = await opened[0].database.load_model(RING)
        assert found is not None
        assert found.score == pytest.approx(15, abs=0.01)


async def test_a_model_invalidated_on_one_process_is_read_again_on_all(facet: RedisFacet) -> None:
    async with processes(facet, 2) as (one, two):
        await upload(one, Computation())
        await upload(two, Computation())
        await persisted(one, two)
        facet.data.execute("UPDATE models SET facts = 'mended'")
        assert await two.storage.invalidate_model(RING)

        async def facts_of(storage: Storage) -> bytes | None:
            found = await storage.models.find(RING)
            return None if found is None else found[0].facts

        assert await facts_of(two.storage) == b"mended"
        await until(lambda: one.storage.models.cache.peek(RING) is None)
        assert await facts_of(one.storage) == b"mended"


@pytest.mark.parametrize("value", [b"2 of another release", b"1\xc1 garbled", b""])
async def test_a_copy_that_cannot_be_read_is_none(
    facet: RedisFacet, client: redis.Redis, value: bytes
) -> None:
    client.set(COPY, value)
    client.set(COPY.replace(":1:", ":0:"), b"1\x93\x07\xc4\x03old\xc0")
    async with processes(facet, 1) as (one,):
        assert await upload(one, Computation()) == "computed"


async def test_copies_of_many_models_are_asked_for_at_once(facet: RedisFacet) -> None:
    names = [f"{n:064}" for n in range(200)]
    async with processes(facet, 2) as (one, two):
        await upload_all(one.storage.models, names)
        found = await asyncio.gather(*(two.storage.models.find(name) for name in names))
        assert {each and each[1] for each in found} == {"shared"}
        assert two.storage.models.loads == 0


async def test_after_a_restart_and_ten_thousand_others_the_popular_models_answer_from_memory(
    facet: RedisFacet, client: redis.Redis
) -> None:
    """With PostgreSQL: the flood comes through one process, the popular ones through another."""
    async with processes(facet, 2) as (one, two):
        await make_popular(one.storage.models)
        await ask_once(two.storage.models, (f"once-{n}" for n in range(10_000)))
        await persisted(one, two)
    client.flushall()
    async with processes(facet, 1) as (process,):
        models, bounds = process.storage.models, process.storage.bounds
        assert await models.warm(bounds.warm_models) == bounds.warm_models
        assert models.loads == 0
        assert await answered_from_memory(models)
        await ask_once(models, (f"again-{n}" for n in range(10_000)))
        assert await answered_from_memory(models)
