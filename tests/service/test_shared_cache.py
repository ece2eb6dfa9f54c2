"""The copies in Redis, over a real connection: what is closed stays closed."""

import asyncio
import gc

import redis

from storage.redis.endpoint import endpoint_of
from storage.redis.shared_cache import RedisSharedCache
from tests.support.gates import turns, until_true

DEADLINE_S = 5.0
MOMENTS = 40
"""Turns of the event loop, more than a connection takes to open and to answer."""


async def test_no_connection_outlives_its_cache(fresh_redis: str) -> None:
    """Whenever it is closed: also while somebody's connection is just being opened."""
    with redis.Redis.from_url(fresh_redis) as client:

        def connections() -> set[str]:
            return {each["id"] for each in client.client_list()}

        before = connections()
        gc.disable()
        try:
            cache = RedisSharedCache("f", DEADLINE_S)
            for moment in range(MOMENTS):
                await cache.open(endpoint_of(fresh_redis, "f", DEADLINE_S))
                asked = asyncio.create_task(cache.get("a"))
                cache.put("b", b"1", 10.0)
                await turns(moment)
                await cache.close()
                await asked

            async def are_closed() -> bool:
                return connections() <= before

            await until_true(are_closed, DEADLINE_S)
        finally:
            gc.enable()
