"""Facts of models, who uploaded them and how often they are asked for, on their way to the database.

Counts are carried as what was added since the last time: several processes count requests of the same model,
and the database adds them up.
"""

import asyncio
import logging
from datetime import datetime

import msgspec

from storage.database.contract import Database
from storage.database.records import StoredModel, Verification, prevailing
from storage.errors import DatabaseUnavailable
from storage.memory.popularity import added
from storage.models.shared import Model
from storage.trouble import Trouble

logger = logging.getLogger("facet.models")

STORE_INTERVAL_S = 0.2
STORE_BATCH = 200


class ModelWriteQueue:
    def __init__(self, database: Database, entries_max: int, half_life_s: float) -> None:
        self._database = database
        self._entries_max = entries_max
        self._half_life_s = half_life_s
        self._waiting: dict[str, StoredModel] = {}
        self._storing: dict[str, StoredModel] = {}
        self._forgotten: set[str] = set()
        self._more = asyncio.Event()
        self._stopping = False
        self._trouble = Trouble(
            logger, "facts of models wait for the database", "facts of models are stored again"
        )
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting.keys() | self._storing.keys())

    def get(self, sha256: str, *, forgotten: bool = False) -> StoredModel | None:
        """What waits of a model. `forgotten`: also when others may know something newer of it."""
        if sha256 in self._forgotten and not forgotten:
            return None
        return self._waiting.get(sha256) or self._storing.get(sha256)

    def forget(self, sha256: str) -> None:
        """What waits still goes to the database, which keeps the later of two."""
        if self.get(sha256) is not None:
            self._forgotten.add(sha256)

    def add(self, model: Model, now: datetime, *, requests: float = 1.0) -> None:
        """One more request of a model; none, where only its facts are to be stored."""
        self._put(stored_model(model, now, requests=requests))
        self._more.set()

    async def run(self) -> None:
        """Until stopped and everything is stored, or the database is away when stopped."""
        while not (self._stopping and not self._waiting):
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
                continue
            if not self._stopping and len(self._waiting) < STORE_BATCH:
                await asyncio.sleep(STORE_INTERVAL_S)
            if not await self._store():
                if self._stopping:
                    return
                await asyncio.sleep(STORE_INTERVAL_S)

    def stop(self) -> None:
        self._stopping = True
        self._more.set()

    def _put(self, record: StoredModel) -> None:
        """The newest goes last; the oldest is dropped beyond the bound."""
        self._forgotten.discard(record.sha256)
        known = self._waiting.pop(record.sha256, None)
        if known is None and len(self._waiting) >= self._entries_max:
            del self._waiting[next(iter(self._waiting))]
            self.dropped += 1
        self._waiting[record.sha256] = record if known is None else self._together(known, record)

    def _together(self, older: StoredModel, newer: StoredModel) -> StoredModel:
        score, requested_at = added(
            (older.score, older.requested_at), (newer.score, newer.requested_at), self._half_life_s
        )
        return msgspec.structs.replace(
            newer,
            first_seen_at=older.first_seen_at,
            score=score,
            requested_at=requested_at,
            tenants=older.tenants | newer.tenants,
            verification=_verification_of(older, newer),
        )

    async def _store(self) -> bool:
        self._storing = {sha256: self._waiting.pop(sha256) for sha256 in list(self._waiting)[:STORE_BATCH]}
        try:
            await self._database.store_models(list(self._storing.values()), self._half_life_s)
        except DatabaseUnavailable as error:
            self._trouble.met(f"{len(self)} wait: {error.detail}", error.unforeseen)
            newer, self._waiting = self._waiting, {}
            forgotten = self._forgotten.copy()
            for record in (*self._storing.values(), *newer.values()):
                self._put(record)
            self._forgotten = forgotten
            return False
        finally:
            self._storing = {}
            self._forgotten &= self._waiting.keys()
        self._trouble.over()
        return True


def stored_model(model: Model, now: datetime, *, requests: float) -> StoredModel:
    return StoredModel(
        sha256=model.sha256,
        analyser=model.analyser,
        byte_count=model.byte_count,
        facts=model.facts,
        first_seen_at=now,
        score=requests,
        requested_at=now,
        tenants=model.tenants,
        verification=model.verification,
    )


def _verification_of(older: StoredModel, newer: StoredModel) -> Verification | None:
    """Of the newer one's facts."""
    if older.analyser != newer.analyser:
        return newer.verification
    return prevailing(older.verification, newer.verification)
