"""Previews of models: made once in a worker process, kept beside the models, the newest also in memory."""

import asyncio
import hashlib
from typing import NamedTuple

from aiohttp import web

from pricing.facts import PREVIEW_VERSION
from pricing.pool import FactsPool
from server.http.problems import HttpError
from storage.memory.lru import Lru
from storage.memory.single_flight import SingleFlight
from storage.models.files import KeptFiles

HELD_MAX = 500
HELD_BYTES_MAX = 32 * 2**20
"""In memory."""
KEPT_BYTES_MAX = 2**30
"""On disk: some four thousand."""


class Preview(NamedTuple):
    body: bytes
    etag: str


class Previews:
    def __init__(self, pool: FactsPool, models: KeptFiles, kept: KeptFiles) -> None:
        self._pool = pool
        self._models = models
        self._kept = kept
        self._held: Lru[str, Preview] = Lru(HELD_MAX, HELD_BYTES_MAX)
        self._flights: SingleFlight[str, Preview] = SingleFlight()

    async def get(self, sha256: str) -> Preview:
        """Raises HttpError 404 when the model's file is no longer kept, Refused, PoolBusy."""
        held = self._held.get(sha256)
        if isinstance(held, Preview):
            return held
        return await self._flights.do(sha256, lambda: self._load(sha256))

    async def _load(self, sha256: str) -> Preview:
        name = f"{sha256}-{PREVIEW_VERSION}.glb"
        if (body := await asyncio.to_thread(self._read, name)) is None:
            if (source := await asyncio.to_thread(self._models.path, sha256)) is None:
                raise HttpError(404, "file_gone", "The model's file is no longer kept. Upload it again.")
            body = await self._pool.preview(source)
            await asyncio.to_thread(self._kept.keep, name, body)
        preview = Preview(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        self._held.put(sha256, preview, len(body))
        return preview

    def _read(self, name: str) -> bytes | None:
        path = self._kept.path(name)
        try:
            return None if path is None else path.read_bytes()
        except FileNotFoundError:
            return None


PREVIEWS: web.AppKey[Previews] = web.AppKey("previews", Previews)
