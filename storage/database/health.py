"""Whether the database answers, and takes changes, also while nothing is read or written."""

import asyncio
import logging

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.errors import DatabaseUnavailable
from storage.trouble import Trouble

logger = logging.getLogger("facet.storage")


class DatabaseHealth:
    """Asks the database now and then; for the time as well, where nothing else tells it to all processes."""

    def __init__(self, database: Database, bounds: Bounds, clock: Clock, *, tells_time: bool) -> None:
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._tells_time = tells_time
        self._trouble = Trouble(logger, "the database is away", "the database is back")

    @property
    def last_error(self) -> str | None:
        return self._trouble.error

    async def run(self) -> None:
        """Ask now and then; until cancelled."""
        while True:
            await self._feel()
            await asyncio.sleep(self._bounds.pulse_s)

    async def _feel(self) -> None:
        try:
            async with asyncio.timeout(self._bounds.pulse_deadline_s):
                await self._database.probe()
                if self._tells_time:
                    await self.measure_clock()
        except DatabaseUnavailable as error:
            self._trouble.met(error.detail, error.unforeseen)
        except TimeoutError:
            self._trouble.met(f"The database does not answer within {self._bounds.pulse_deadline_s:g} s.")
        else:
            self._trouble.over()

    async def measure_clock(self) -> None:
        """Raises DatabaseUnavailable."""
        asked_s = self._clock.monotonic_s()
        if (moment := await self._database.now()) is not None:
            self._clock.measured(moment, asked_s, self._clock.monotonic_s())
