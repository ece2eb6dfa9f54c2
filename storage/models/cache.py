"""Facts of models held by this process.

Facts never change, so they need no coherence. What they need is that a flood of models asked for once does
not push out the ones asked for every day: a model enters the main part of the cache only if it is asked for
at least as much as the one it would replace.
"""

from storage.memory.lru import MISS, Sentinel
from storage.memory.popularity import Popularity
from storage.models.compute_once import Source
from storage.models.shared import Model

WINDOW_SHARE = 10
"""One part in ten of the cache belongs to the newest models, however little they are asked for."""

Found = tuple[Model, Source]


class PopularModels:
    """A window of the newest and a main part of the most popular; bounded in entries."""

    def __init__(self, entries_max: int, popularity: Popularity) -> None:
        self._window_max = max(1, entries_max // WINDOW_SHARE)
        self._main_max = entries_max - self._window_max
        self._window: dict[str, Model] = {}
        self._main: dict[str, Model] = {}
        self._popularity = popularity
        self.hits = self.misses = self.evictions = 0

    @property
    def byte_count(self) -> int:
        return sum(len(model.facts) for part in (self._main, self._window) for model in part.values())

    def __len__(self) -> int:
        return len(self._window) + len(self._main)

    def get(self, sha256: str) -> Model | Sentinel:
        for part in (self._main, self._window):
            if (model := part.pop(sha256, None)) is not None:
                part[sha256] = model
                self.hits += 1
                return model
        self.misses += 1
        return MISS

    def peek(self, sha256: str) -> Model | None:
        """As `get`, without counting or touching."""
        return self._main.get(sha256) or self._window.get(sha256)

    def put(self, model: Model) -> None:
        if model.sha256 in self._main:
            self._main[model.sha256] = model
            return
        self._window.pop(model.sha256, None)
        self._window[model.sha256] = model
        if len(self._window) > self._window_max:
            self._promote(self._window.pop(next(iter(self._window))))

    def discard(self, sha256: str) -> bool:
        return (self._main.pop(sha256, None) or self._window.pop(sha256, None)) is not None

    def _promote(self, candidate: Model) -> None:
        """The oldest of the window competes with the least recently used of the main part."""
        if len(self._main) >= self._main_max:
            victim = next(iter(self._main))
            if not self._popularity.beats(candidate.sha256, victim):
                self.evictions += 1
                self._main[victim] = self._main.pop(victim)  # it has proved itself: back to the young end
                return
            self.evictions += 1
            del self._main[victim]
        self._main[candidate.sha256] = candidate
