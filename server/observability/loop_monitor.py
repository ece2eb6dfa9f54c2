"""How long the event loop is held: for that long no request is answered.

A timer is due every TICK_S; how late it comes is how long something kept the loop from looking at its timers
(less up to one period, when that began between two ticks). Late by the clock alone does not say why: on a
machine with too few cores the process may just have waited for its turn. So the loop's thread reads its own
processor time as well: of a lateness, what the thread was running for is its own doing.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from aiohttp import web

logger = logging.getLogger("facet.loop")

TICK_S = 0.005
"""What is measured falls short by up to this much. A tick takes some 4 microseconds beside other work, 0.1 %
of a core; waking a core that has nothing to do takes ten times that, from nobody."""
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Of the histogram. uvloop's timers are of whole milliseconds: the first bound is the rest between them."""
WARNED_S = 0.1
"""A loop that is held for longer is worth a line in the log."""
WARNING_EVERY_S = 60.0
"""And at most one line in this time."""

Seconds = Callable[[], float]


class Hold(NamedTuple):
    """`clock_s` it lasted, of which the loop's thread was running for `processor_s`."""

    clock_s: float
    processor_s: float


class Held:
    """Holds by how long they were, as a histogram: the last count is of those above every bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self.longest_s = 0.0

    def add(self, held_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, held_s)] += 1
        self.sum_s += held_s
        self.longest_s = max(self.longest_s, held_s)


class LoopMonitor:
    """`now_s` is the clock and `ran_s` the processor time of the thread that asks."""

    def __init__(self, now_s: Seconds = time.monotonic, ran_s: Seconds = time.thread_time) -> None:
        self._now_s = now_s
        self._ran_s = ran_s
        self._due_s = self._ran_before_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at_s: float | None = None
        self._unsaid = 0
        self.by_clock, self.by_processor = Held(), Held()

    def start(self) -> None:
        """From now on, in the running loop."""
        self._wait()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take_longest(self) -> Hold:
        """The longest by the clock and the longest by processor time, not always the same hold, since this
        was last asked."""
        longest = Hold(self.by_clock.longest_s, self.by_processor.longest_s)
        self.by_clock.longest_s = self.by_processor.longest_s = 0.0
        return longest

    def tick(self) -> None:
        now_s = self._now_s()
        late_s = max(0.0, now_s - self._due_s)
        hold = Hold(late_s, min(late_s, self._ran_s() - self._ran_before_s))
        self.by_clock.add(hold.clock_s)
        self.by_processor.add(hold.processor_s)
        if late_s > WARNED_S:
            self._warn(hold, now_s)
        self._wait()

    def _wait(self) -> None:
        self._ran_before_s = self._ran_s()
        self._due_s = self._now_s() + TICK_S
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self.tick)

    def _warn(self, hold: Hold, now_s: float) -> None:
        if self._warned_at_s is not None and now_s - self._warned_at_s < WARNING_EVERY_S:
            self._unsaid += 1
            return
        logger.warning(
            "the event loop was held for %.0f ms, %.0f ms of them by its own work; %d more since the last"
            " such line",
            hold.clock_s * 1000,
            hold.processor_s * 1000,
            self._unsaid,
        )
        self._warned_at_s, self._unsaid = now_s, 0


LOOP_MONITOR: web.AppKey[LoopMonitor] = web.AppKey("loop_monitor", LoopMonitor)
