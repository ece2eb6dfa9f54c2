"""Whether the database answers, also while nothing is read or written."""

import asyncio
import logging

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database import Database
from storage.errors import DatabaseUnavailable

logger = logging.getLogger("facet.storage")


class Pulse:
    """Asks the database now and then; for the time as well, where nothing else tells it to all processes."""

    def __init__(self, database: Database, bounds: Bounds, clock: Clock, *, tells_time: bool) -> None:
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._tells_time = tells_time
        self.last_error: str | None = None

    async def run(self) -> None:
        """Ask now and then; until cancelled."""
        while True:
            await self._feel()
            await asyncio.sleep(self._bounds.pulse_s)

    async def _feel(self) -> None:
        try:
            async with asyncio.timeout(self._bounds.pulse_deadline_s):
                await self._database.position()
                if self._tells_time:
                    await self.measure_clock()
        except DatabaseUnavailable as error:
            self._note(error.detail)
        except TimeoutError:
            self._note(f"The database does not answer within {self._bounds.pulse_deadline_s:g} s.")
        else:
            self._note(None)

    async def measure_clock(self) -> None:
        """Raises DatabaseUnavailable."""
        asked_s = self._clock.monotonic_s()
        moment = await self._database.now()
        if moment is not None:
            self._clock.measured(moment, asked_s, self._clock.monotonic_s())

    def _note(self, error: str | None) -> None:
        if error is not None and self.last_error is None:
            logger.warning("the database is away: %s", error)
        elif error is None and self.last_error is not None:
            logger.info("the database is back")
        self.last_error = error
