"""Models whose facts an earlier version of the analyser has found. They serve until the kept file is read
anew: one after the other, the most popular first, while others upload.
"""

import asyncio
from collections.abc import Awaitable, Callable

from storage.memory.popularity import Popularity

PAUSE_S = 0.05
"""Between two files, so that uploads come first."""
RETRY_S = 1.0

ReadAnew = Callable[[str], Awaitable[bool]]
"""Finds the facts of a kept model anew. False when it could not be done now, and may be another time."""


class Renewals:
    def __init__(self, entries_max: int, popularity: Popularity) -> None:
        self._entries_max = entries_max
        self._popularity = popularity
        self._waiting: dict[str, int] = {}
        """How often each was tried in vain: one that fails goes behind those that were tried less."""
        self._settled: set[str] = set()
        """Read in this process's life, with whatever outcome: a file that this analyser refuses stays
        outdated, and would be read again with every request."""
        self._more = asyncio.Event()
        self.read_anew: ReadAnew | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sha256: str) -> None:
        if sha256 in self._settled or sha256 in self._waiting:
            return
        if len(self._waiting) < self._entries_max:  # more will be asked for again
            self._waiting[sha256] = 0
            self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._more.wait()
            if not self._waiting:
                self._more.clear()
                continue
            sha256 = min(self._waiting, key=self._turn_of)
            if self.read_anew is not None and not await self.read_anew(sha256):
                self._waiting[sha256] += 1
                await asyncio.sleep(RETRY_S)
                continue
            self._settle(sha256)
            await asyncio.sleep(PAUSE_S)

    def _turn_of(self, sha256: str) -> tuple[int, float]:
        return self._waiting[sha256], -self._popularity.rank_of(sha256)

    def _settle(self, sha256: str) -> None:
        del self._waiting[sha256]
        if len(self._settled) >= self._entries_max:
            self._settled.pop()
        self._settled.add(sha256)
