"""Whether the database answers, also while nothing is read or written."""

import asyncio
import logging

from storage.bounds import Bounds
from storage.database import Database
from storage.errors import DatabaseUnavailable

logger = logging.getLogger("facet.storage")


class Pulse:
    def __init__(self, database: Database, bounds: Bounds) -> None:
        self._database = database
        self._bounds = bounds
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
        except DatabaseUnavailable as error:
            self._note(error.detail)
        except TimeoutError:
            self._note(f"The database does not answer within {self._bounds.pulse_deadline_s:g} s.")
        else:
            self._note(None)

    def _note(self, error: str | None) -> None:
        if error is not None and self.last_error is None:
            logger.warning("the database is away: %s", error)
        elif error is None and self.last_error is not None:
            logger.info("the database is back")
        self.last_error = error
