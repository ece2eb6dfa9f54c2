"""Least recently used goes first: a map bounded in entries and bytes.

A miss is a sentinel, so that an absent order, an empty list or a zero is never taken for one.
"""

from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

Value = TypeVar("Value")


class Sentinel(Enum):
    MISS = "miss"
    """Not held: look further down."""
    ABSENT = "absent"
    """Known not to exist."""


MISS: Final = Sentinel.MISS

ABSENT: Final = Sentinel.ABSENT

ENTRY_OVERHEAD_BYTES = 400
"""What an entry costs beside its bytes: dictionary slot, key, record. Measured on CPython 3.11."""


class Lru(Generic[Key, Value]):
    """Least recently used goes first. Relies on dictionaries keeping the order of insertion."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.byte_count = 0
        self.hits = self.misses = self.evictions = 0
        self._held: dict[Key, tuple[Value, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)

    def get(self, key: Key) -> Value | Sentinel:
        """The value, now the most recently used; MISS when it is not held."""
        if (held := self._held.pop(key, None)) is None:
            self.misses += 1
            return MISS
        self._held[key] = held
        self.hits += 1
        return held[0]

    def peek(self, key: Key) -> Value | Sentinel:
        """As `get`, without counting or touching."""
        held = self._held.get(key)
        return MISS if held is None else held[0]

    def put(self, key: Key, value: Value, byte_count: int) -> None:
        byte_count += ENTRY_OVERHEAD_BYTES
        self.discard(key)
        if byte_count > self.bytes_max:
            return
        self._held[key] = (value, byte_count)
        self.byte_count += byte_count
        while len(self._held) > self.entries_max or self.byte_count > self.bytes_max:
            self._evict()

    def discard(self, key: Key) -> bool:
        if (held := self._held.pop(key, None)) is None:
            return False
        self.byte_count -= held[1]
        return True

    def clear(self) -> None:
        self._held.clear()
        self.byte_count = 0

    def _evict(self) -> None:
        _, byte_count = self._held.pop(next(iter(self._held)))
        self.byte_count -= byte_count
        self.evictions += 1
