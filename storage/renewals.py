"""Models whose facts an earlier version of the analyser has found. They serve until the kept file is read
anew: one after the other, the most popular first, while others upload.
"""

import asyncio
from collections.abc import Awaitable, Callable

from storage.popularity import Popularity

PAUSE_S = 0.05
"""Between two files, so that uploads come first."""
RETRY_S = 1.0

ReadAnew = Callable[[str], Awaitable[bool]]
"""Finds the facts of a kept model anew. False when it could not be done now, and may be another time."""


class Renewals:
    def __init__(self, entries_max: int, popularity: Popularity) -> None:
        self._entries_max = entries_max
        self._popularity = popularity
        self._waiting: set[str] = set()
        self._more = asyncio.Event()
        self.read_anew: ReadAnew | None = None
        self.renewed = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sha256: str) -> None:
        if len(self._waiting) < self._entries_max:  # more will be asked for again
            self._waiting.add(sha256)
            self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._more.wait()
            if not self._waiting:
                self._more.clear()
                continue
            sha256 = max(self._waiting, key=self._popularity.rank_of)
            if self.read_anew is not None and not await self.read_anew(sha256):
                await asyncio.sleep(RETRY_S)
                continue
            self._waiting.discard(sha256)
            self.renewed += 1
            await asyncio.sleep(PAUSE_S)
