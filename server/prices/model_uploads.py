"""Models that come in: facts that are known already, or else computed once (`storage.models.compute_once`);
and their files, which are kept."""

import asyncio
import logging
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
from aiohttp import web

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.pool import FactsPool, PoolBusy, PoolClosed
from pricing.readers.formats import check_content_type
from server.http.problems import HttpError
from server.uploads.receiving import Upload
from storage.memory.lru import Lru
from storage.memory.single_flight import SingleFlight
from storage.models.files import KeptFiles
from storage.models.shared import Model, Refusal
from storage.orders.actors import Actor
from storage.services.models import ModelRefused, Models

logger = logging.getLogger("facet.models")

IN_HOUSE = ""
"""The tenant of models that the workshop's own systems upload."""
TRANSIENT = frozenset({"worker_died", "time_limit", "out_of_memory"})
"""Refusals that say nothing of the file for certain: the next time may go better."""

PARTED_TOGETHER = 2
"""Models that are analysed without some of their bodies at one time."""
WITHOUT_MAX = 1_000
"""Models without some of their bodies, whose facts are held: they are found anew when asked for again."""

_decode_facts = msgspec.json.Decoder(Facts).decode


def facts_of(model: Model) -> Facts:
    return _decode_facts(model.facts)


class Analysis:
    """What is done once with an uploaded file whose facts are unknown."""

    def __init__(self, pool: FactsPool, files: KeptFiles, upload: Upload) -> None:
        self._pool = pool
        self._files = files
        self._upload = upload

    def hold(self) -> AbstractContextManager[None]:
        return self._upload.held()

    def drop(self) -> None:
        self._upload.drop()

    async def compute(self) -> bytes | Refusal:
        """Raises PoolBusy, and Refused for what passes."""
        body = await self._upload.stored()
        try:
            facts = await self._pool.analyse(body, sha256=self._upload.sha256)
        except Refused as refused:
            if refused.code in TRANSIENT:
                raise
            return Refusal(refused.code, refused.detail, refused.remedy)
        await asyncio.to_thread(self._files.keep, self._upload.sha256, body)
        return msgspec.json.encode(facts)


class ModelUploads:
    def __init__(self, models: Models, pool: FactsPool, files: KeptFiles) -> None:
        self._models = models
        self._pool = pool
        self._files = files
        self._without: Lru[tuple[str, tuple[int, ...]], Facts] = Lru(WITHOUT_MAX, WITHOUT_MAX * 50)
        self._parting = asyncio.Semaphore(PARTED_TOGETHER)
        self._parted: SingleFlight[tuple[str, tuple[int, ...]], Facts] = SingleFlight()

    async def receive(self, upload: Upload, content_type: str | None, actor: Actor) -> tuple[Model, str]:
        """The model of an upload, its facts known or computed once, and where they came from.

        Raises Refused, PoolBusy.
        """

        if upload.byte_count == 0:
            raise Refused("empty_file", "The file has no bytes.", "Send the model as the body.")
        tenant = actor.tenant or IN_HOUSE
        work = Analysis(self._pool, self._files, upload)
        try:
            found, source = await self._models.facts(upload.sha256, upload.byte_count, tenant, work)
        except ModelRefused as refused:
            raise Refused(*msgspec.structs.astuple(refused.refusal)) from None
        check_content_type(content_type, facts_of(found).format)
        if source != "computed":
            await self._keep_again(upload)
        return found, source

    async def _keep_again(self, upload: Upload) -> None:
        """The facts may be known when the file is no longer kept: now it is here."""
        if upload.dropped or await asyncio.to_thread(self._files.path, upload.sha256) is not None:
            return
        await asyncio.to_thread(self._files.keep, upload.sha256, await upload.stored())

    async def known_model(self, sha256: str, actor: Actor) -> tuple[Model, str]:
        """A model this actor has uploaded (the workshop's own systems see all). Raises HttpError 404."""
        tenant = actor.tenant
        found = await (self._models.find(sha256) if tenant is None else self._models.find_for(sha256, tenant))
        if found is None:
            raise HttpError(404, "unknown_model", "This model is not known here: upload it.")
        return found

    async def file_of(self, model: Model) -> Path:
        """The path of a kept model. Raises HttpError 404."""
        if (path := await asyncio.to_thread(self._files.path, model.sha256)) is None:
            raise HttpError(404, "file_gone", "The file is no longer kept; its facts are. Upload it again.")
        return path

    async def is_kept(self, model: Model) -> bool:
        """Whether the file is here, not only its facts."""
        return await asyncio.to_thread(self._files.path, model.sha256) is not None

    async def facts_without(self, model: Model, leave_out: tuple[int, ...]) -> Facts:
        """Facts of a kept model without some of its bodies. Raises Refused, PoolBusy, HttpError 404."""
        key = (model.sha256, leave_out)
        held = self._without.get(key)
        if isinstance(held, Facts):
            return held
        return await self._parted.do(key, lambda: self._find_without(model, leave_out))

    async def _find_without(self, model: Model, leave_out: tuple[int, ...]) -> Facts:
        path = await self.file_of(model)
        async with self._parting:  # a batch asks for many at once: uploads come first
            facts = await self._pool.analyse(path, sha256=model.sha256, leave_out=leave_out)
        self._without.put((model.sha256, leave_out), facts, len(leave_out))
        return facts

    async def read_anew(self, sha256: str) -> bool:
        """Find the facts of a kept file anew, after the analyser has changed. False: try again later."""
        if (path := await asyncio.to_thread(self._files.path, sha256)) is None:
            return True
        try:
            byte_count = (await asyncio.to_thread(path.stat)).st_size
            facts = await self._pool.analyse(path, sha256=sha256)
        except (PoolBusy, PoolClosed, OSError):  # closed: about to end
            return False
        except Refused as refused:  # what was priced before stays priced
            logger.warning("model %s is refused by this analyser: %s", sha256, refused)
            return True
        self._models.store_reanalysed(sha256, byte_count, msgspec.json.encode(facts))
        return True


MODEL_UPLOADS: web.AppKey[ModelUploads] = web.AppKey("model_uploads", ModelUploads)
