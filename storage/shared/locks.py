"""Advisory locks between processes, so that work which all of them want done is done once.

A lock has a time to live. Its holder may have died, and where the others cannot be asked it is acquired all
the same: correctness never depends on it, only that nothing is computed twice.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Protocol

from storage.tasks import end


class Locks(Protocol):
    async def acquire(self, name: str, owner: str, ttl_s: float) -> bool:
        """True when no other owner holds it, or the others cannot be asked."""

    async def extend(self, name: str, owner: str, ttl_s: float) -> None:
        """Hold it for longer, if this owner holds it."""

    async def release(self, name: str, owner: str) -> None:
        """Release it, if this owner holds it."""


class NoLocks:
    """There are no other processes."""

    async def acquire(self, name: str, owner: str, ttl_s: float) -> bool:
        return True

    async def extend(self, name: str, owner: str, ttl_s: float) -> None:
        pass

    async def release(self, name: str, owner: str) -> None:
        pass


class Lock:
    """One attempt at one piece of work."""

    def __init__(self, locks: Locks, name: str, ttl_s: float) -> None:
        self._locks = locks
        self._name = name
        self._ttl_s = ttl_s
        self._owner = secrets.token_hex(8)

    async def acquire(self) -> bool:
        return await self._locks.acquire(self._name, self._owner, self._ttl_s)

    async def release(self) -> None:
        await self._locks.release(self._name, self._owner)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renewed for as long as the work takes, then given back. A process that ends stops renewing."""
        renewing = asyncio.create_task(self._renew(), name=f"lock {self._name}")
        try:
            yield
        finally:
            await end(renewing)
            await self.release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            await self._locks.extend(self._name, self._owner, self._ttl_s)
