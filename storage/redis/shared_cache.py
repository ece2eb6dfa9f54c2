"""Copies in Redis, through aiocache's `RedisCache`: plain values with a time to live, nothing else.

Of aiocache only get, set and delete are used, with keys and bytes of our own: what must be coherent goes
through the log and its scripts instead.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiocache import RedisCache
from aiocache.serializers import BaseSerializer
from redis.asyncio import BlockingConnectionPool

from storage.redis.endpoint import Endpoint

logger = logging.getLogger("facet.redis")

CONNECTIONS = 4
PUTS = 32
"""Copies on their way at once; more are not made."""


class BytesSerializer(BaseSerializer):  # type: ignore[misc]
    DEFAULT_ENCODING = None

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, value: bytes | None) -> bytes | None:
        return value


class BytesCache(RedisCache):  # type: ignore[misc]
    """aiocache sets with SETEX, which redis-py warns of."""

    async def _set(
        self, key: str, value: bytes, ttl: int | None = None, _cas_token: object = None, _conn: object = None
    ) -> Any:
        return await self.client.set(key, value, ex=ttl)


class RedisSharedCache:
    """Usable between `open` and `close`; otherwise everything is missing."""

    def __init__(self, prefix: str, deadline_s: float) -> None:
        self._space = f"{{{prefix}}}:copy:"
        self._deadline_s = deadline_s
        self._cache: BytesCache | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self.hits = self.misses = 0

    async def open(self, endpoint: Endpoint) -> None:
        """To the server that the links lead to. Raises LogUnavailable."""
        options = await endpoint.options()
        options |= {"max_connections": CONNECTIONS, "timeout": self._deadline_s}
        self._cache = BytesCache(
            serializer=BytesSerializer(),
            timeout=self._deadline_s,
            connection_pool_class=lambda **_: BlockingConnectionPool(**options),
        )

    async def close(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            await _disconnect(cache)

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._ask(lambda cache: cache.get(self._space + key), key)
        if self._cache is not None:
            if value is None:
                self.misses += 1
            else:
                self.hits += 1
        return value

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        if self._cache is None or len(self._puts) >= PUTS:
            return
        task = asyncio.create_task(self.keep(key, value, ttl_s), name=f"copy {key}")
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        await self._ask(lambda cache: cache.set(self._space + key, value, ttl=int(ttl_s)), key)

    async def drop(self, key: str) -> None:
        await self._ask(lambda cache: cache.delete(self._space + key), key)

    async def _ask(self, command: Callable[[BytesCache], Awaitable[Any]], key: str) -> Any:
        """The answer; None when Redis gives none in time."""
        if (cache := self._cache) is None:
            return None
        try:
            return await command(cache)
        except Exception as error:  # whatever a lost connection, or an invalid reply, raises
            logger.debug("no copy of %s: %s", key, error)
            return None
        finally:
            if cache is not self._cache:  # closed meanwhile, perhaps while this connection was being opened
                await _disconnect(cache)


async def _disconnect(cache: BytesCache) -> None:
    await cache.client.connection_pool.disconnect()
