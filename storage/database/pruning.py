"""What is kept for a while only, and then forgotten."""

import asyncio
import logging
from datetime import timedelta

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.database.lease import Lease
from storage.errors import DatabaseUnavailable

logger = logging.getLogger("facet.storage")

INTERVAL_S = 60.0


class Pruning:
    """Removes answers to keyed requests once the time to repeat them is over."""

    def __init__(self, database: Database, lease: Lease, bounds: Bounds, clock: Clock) -> None:
        self._database = database
        self._lease = lease
        self._bounds = bounds
        self._clock = clock

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._lease.held:
                await self._prune()

    async def _prune(self) -> None:
        before = self._clock.now() - timedelta(seconds=self._bounds.log_retention_s)
        limit = self._bounds.log_trim_entries
        try:
            while await self._database.prune_answers(before, limit) == limit:
                pass
        except DatabaseUnavailable as error:
            logger.debug("old answers stay for now: %s", error.detail)
