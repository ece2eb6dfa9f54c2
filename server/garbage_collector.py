"""What the process does with memory it no longer needs."""

import asyncio
import ctypes
import gc
import time

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt(3)`."""
MAPPED_BYTES_MIN = 1 << 20
"""Larger blocks are given back to the system as soon as they are free."""


YOUNG_INTERVAL_S = 0.05
"""How often the collector looks at what was made since its last look."""
WHOLE_INTERVAL_S = 600.0
"""How often it looks at everything, when little is going on; and at the latest every WHOLE_INTERVALS_MAX."""
WHOLE_INTERVALS_MAX = 6
FEW_TASKS = 256
TRIM_INTERVAL_S = 15.0
"""How long freed memory is kept for what comes next."""


async def keep_collected() -> None:
    """Free what refers to itself; until cancelled.

    Each look holds the event loop, for a microsecond an object. Left to itself the collector looks at as many
    as thousands of connections that come at once are made of, for 100 ms and more. Requests leave nothing to
    be collected (`tests/unit/test_garbage_collector.py`): a look at the youngest now and then is for the odd
    one.
    """
    looked_s, put_off = time.monotonic(), 0
    while True:
        await asyncio.sleep(YOUNG_INTERVAL_S)
        gc.collect(0)
        if time.monotonic() - looked_s >= WHOLE_INTERVAL_S:
            looked_s, put_off = time.monotonic(), put_off + 1
            if len(asyncio.all_tasks()) <= FEW_TASKS or put_off == WHOLE_INTERVALS_MAX:
                put_off = 0
                gc.collect()


async def keep_trimmed() -> None:
    """Give back to the system, now and then, what a crowd has left; until cancelled."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:  # other C libraries have none, and rules of their own
        await asyncio.sleep(TRIM_INTERVAL_S)
        await asyncio.to_thread(trim, 0)


def tune_gc(kept_bytes: int) -> None:
    """Freeze the objects of the start so that the garbage collector skips them; from now on it runs only when
    it is called. `kept_bytes`: how much freed memory stays with the process for the next uploads: the system
    would have to clear every page of it anew, which costs as much as hashing does."""
    gc.collect()
    gc.freeze()
    gc.disable()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none, and rules of their own
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)
