"""Who of several processes does a piece of work that all of them want done once.

A turn is a lease that runs out by itself, and no more than good manners: who has it may be gone, and who
cannot ask goes ahead. What is computed twice is computed twice; nothing becomes wrong.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Protocol

from storage.tasks import end


class Locks(Protocol):
    async def take(self, name: str, owner: str, ttl_s: float) -> bool:
        """Whether this owner may go ahead: nobody else has the turn, or nobody can be asked."""
        ...

    async def extend(self, name: str, owner: str, ttl_s: float) -> None:
        """Keep a turn for longer, if this owner has it."""
        ...

    async def give(self, name: str, owner: str) -> None:
        """Let others go, if this owner has the turn."""
        ...


class NoLocks:
    """There are no others."""

    async def take(self, name: str, owner: str, ttl_s: float) -> bool:
        return True

    async def extend(self, name: str, owner: str, ttl_s: float) -> None:
        pass

    async def give(self, name: str, owner: str) -> None:
        pass


class Lock:
    """One attempt at one piece of work."""

    def __init__(self, turns: Locks, name: str, ttl_s: float) -> None:
        self._turns = turns
        self._name = name
        self._ttl_s = ttl_s
        self._owner = secrets.token_hex(8)

    async def take(self) -> bool:
        return await self._turns.take(self._name, self._owner, self._ttl_s)

    async def give(self) -> None:
        await self._turns.give(self._name, self._owner)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renewed for as long as the work takes, then given back. A process that ends stops renewing."""
        renewing = asyncio.create_task(self._renew(), name=f"turn {self._name}")
        try:
            yield
        finally:
            await end(renewing)
            await self.give()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            await self._turns.extend(self._name, self._owner, self._ttl_s)
