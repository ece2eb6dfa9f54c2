"""Which of several processes brings the log to the database. Others notice within seconds that it is gone."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.errors import DatabaseUnavailable

logger = logging.getLogger("facet.lease")


TURN_PAUSE_S = 0.1


@contextlib.asynccontextmanager
async def exclusive_lease(database: Database, name: str, ttl_s: float) -> AsyncIterator[None]:
    """One process at a time, in no particular order; one that ends in between is waited for `ttl_s`.

    Raises DatabaseUnavailable."""
    holder = secrets.token_hex(16)
    while True:
        if await database.hold_lease(name, holder, ttl_s):
            break
        await asyncio.sleep(TURN_PAUSE_S)
    try:
        yield
    finally:
        await database.give_lease(name, holder)


class Lease(Protocol):
    @property
    def held(self) -> bool: ...

    def only_while(self, useful: Callable[[], bool]) -> None:
        """Leave it to others while this process could do nothing with it."""

    async def wait(self, timeout_s: float) -> None:
        """Returns when it is held, or after the time."""

    async def run(self) -> None: ...

    async def close(self) -> None: ...


class SoleLease:
    """There is one process."""

    held = True

    def only_while(self, useful: Callable[[], bool]) -> None:
        pass

    async def wait(self, timeout_s: float) -> None:
        pass

    async def run(self) -> None:
        pass

    async def close(self) -> None:
        pass


class DatabaseLease:
    """Kept in the database, by its clock. This process counts from before it asked, so that it stops
    believing in its lease before the database does."""

    def __init__(self, name: str, holder: str, database: Database, bounds: Bounds, clock: Clock) -> None:
        self._name = name
        self._holder = holder
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._until_s = 0.0
        self._taken = asyncio.Event()
        self._useful: Callable[[], bool] = lambda: True

    def only_while(self, useful: Callable[[], bool]) -> None:
        self._useful = useful

    @property
    def held(self) -> bool:
        return self._clock.monotonic_s() < self._until_s

    async def wait(self, timeout_s: float) -> None:
        if self.held:
            return
        self._taken.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._taken.wait()
        except TimeoutError:
            pass

    async def run(self) -> None:
        """Take it when it is free, and renew it; until cancelled."""
        while True:
            if self._useful():
                await self._renew()
                await asyncio.sleep(self._bounds.lease_s / 4)
            else:
                if self.held:
                    await self.close()
                await asyncio.sleep(self._bounds.shared_pause_s)

    async def close(self) -> None:
        """Release it."""
        self._until_s = 0.0
        with contextlib.suppress(DatabaseUnavailable):  # it runs out by itself
            await self._database.give_lease(self._name, self._holder)

    async def _renew(self) -> None:
        asked_s = self._clock.monotonic_s()
        try:
            taken = await self._database.hold_lease(self._name, self._holder, self._bounds.lease_s)
        except DatabaseUnavailable:
            return
        if taken:
            if not self.held:
                logger.info("this process brings the log to the database")
            self._until_s = asked_s + self._bounds.lease_s * 0.8
            self._taken.set()
        else:
            self._until_s = 0.0
