"""Time, injected: tests and the demonstration workshop set their own.

Processes that share an order book share its time as well: each takes it from what all of them use (Redis,
else PostgreSQL), so that clocks which differ by minutes change no answer.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, UTC, microseconds."""

    def monotonic_s(self) -> float:
        """Seconds that only grow; for ages and deadlines."""

    @property
    def difference_s(self) -> float:
        """How far this machine's clock is ahead of the one that is shared; 0 when none is."""

    def measured(self, shared: datetime, asked_s: float, answered_s: float) -> None:
        """The shared clock said this, at some moment between two of `monotonic_s`."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    @property
    def difference_s(self) -> float:
        return 0.0

    def measured(self, shared: datetime, asked_s: float, answered_s: float) -> None:
        pass


DRIFT = 200e-6
"""How many seconds in a second two clocks may come apart, at most."""


class SharedClock:
    """The time that is shared, as far as it has been measured; this machine's own before that.

    Each measurement says between which bounds the difference of the two clocks lies. They are intersected,
    as far as the clocks cannot have come apart meanwhile: so the best of many counts. `now` never goes
    backwards: after a correction it runs at half speed until it is right again.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._low_s = self._high_s = 0.0
        """Bounds of the shared clock's seconds since 1970 less `monotonic_s`."""
        self._bounded_s: float | None = None
        """When they were found; None: never."""
        self._last: datetime | None = None
        self._last_s = 0.0

    def now(self) -> datetime:
        at_s = self._own.monotonic_s()
        if self._bounded_s is None:
            moment = self._own.now()
        else:
            moment = _EPOCH + timedelta(seconds=at_s + (self._low_s + self._high_s) / 2)
        if self._last is not None and moment < self._last:
            moment = self._last + timedelta(seconds=(at_s - self._last_s) / 2)
        self._last, self._last_s = moment, at_s
        return moment

    def monotonic_s(self) -> float:
        return self._own.monotonic_s()

    @property
    def difference_s(self) -> float:
        if self._bounded_s is None:
            return 0.0
        at_s = self._own.monotonic_s()
        return _seconds(self._own.now()) - at_s - (self._low_s + self._high_s) / 2

    def measured(self, shared: datetime, asked_s: float, answered_s: float) -> None:
        low_s, high_s = _seconds(shared) - answered_s, _seconds(shared) - asked_s
        if self._bounded_s is not None:
            apart_s = DRIFT * (answered_s - self._bounded_s)
            known = max(low_s, self._low_s - apart_s), min(high_s, self._high_s + apart_s)
            if known[0] <= known[1]:
                low_s, high_s = known
            # else another clock is shared now, or it was set
        else:
            self._last = None  # nothing has been decided by this machine's own clock
        self._low_s, self._high_s, self._bounded_s = low_s, high_s, answered_s


def _seconds(moment: datetime) -> float:
    return (moment - _EPOCH).total_seconds()


def to_text(moment: datetime) -> str:
    """RFC 3339 of fixed width, so that text order is time order (SQLite compares text)."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    return datetime.fromisoformat(text)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970, exact (float seconds would round)."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
