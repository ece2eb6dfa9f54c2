"""Models that something is still to be done with, while they serve: facts of an earlier analyser that are to
be found anew, or that are to be held against another program's. One after the other, the most popular first.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from storage.memory.popularity import Popularity

logger = logging.getLogger("facet.models")

PAUSE_S = 0.05
"""Between two files, so that uploads come first."""
RETRY_S = 1.0

Work = Callable[[str], Awaitable[bool]]
"""Does it to a model. False when it could not be done now, and may be another time."""


class _Waiting:
    """Since when a model waits, and how often it was tried in vain."""

    def __init__(self, since_s: float) -> None:
        self.since_s = since_s
        self.tries = 0


class ModelBacklog:
    def __init__(
        self,
        entries_max: int,
        popularity: Popularity,
        *,
        once: bool,
        rest_s: float = 0.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`once`: a model that was worked on is not taken again. `rest_s`: how long it is left alone
        first, so that what its upload is for comes before."""
        self._entries_max = entries_max
        self._rest_s = rest_s
        self._once = once
        self._popularity = popularity
        self._clock_s = clock_s
        self._waiting: dict[str, _Waiting] = {}
        self._settled: set[str] = set()
        """Worked on in this process's life, with whatever outcome: a file that this analyser refuses stays
        outdated, and would be read again with every request."""
        self._urgent: dict[str, None] = {}
        self._more = asyncio.Event()
        self.work: Work | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def lag_s(self) -> float:
        """How long the one that waits longest waits: they are held in the order in which they came."""
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else self._clock_s() - oldest.since_s

    def waited_s(self, sha256: str) -> float:
        waiting = self._waiting.get(sha256)
        return 0.0 if waiting is None else self._clock_s() - waiting.since_s

    def add(self, sha256: str) -> None:
        if sha256 in self._settled or sha256 in self._waiting:
            return
        if len(self._waiting) < self._entries_max:  # more will be asked for again
            self._waiting[sha256] = _Waiting(self._clock_s())
            self._more.set()

    def hurry(self, sha256: str) -> None:
        """Somebody waits for this one, however many others there are."""
        self._waiting.setdefault(sha256, _Waiting(self._clock_s()))
        self._urgent[sha256] = None
        self._more.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._more.wait()
            self._more.clear()
            if not self._waiting:
                continue
            sha256 = self._next()
            if (rest_s := self._rest_s - self.waited_s(sha256)) > 0 and sha256 not in self._urgent:
                await self._pause(rest_s)
                self._more.set()
                continue
            self._urgent.pop(sha256, None)
            if done := await self._worked(sha256):
                self._settle(sha256)
            elif (waiting := self._waiting.get(sha256)) is not None:
                waiting.tries += 1
            await self._pause(PAUSE_S if done else RETRY_S)
            self._more.set()

    async def _worked(self, sha256: str) -> bool:
        try:
            return self.work is None or await self.work(sha256)
        except Exception:  # of one model: the others go on
            logger.exception("model %s: tried again later", sha256)
            return False

    def _next(self) -> str:
        """Who is waited for, else who was tried the least."""
        return next(iter(self._urgent), None) or min(self._waiting, key=self._turn_of)

    async def _pause(self, pause_s: float) -> None:
        """Not for longer than until somebody waits."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                while not self._urgent:
                    self._more.clear()
                    await self._more.wait()

    def _turn_of(self, sha256: str) -> tuple[int, float]:
        return self._waiting[sha256].tries, -self._popularity.rank_of(sha256)

    def _settle(self, sha256: str) -> None:
        self._waiting.pop(sha256, None)
        self._urgent.pop(sha256, None)
        if not self._once:
            return
        if len(self._settled) >= self._entries_max:
            self._settled.pop()
        self._settled.add(sha256)
