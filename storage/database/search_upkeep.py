"""Keeps the search index near the orders, in the background: writing a change does not wait for it, and a
search reads what the index has not taken in yet besides."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from storage.clock import Clock
from storage.database.contract import Database
from storage.database.lease import Lease
from storage.errors import StorageError

logger = logging.getLogger("facet.storage")

INTERVAL_S = 1.0
ORDERS_TOGETHER = 200
"""In one transaction, which holds up the changes that come meanwhile for some milliseconds."""
LONG_ORDERS = 10_000
"""So many at once are worth a line in the log of this process."""


class SearchUpkeep:
    """`found_anew`: called when searches find orders that they did not find before."""

    def __init__(
        self, database: Database, lease: Lease, clock: Clock, found_anew: Callable[[], Awaitable[None]]
    ) -> None:
        self._database = database
        self._lease = lease
        self._clock = clock
        self._found_anew = found_anew

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._lease.held:
                await self.tend()

    async def tend(self) -> None:
        """All there is to do now."""
        try:
            await self._tend()
        except StorageError as error:
            logger.debug("the search index stays as it is for now: %s", error)

    async def _tend(self) -> None:
        if folded := await self._all_of(self._database.fold_texts):
            await self._found_anew()
        taken_in = await self._all_of(self._database.tend_search)
        if folded + taken_in >= LONG_ORDERS:
            logger.info("searches: %d texts stored anew, %d orders taken into the index", folded, taken_in)

    async def _all_of(self, work: Callable[[int], Awaitable[int]]) -> int:
        """All there is to do, in half of the time; how much it was."""
        total = 0
        began_s = self._clock.monotonic_s()
        while done := await work(ORDERS_TOGETHER):
            total += done
            await asyncio.sleep(self._clock.monotonic_s() - began_s)
            began_s = self._clock.monotonic_s()
        return total
