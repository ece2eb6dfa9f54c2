"""Model facts by the hash of the model: held here, then in the database, else computed, once for all callers.

Facts never change, so they need no coherence. What they need is that a flood of models asked for once does
not push out the ones asked for every day: a model enters the main part of the cache only if it is asked for
at least as much as the one it would replace.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database import Database, StoredModel
from storage.errors import DatabaseUnavailable
from storage.local import ABSENT, MISS, Sentinel
from storage.popularity import Popularity
from storage.single_flight import SingleFlight

logger = logging.getLogger("facet.models")

WINDOW_SHARE = 10
"""One part in ten of the cache belongs to the newest models, however little they are asked for."""
STORE_INTERVAL_S = 0.2
STORE_BATCH = 200

Compute = Callable[[], Awaitable[bytes]]


class Model(msgspec.Struct, frozen=True):
    """A model's encoded facts and who has uploaded it."""

    sha256: str
    byte_count: int
    facts: bytes
    tenants: frozenset[str]


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
            model = part.pop(sha256, None)
            if model is not None:
                part[sha256] = model
                self.hits += 1
                return model
        self.misses += 1
        return MISS

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


class Models:
    def __init__(self, database: Database, analyser: str, bounds: Bounds, clock: Clock) -> None:
        self._database = database
        self._analyser = analyser
        self._bounds = bounds
        self._clock = clock
        self.popularity = Popularity(bounds.popularity_entries, bounds.popularity_half_life_s, clock.now())
        self.cache = PopularModels(bounds.models_entries, self.popularity)
        self._flights: SingleFlight[str, Model | Sentinel] = SingleFlight()
        self._computing: SingleFlight[str, bytes] = SingleFlight()
        self._waiting: dict[str, StoredModel] = {}
        self._more = asyncio.Event()
        self._stopping = False
        self.loads = self.computations = self.dropped = 0

    def peek(self, sha256: str) -> Model | Sentinel:
        """What is held here; never waits."""
        return self.cache.get(sha256)

    async def find(self, sha256: str) -> tuple[Model, Literal["local", "database"]] | None:
        """A known model, from here or from the database."""
        held = self.cache.get(sha256)
        if isinstance(held, Model):
            return held, "local"
        waiting = self._waiting.get(sha256)
        if waiting is not None:
            return self._keep(waiting), "local"
        loaded = await self._flights.do(sha256, lambda: self._load(sha256))
        return (loaded, "database") if isinstance(loaded, Model) else None

    async def facts(self, sha256: str, byte_count: int, tenant: str, compute: Compute) -> tuple[Model, str]:
        """The facts of a model that was just uploaded: known, or computed once for all who ask now.

        Returns the model and where its facts came from: local, database or computed.
        """
        found = await self.find(sha256)
        held = self.cache.get(sha256) if found is None else found[0]
        if isinstance(held, Model):  # perhaps computed for somebody else while the database was asked
            return self._requested(held, tenant), "local" if found is None else found[1]
        facts = await self._computing.do(sha256, lambda: self._compute(sha256, byte_count, compute))
        known = self.cache.get(sha256)
        if not isinstance(known, Model):
            known = Model(sha256, byte_count, facts, frozenset())
        return self._requested(known, tenant), "computed"

    def count(self, model: Model) -> None:
        """One more request for a known model."""
        self._requested(model, None)

    async def invalidate(self, sha256: str) -> bool:
        """Forget what is held of a model and read it again."""
        self.forget(sha256)
        return await self.find(sha256) is not None

    def forget(self, sha256: str) -> None:
        self._flights.forget(sha256)
        self.cache.discard(sha256)

    async def warm(self, limit: int) -> int:
        """Hold the most popular models of the database."""
        stored = await self._database.load_popular_models(limit)
        for model in reversed(stored):
            self.popularity.restore(model.sha256, model.score, model.requested_at)
            if model.analyser == self._analyser:
                self._keep(model)
        return len(stored)

    async def run(self) -> None:
        """Carry new facts and counts to the database until stopped."""
        while not (self._stopping and not self._waiting):
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
                continue
            if not self._stopping:
                await asyncio.sleep(STORE_INTERVAL_S)
            if not await self._store() and self._stopping:
                return

    def stop(self) -> None:
        self._stopping = True
        self._more.set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def _store(self) -> bool:
        batch = [self._waiting[sha256] for sha256 in list(self._waiting)[:STORE_BATCH]]
        try:
            await self._database.store_models(batch)
        except DatabaseUnavailable as error:
            logger.warning("facts of %d models wait for the database: %s", len(self._waiting), error.detail)
            return False
        for model in batch:
            if self._waiting.get(model.sha256) is model:
                del self._waiting[model.sha256]
        return True

    async def _compute(self, sha256: str, byte_count: int, compute: Compute) -> bytes:
        self.computations += 1
        facts = await compute()
        # Held before the flight ends: who comes between the two would compute once more.
        self.cache.put(Model(sha256, byte_count, facts, frozenset()))
        return facts

    async def _load(self, sha256: str) -> Model | Sentinel:
        self.loads += 1
        stored = await self._database.load_model(sha256)
        if stored is None or stored.analyser != self._analyser:
            return ABSENT
        self.popularity.restore(sha256, stored.score, stored.requested_at)
        return self._keep(stored)

    def _keep(self, stored: StoredModel) -> Model:
        model = Model(stored.sha256, stored.byte_count, stored.facts, stored.tenants)
        self.cache.put(model)
        return model

    def _requested(self, model: Model, tenant: str | None) -> Model:
        now = self._clock.now()
        score = self.popularity.count(model.sha256, now)
        if tenant is not None and tenant not in model.tenants:
            model = msgspec.structs.replace(model, tenants=model.tenants | {tenant})
        self.cache.put(model)
        known = self._waiting.pop(model.sha256, None)
        if known is None and len(self._waiting) >= self._bounds.model_queue_entries:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        self._waiting[model.sha256] = StoredModel(
            sha256=model.sha256,
            analyser=self._analyser,
            byte_count=model.byte_count,
            facts=model.facts,
            first_seen_at=known.first_seen_at if known is not None else now,
            score=score,
            requested_at=now,
            tenants=model.tenants,
        )
        self._more.set()
        return model
