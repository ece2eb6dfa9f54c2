"""Whether files can be written to the data directory, also while there are no uploads."""

import asyncio
import logging
from pathlib import Path

from aiohttp import web

from storage.errors import probe, shortage_of
from storage.trouble import Trouble

logger = logging.getLogger("facet.machine")

PROBE_INTERVAL_S = 1.0


class DiskCheck:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._trouble = Trouble(logger, "files cannot be written", "files can be written again")
        self.code = ""
        """What is short, as requests are refused with it; empty when nothing is."""

    @property
    def error(self) -> str | None:
        return self._trouble.error

    async def run(self) -> None:
        """Look now and then; until cancelled."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                await asyncio.to_thread(probe, self._directory)
            except OSError as error:
                shortage = shortage_of(error)
                self.code = "disk_failed" if shortage is None else shortage.code
                self._trouble.met(f"{error.strerror or error}.")
            else:
                self.code = ""
                self._trouble.over()


DISK_CHECK: web.AppKey[DiskCheck] = web.AppKey("machine", DiskCheck)
