"""What is worth remembering for a short time only: that something is not there, or was refused."""

from typing import Generic, TypeVar

from storage.clock import Clock
from storage.memory.lru import Key

Value = TypeVar("Value")


class TtlCache(Generic[Key, Value]):
    """Bounded in entries and in age; the oldest goes first."""

    def __init__(self, entries_max: int, age_s: float, clock: Clock) -> None:
        self._entries_max = entries_max
        self._age_s = age_s
        self._clock = clock
        self._held: dict[Key, tuple[Value, float]] = {}
        self.hits = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Value | None:
        if (held := self._held.get(key)) is None:
            return None
        value, since_s = held
        if self._clock.monotonic_s() - since_s >= self._age_s:
            del self._held[key]
            return None
        self.hits += 1
        return value

    def put(self, key: Key, value: Value) -> None:
        self._held.pop(key, None)
        self._held[key] = (value, self._clock.monotonic_s())
        if len(self._held) > self._entries_max:
            del self._held[next(iter(self._held))]

    def discard(self, key: Key) -> None:
        self._held.pop(key, None)
