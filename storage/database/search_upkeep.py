"""Keeps the search index near the orders, in the background: writing a change does not wait for it, and a
search reads what the index has not taken in yet besides."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from storage.clock import Clock
from storage.database.contract import Database
from storage.database.lease import Lease
from storage.errors import StorageError
from storage.trouble import Trouble

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
        self._trouble = Trouble(
            logger, "searches take longer: the index stays behind", "the search index is kept up again"
        )

    @property
    def last_error(self) -> str | None:
        """Why the index is not kept up."""
        return self._trouble.error

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._lease.held:
                await self.tend()

    async def tend(self) -> None:
        """All there is to do now. What the database refuses of a text (a trigger's veto) keeps nothing but
        other texts waiting: a search is right without."""
        errors = []
        for work in (self._fold, self._take_in):
            try:
                await work()
            except StorageError as error:
                errors.append(error.detail)
            except Exception as error:  # an index is no reason for a server to end
                errors.append(repr(error))
        if errors:
            self._trouble.met("; ".join(errors))
        else:
            self._trouble.over()

    async def _fold(self) -> None:
        if folded := await self._all_of(self._database.fold_texts):
            await self._found_anew()
        if folded >= LONG_ORDERS:
            logger.info("%d texts of orders are stored in the form of this release", folded)

    async def _take_in(self) -> None:
        if (done := await self._all_of(self._database.tend_search)) >= LONG_ORDERS:
            logger.info("the search index has taken in %d orders", done)

    async def _all_of(self, work: Callable[[int], Awaitable[int]]) -> int:
        """All there is to do, in half of the time; how much it was."""
        total = 0
        began_s = self._clock.monotonic_s()
        while done := await work(ORDERS_TOGETHER):
            total += done
            await asyncio.sleep(self._clock.monotonic_s() - began_s)
            began_s = self._clock.monotonic_s()
        return total
