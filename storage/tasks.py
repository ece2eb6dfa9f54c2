"""Ending tasks for certain, and pausing between attempts."""

import asyncio
import random
from typing import Any

AGAIN_S = 0.5


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel them and wait until they have ended. One that loses its cancellation (Python 3.11 can lose one
    inside `asyncio.wait_for`) is cancelled again."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen


class Backoff:
    """Pauses that double, up to the longest. `spread`: each is drawn from this share of itself upwards, so
    that several processes do not try at the same moments."""

    def __init__(self, first_s: float, longest_s: float, spread: float = 1.0) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._spread = spread

    def reset(self) -> None:
        self._next_s = self._first_s

    async def pause(self) -> None:
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        await asyncio.sleep(pause_s * random.uniform(self._spread, 1.0))
