"""How much each thing is asked for lately: a count that halves with time.

All scores are kept as of one common moment, growing instead of letting every score shrink: to count a
request is one addition, and to compare two scores needs no clock.
"""

import heapq
import math
from datetime import datetime

from storage.clock import to_micros

HALVINGS_MAX = 1000
"""Past this nothing is left of a score; PostgreSQL calls a power that small an error."""
SCORE_MIN = 1e-300
RESCALE_AT = 1e200
"""Scores grow by a factor of two per half life: long before floats overflow all are scaled down."""


class Popularity:
    def __init__(self, entries_max: int, half_life_s: float, since: datetime) -> None:
        self._entries_max = entries_max
        self._half_life_us = half_life_s * 1e6
        self._since_us = to_micros(since)
        self._scores: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._scores)

    def count(self, key: str, now: datetime, requests: float = 1.0) -> float:
        """So many more requests. Returns the score as of now (a first request scores 1)."""
        weight = self._weight(now)
        if weight > RESCALE_AT:
            self._rescale(now)
            weight = 1.0
        self._scores[key] = self._scores.get(key, 0.0) + weight * requests
        if len(self._scores) > self._entries_max:
            self._forget_least()
        return self._scores.get(key, weight) / weight

    def restore(self, key: str, score: float, at: datetime) -> None:
        """A score as it was at a moment."""
        self._scores[key] = max(self._scores.get(key, 0.0), score * self._weight(at))

    def score(self, key: str, now: datetime) -> float:
        return self._scores.get(key, 0.0) / self._weight(now)

    def rank_of(self, key: str) -> float:
        """Compares keys: the higher, the more it is asked for."""
        return self._scores.get(key, 0.0)

    def beats(self, key: str, other: str) -> bool:
        """Whether `key` is asked for at least as much as `other`."""
        return self._scores.get(key, 0.0) >= self._scores.get(other, 0.0)

    def top(self, limit: int) -> list[str]:
        return heapq.nlargest(limit, self._scores, key=self._scores.__getitem__)

    def _weight(self, now: datetime) -> float:
        return float(2.0 ** ((to_micros(now) - self._since_us) / self._half_life_us))

    def _rescale(self, now: datetime) -> None:
        weight = self._weight(now)
        self._scores = {key: score / weight for key, score in self._scores.items()}
        self._since_us = to_micros(now)

    def _forget_least(self) -> None:
        """Drop the lower tenth at once, so that a flood of new keys pays for this rarely."""
        keep = self._entries_max - self._entries_max // 10
        self._scores = {key: self._scores[key] for key in self.top(keep)}


def added(
    one: tuple[float, datetime], other: tuple[float, datetime], half_life_s: float
) -> tuple[float, datetime]:
    """The sum of two scores, each as of a moment, as of the later one."""
    at = max(one[1], other[1])
    return sum(score * 0.5 ** _halvings(since, at, half_life_s) for score, since in (one, other)), at


def rank(score: float, at: datetime, half_life_s: float) -> float:
    """Compares scores of different moments: equal for a score, and twice that score a half life earlier."""
    return math.log2(max(score, SCORE_MIN)) + to_micros(at) / 1e6 / half_life_s


def _halvings(since: datetime, at: datetime, half_life_s: float) -> float:
    return min((at - since).total_seconds() / half_life_s, HALVINGS_MAX)
