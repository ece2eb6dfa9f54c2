"""GETs of orders from Redis at 32 concurrent callers: the shared tier against `redis.asyncio.Redis`.

`get` is the bytes: `storage.redis.batched_reads.BatchedReads.get` against `Redis.get` with its default
connection pool, both with hiredis. `load` is the order: `RedisChangeLog.load` against the same `get` and the
same decoding.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import redis.asyncio

from benchmarks.engines import Engines, opened_storage
from benchmarks.harness import CALLERS
from benchmarks.writes_layers import drain, new_orders
from storage.bounds import Bounds
from storage.orders.order import decode_order
from storage.redis.batched_reads import BatchedReads
from storage.redis.connection import RedisConnection, opened
from storage.redis.endpoint import endpoint_of
from storage.redis.keys import Keys, body_of
from storage.services.stack import Storage

ORDERS = 400
OUR_GETS, THEIR_GETS = 20_000, 6_000
Get = Callable[[str], Awaitable[Any]]


class Round(NamedTuple):
    per_s: float
    cpu_us: float


async def measure_gets(engines: Engines, rounds: int) -> dict[str, list[Round]]:
    url = engines.postgres.create_database("gets")
    async with opened_storage(engines.redis.url, "gets", url) as storage:
        ids = await new_orders(storage, ORDERS)
        await drain(storage)
        reader, bounds = BatchedReads(Bounds()), Bounds()
        link = await opened(endpoint_of(engines.redis.url, "gets", bounds.shared_deadline_s), 1.0)
        reading = asyncio.create_task(reader.run(link, _nothing))
        client = redis.asyncio.Redis.from_url(engines.redis.url)
        try:
            return await _compare(storage, reader, client, ids, rounds)
        finally:
            reading.cancel()
            await client.aclose()
            await link.close()


async def _nothing(link: RedisConnection) -> None:
    """The change log's own reader does errands when nobody waits."""


async def _compare(
    storage: Storage, reader: BatchedReads, client: "redis.asyncio.Redis", ids: list[str], rounds: int
) -> dict[str, list[Round]]:
    keys = Keys("gets", storage.tail.epoch)
    names = [keys.order(order_id) for order_id in ids]

    async def get_and_decode(order_id: str) -> Any:
        value = await client.get(keys.order(order_id))
        assert isinstance(value, bytes)
        body = body_of(value)
        return None if body is None else decode_order(body)

    tried: dict[str, tuple[Get, list[str], int]] = {
        "get": (reader.get, names, OUR_GETS),
        "get_redis_py": (client.get, names, THEIR_GETS),
        "load": (storage.change_log.load, ids, OUR_GETS),
        "load_redis_py": (get_and_decode, ids, THEIR_GETS),
    }
    found: dict[str, list[Round]] = {name: [] for name in tried}
    for number in range(rounds + 1):
        for name, (get, wanted, count) in tried.items():
            result = await _round(get, wanted, count)
            found[name] += [result] if number else []
    return found


async def _round(get: Get, wanted: list[str], count: int) -> Round:
    turn = itertools.islice(itertools.cycle(wanted), count)

    async def caller() -> None:
        for name in turn:
            if await get(name) is None:
                raise RuntimeError(f"{name} is not in Redis")

    began_cpu_s, began_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    spent_s = time.perf_counter() - began_s
    return Round(count / spent_s, (time.process_time() - began_cpu_s) / count * 1e6)
