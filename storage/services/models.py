"""Model facts by the hash of the model: held here, else copied from another process, else in the database,
else computed, once for all callers.

Only those who have uploaded a model may see it. What a process knows of that may be stale: it is read again
before an answer says that a model is not known.
"""

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.contract import Database
from storage.database.records import StoredModel, Verification, prevailing
from storage.memory.lru import Sentinel
from storage.memory.popularity import Popularity
from storage.memory.single_flight import SingleFlight
from storage.memory.ttl import TtlCache
from storage.models.backlog import ModelBacklog
from storage.models.cache import Found, PopularModels
from storage.models.compute_once import ComputeOnce, Known, Work
from storage.models.shared import Model, Refusal, SharedModels, is_older
from storage.models.write_queue import ModelWriteQueue, stored_model
from storage.shared.cache import SharedCache
from storage.shared.locks import Locks


class ModelRefused(Exception):
    """The file was understood well enough to say that there are no facts, and why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


class Models:
    def __init__(
        self,
        database: Database,
        copies: SharedCache,
        locks: Locks,
        analyser: str,
        bounds: Bounds,
        clock: Clock,
    ) -> None:
        self._database = database
        self._analyser = analyser
        self._clock = clock
        self._half_life_s = bounds.popularity_half_life_s
        self.popularity = Popularity(bounds.popularity_entries, self._half_life_s, clock.now())
        self.cache = PopularModels(bounds.models_entries, self.popularity)
        self.copies = SharedModels(copies, analyser, bounds.shared_ttl_s, bounds.model_refusal_age_s)
        self.computing = ComputeOnce(self.copies, locks, analyser, bounds, self._known, self._cache_result)
        self.records = ModelWriteQueue(database, bounds.model_queue_entries, self._half_life_s)
        self.outdated = ModelBacklog(bounds.models_entries, self.popularity, once=True)
        """Models whose facts an earlier version of the analyser has found."""
        self.unverified = ModelBacklog(
            bounds.models_entries,
            self.popularity,
            once=False,
            rest_s=bounds.verification_rest_s,
            clock_s=clock.monotonic_s,
        )
        """Models whose facts have not been held against another program's."""
        self.refusals: TtlCache[str, Refusal] = TtlCache(
            bounds.model_refusals, bounds.model_refusal_age_s, clock
        )
        self.absences: TtlCache[str, bool] = TtlCache(bounds.absent_entries, bounds.absent_age_s, clock)
        """Hashes, and hashes with a tenant, that the database did not have."""
        self._outdated_looks: TtlCache[str, bool] = TtlCache(
            bounds.absent_entries, bounds.absent_age_s, clock
        )
        """Models with facts of an earlier analyser, for which others were asked lately."""
        self._past_copies: TtlCache[str, bool] = TtlCache(bounds.absent_entries, bounds.absent_age_s, clock)
        """Models of which everybody was told to forget what is held: a copy may have been left just before by
        somebody who did not know."""
        self._lookups: SingleFlight[str, Found | None] = SingleFlight()
        self._loads: SingleFlight[str, Model | None] = SingleFlight()
        self._invalidations = 0
        self.loads = self.shared_hits = 0

    def peek(self, sha256: str) -> Model | Sentinel:
        """What is held here; never waits."""
        return self.cache.get(sha256)

    async def find(self, sha256: str) -> Found | None:
        """A known model, of any tenant."""
        held = self._held_model(sha256)
        if held is not None and not self._is_due(held):
            return held, "local"
        return await self._lookups.do(sha256, lambda: self._look_up(sha256)) or (
            None if held is None else (held, "local")
        )

    def peek_for(self, sha256: str, tenant: str | None) -> Model | None:
        """A model that is held here and may be shown without asking anybody."""
        held = self._held_model(sha256)
        if held is None or self.is_outdated(held) or (tenant is not None and tenant not in held.tenants):
            return None
        return held

    def is_outdated(self, model: Model) -> bool:
        """Whether an earlier version of the analyser has found its facts."""
        return is_older(model.analyser, self._analyser)

    def _is_due(self, model: Model) -> bool:
        """Whether others may have found newer facts than these, and have not been asked lately."""
        if not self.is_outdated(model) or self._outdated_looks.get(model.sha256):
            return False
        self._outdated_looks.put(model.sha256, True)
        return True

    def store_reanalysed(self, sha256: str, byte_count: int, facts: bytes) -> None:
        """Facts of a kept file that was read anew, for all processes."""
        model = self._hold(Model(sha256, byte_count, facts, frozenset(), self._analyser))
        self.copies.offer(model)
        self.records.add(model, self._clock.now(), requests=0.0)

    async def verify(self, judged: Model, verification: Verification, *, durable: bool = False) -> bool:
        """Say what came of holding these facts against another program's: others find it when they look.
        `durable`: on return it is in the database. False when the model has other facts by now, or none."""
        found = await self.find(judged.sha256)
        if found is None or found[0].facts != judged.facts or found[0].analyser != judged.analyser:
            return False
        model = msgspec.structs.replace(
            found[0], verification=prevailing(found[0].verification, verification)
        )
        now = self._clock.now()
        if durable:
            record = stored_model(model, now, requests=0.0)
            await self._database.store_models([record], self._half_life_s)
        await self.copies.keep(model.sha256, model)  # before it is told here: who heard it asks others
        self.records.add(self._hold(model), now, requests=0.0)
        return True

    async def look_again(self, sha256: str) -> Model | None:
        """With the others, then in the database, for what they have found out since."""
        copy = await self.copies.find(sha256)
        if isinstance(copy, Model):
            self._hold(copy)
        if not isinstance(copy, Model) or copy.verification is None:
            await self._load(sha256)
        found = await self.find(sha256)
        return None if found is None else found[0]

    async def that_differ(self, limit: int) -> list[Model]:
        """Those about which another program differs, the latest first, of any tenant."""
        return [_model_of(stored) for stored in await self._database.load_models_that_differ(limit)]

    async def find_for(self, sha256: str, tenant: str) -> Found | None:
        """A known model that this tenant has uploaded, here or elsewhere."""
        found = await self.find(sha256)
        if found is None or tenant in found[0].tenants:
            return found
        if await self.copies.is_admitted(sha256, tenant):
            return self._hold(_admitted(found[0], tenant)), "shared"
        stranger = _stranger(sha256, tenant)
        if found[1] == "database" or self.absences.get(stranger):
            return None
        loaded = await self._load(sha256)
        if loaded is None or tenant not in loaded.tenants:
            self.absences.put(stranger, True)
            return None
        return loaded, "database"

    async def facts(self, sha256: str, byte_count: int, tenant: str, work: Work) -> Found:
        """The facts of a model that was just uploaded: known, or computed once for all who ask now.

        Raises ModelRefused, and what `work` raises.
        """
        held = self._held(sha256)
        if held is not None and isinstance(held.found, Model) and self.is_outdated(held.found):
            held = None  # here are the bytes
        known = held or await self.computing.facts(sha256, byte_count, work)
        if isinstance(known.found, Refusal):
            raise ModelRefused(known.found)
        return await self._admit(known.found, tenant), known.source

    def count(self, model: Model, requests: float = 1.0) -> None:
        """So many more requests for a known model."""
        now = self._clock.now()
        self.popularity.count(model.sha256, now, requests)
        self.records.add(self._hold(model), now, requests=requests)

    async def drop_copy(self, sha256: str) -> None:
        await self.copies.drop(sha256)

    async def invalidate(self, sha256: str) -> bool:
        """Forget what is held of a model and read it again."""
        self.forget(sha256)
        await self.drop_copy(sha256)
        return await self.find(sha256) is not None

    def forget(self, sha256: str) -> None:
        """What is being read is not kept: it may be older."""
        self._invalidations += 1
        self._lookups.forget(sha256)
        self._loads.forget(sha256)
        self.cache.discard(sha256)
        self.records.forget(sha256)
        self._past_copies.put(sha256, True)
        self.refusals.discard(sha256)
        self.absences.discard(sha256)

    async def warm(self, limit: int) -> int:
        """Hold the most popular models of the database."""
        stored = await self._database.load_popular_models(limit, self._half_life_s)
        for model in reversed(stored):
            self.popularity.restore(model.sha256, model.score, model.requested_at)
            self._hold(_model_of(model))
        return len(stored)

    async def run(self) -> None:
        """Carry new facts and counts to the database until stopped."""
        await self.records.run()

    def stop(self) -> None:
        self.records.stop()

    def _held_model(self, sha256: str) -> Model | None:
        held = self.cache.get(sha256)
        if isinstance(held, Model):
            return held
        record = self.records.get(sha256)
        return None if record is None else self._hold(_model_of(record))

    def _held(self, sha256: str) -> Known | None:
        """What is known here of a file, its refusal as well."""
        held = self._held_model(sha256) or self.refusals.get(sha256)
        return None if held is None else Known(held, "local")

    async def _known(self, sha256: str) -> Known | None:
        """What is known anywhere of a file, its refusal as well."""
        found = await self.find(sha256)
        if found is not None and not self.is_outdated(found[0]):
            return Known(*found)
        refusal = self.refusals.get(sha256)
        return None if refusal is None else Known(refusal, "shared")

    async def _look_up(self, sha256: str) -> Found | None:
        """With the others, then in the database."""
        if self._past_copies.get(sha256) and (loaded := await self._load(sha256)) is not None:
            self._past_copies.discard(sha256)
            return loaded, "database"
        copy = await self.copies.find(sha256)
        if isinstance(copy, Refusal):
            self.refusals.put(sha256, copy)
            return None
        if copy is not None:
            self.shared_hits += 1
            return self._hold(copy), "shared"
        if self.absences.get(sha256):
            return None
        if (loaded := await self._load(sha256)) is not None:
            return loaded, "database"
        if (record := self.records.get(sha256, forgotten=True)) is not None:
            return self._hold(_model_of(record)), "local"
        self.absences.put(sha256, True)
        return None

    async def _load(self, sha256: str) -> Model | None:
        return await self._loads.do(sha256, lambda: self._loaded(sha256))

    async def _loaded(self, sha256: str) -> Model | None:
        self.loads += 1
        ticket = self._invalidations
        if (stored := await self._database.load_model(sha256)) is None:
            return None
        if ticket != self._invalidations:
            return _model_of(stored)
        self.popularity.restore(sha256, stored.score, stored.requested_at)
        model = self._hold(_model_of(stored))
        if model.analyser == self._analyser:
            self.copies.offer(model)
        return model

    def _cache_result(self, sha256: str, found: Model | Refusal) -> None:
        if isinstance(found, Refusal):
            self.refusals.put(sha256, found)
        else:
            self.absences.discard(sha256)
            self._hold(found)

    def _hold(self, model: Model) -> Model:
        """With all that is known of who may see it: a copy, or what was read a moment ago, knows less."""
        held = self.cache.peek(model.sha256)
        if held is not None and is_older(model.analyser, held.analyser):
            model = msgspec.structs.replace(held, tenants=model.tenants | held.tenants)
        elif held is not None:
            model = _together(held, model)
        if self.is_outdated(model):
            self.outdated.add(model.sha256)
        elif model.verification is None:
            self.unverified.add(model.sha256)
        self.cache.put(model)
        return model

    async def _admit(self, model: Model, tenant: str) -> Model:
        """One more request, by a caller that has the bytes."""
        held = self.cache.peek(model.sha256)
        known = tenant in model.tenants or (held is not None and tenant in held.tenants)
        model = self._hold(_admitted(model, tenant))
        self.count(model)
        if not known:
            self.absences.discard(_stranger(model.sha256, tenant))
            await self.copies.admit(model.sha256, tenant)
        return model


def _together(held: Model, newer: Model) -> Model:
    verification = newer.verification
    if held.analyser == newer.analyser:
        verification = prevailing(held.verification, verification)
    if held.tenants <= newer.tenants and verification is newer.verification:
        return newer
    return msgspec.structs.replace(newer, tenants=newer.tenants | held.tenants, verification=verification)


def _model_of(stored: StoredModel) -> Model:
    return Model(
        stored.sha256,
        stored.byte_count,
        stored.facts,
        stored.tenants,
        stored.analyser,
        stored.verification,
    )


def _stranger(sha256: str, tenant: str) -> str:
    return f"{sha256} {tenant}"


def _admitted(model: Model, tenant: str) -> Model:
    return msgspec.structs.replace(model, tenants=model.tenants | {tenant})
