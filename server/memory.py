"""What the process does with memory it no longer needs."""

import ctypes
import gc

from server.uploads import RESERVED_BYTES_TOTAL

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt(3)`."""
MAPPED_BYTES_MIN = 1 << 20
"""Larger blocks are given back to the system as soon as they are free."""


def settle() -> None:
    """What start-up made stays: the collector need not look at it again. What uploads free is kept for the
    next ones: the system would have to clear every page of it anew, which costs as much as hashing does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none, and rules of their own
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        mallopt(_M_TRIM_THRESHOLD, RESERVED_BYTES_TOTAL)
