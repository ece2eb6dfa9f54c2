"""Turns in Redis: a key that one process sets while there is none, and that runs out."""

from collections.abc import Callable
from typing import Any

from storage.errors import LogUnavailable
from storage.redis.batched_reads import BatchedReads
from storage.redis.connection import Argument, CommandRefused

_IF_MINE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
_EXTEND = _IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_GIVE = _IF_MINE + "return redis.call('DEL', KEYS[1])"


class RedisLocks:
    """While Redis is away every lock is acquired."""

    def __init__(self, prefix: str, reader: BatchedReads, joined: Callable[[], bool]) -> None:
        self._space = f"{{{prefix}}}:turn:"
        self._reader = reader
        self._joined = joined

    async def acquire(self, name: str, owner: str, ttl_s: float) -> bool:
        reply = await self._ask("SET", self._space + name, owner, "NX", "PX", int(ttl_s * 1000))
        return reply is not None

    async def extend(self, name: str, owner: str, ttl_s: float) -> None:
        await self._ask("EVAL", _EXTEND, 1, self._space + name, owner, int(ttl_s * 1000))

    async def release(self, name: str, owner: str) -> None:
        await self._ask("EVAL", _GIVE, 1, self._space + name, owner)

    async def _ask(self, *command: Argument) -> Any:
        """The reply; not None when Redis does not answer."""
        if not self._joined():
            return b""
        try:
            return await self._reader.ask(command)
        except (LogUnavailable, CommandRefused):
            return b""
