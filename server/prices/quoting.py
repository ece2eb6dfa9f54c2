"""From a model to a quote: the price list of the day, the formula, and what was answered before."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
from aiohttp import web

from pricing.facts import SECOND_OPINION_DIFFERS, Facts, MeshWarning
from pricing.price.firmness import effective_unit
from pricing.price.formula import price
from pricing.price.model_view import ModelView, model_view
from pricing.price.options import Options, check_options
from pricing.price.price_list import MetalFix, PriceList
from pricing.units import DECLARABLE_UNITS
from server.http.problems import HttpError
from server.prices.answer_cache import PriceAnswer, PriceAnswers, Question
from server.prices.model_uploads import ModelUploads, facts_of
from server.prices.quotes import (
    MadeFrom,
    NotExplainable,
    decode_view,
    explained,
    quote_of,
    subject_of,
)
from server.prices.verification import opinion_of, state_of
from storage.clock import Clock
from storage.database.records import DISPUTED, StoredQuote
from storage.errors import NotFound
from storage.log.entries import Position
from storage.memory.lru import Sentinel
from storage.models.shared import Model
from storage.orders.actors import Actor
from storage.services.price_versions import PriceVersions
from storage.services.stack import Storage

OLDER_ANALYSIS = "older_analysis"
DOUBTS = (SECOND_OPINION_DIFFERS, OLDER_ANALYSIS)
"""Warnings about a model that no worker gives."""


def view_of(model: Model, units: str) -> ModelView:
    return model_view(model.sha256, model.byte_count, facts_of(model), units, opinion_of(model))


class Quoted(NamedTuple):
    """A quote, and a position of the log that has it and what it was decided on."""

    stored: StoredQuote
    as_of: Position


class Quoting:
    def __init__(
        self,
        storage: Storage,
        uploads: ModelUploads,
        price_lists: PriceVersions[PriceList],
        metal_fixes: PriceVersions[MetalFix],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._uploads = uploads
        self.price_lists = price_lists
        self.metal_fixes = metal_fixes
        self._clock = clock
        self._answers = PriceAnswers()

    def current(self, now: datetime | None = None) -> tuple[PriceList, MetalFix]:
        """Raises HttpError 503 when no published version is valid now."""
        now = now or self._clock.now()
        price_list, metal_fix = self.price_lists.current(now), self.metal_fixes.current(now)
        if price_list is None or metal_fix is None:
            raise HttpError(503, "no_price_list", "No price list is valid now.", {"Retry-After": "60"})
        return price_list, metal_fix

    async def quote(self, model: Model, options: Options, actor: Actor) -> Quoted:
        """The quote for this question today. Raises Refused."""
        as_of = self._storage.reads.stands
        price_list, metal_fix = self.current()
        check_options(options, price_list)
        options = msgspec.structs.replace(
            options,
            finish=options.finish or price_list.default_finish,
            plating=options.plating or price_list.default_plating,
        )
        now = self._clock.now()
        facts, analyser = await self._facts_to_price(model)
        # The unit in force belongs to the question: with it named or not, it is one quote, and a release that
        # knows no unit but a named one can explain it.
        if (unit := effective_unit(facts, options.units)) in DECLARABLE_UNITS:
            options = msgspec.structs.replace(options, units=unit)
        quote_id = _quote_id(model.sha256, analyser, options, price_list, metal_fix, now, actor.tenant)
        known: StoredQuote | Sentinel | None = self._storage.quotes.peek(quote_id)
        if not isinstance(known, StoredQuote) and options.leave_out:
            known = await self._storage.quotes.find(quote_id)  # before facts are found anew for it
        if isinstance(known, StoredQuote):
            return Quoted(known, as_of)
        if options.leave_out:
            facts = await self._without(model, facts, options.leave_out)
        priced = price(facts, options, price_list, metal_fix)
        valid_until = _midnight(now) + timedelta(days=1 + price_list.quote_validity_days)
        made_from = MadeFrom(analyser, options, facts)
        quote = quote_of(quote_id, model.sha256, made_from, priced, now, valid_until, state_of(model))
        stored = StoredQuote(quote_id, actor.tenant, valid_until, msgspec.json.encode(quote))
        issued, position = await self._storage.quotes.issue(stored, model.sha256)
        return Quoted(issued, position or as_of)

    async def _without(self, model: Model, whole: Facts, leave_out: tuple[int, ...]) -> Facts:
        """Facts without these bodies; what is doubted of the whole is doubted of them. Raises Refused."""
        facts = await self._uploads.facts_without(model, leave_out)
        doubts = tuple(warning for warning in whole.warnings if warning.code in DOUBTS)
        return msgspec.structs.replace(facts, warnings=(*facts.warnings, *doubts))

    async def _facts_to_price(self, model: Model) -> tuple[Facts, str]:
        """And what found them. Those of an earlier version of the analyser are as good as they were while the
        file is kept: it is read anew soon. Without it they stay, and a person should look."""
        facts = facts_of(model)
        if is_disputed(model):
            said = "Another program reads the file differently: a person has to look."
            return _doubted(facts, SECOND_OPINION_DIFFERS, said), f"{model.analyser} disputed"
        if not self._storage.models.is_outdated(model):
            return facts, model.analyser
        if await self._uploads.is_kept(model):
            return facts, model.analyser
        said = "Found by an earlier release, and the file is no longer kept."
        return _doubted(facts, OLDER_ANALYSIS, said), f"{model.analyser} alone"

    async def is_withdrawn(self, stored: StoredQuote) -> bool:
        """Whether another program differs about the model that the quote has put a price on."""
        subject = subject_of(stored.body)
        if subject.priceable == "manual":
            return False
        found = await self._storage.models.find(subject.model)
        return found is not None and is_disputed(found[0])

    async def known_quote(self, quote_id: str, actor: Actor) -> StoredQuote:
        """Raises NotFound, for another tenant's quote as well."""
        stored = await self._storage.quotes.get(quote_id)
        if actor.tenant is not None and stored.tenant != actor.tenant:
            raise NotFound("There is no such quote.")
        return stored

    def answered(self, question: Question, model: Model) -> PriceAnswer | None:
        """What this question was answered before, while it still is the answer."""
        now = self._clock.now()
        return self._answers.get(question, model, self.current(now), now)

    def keep_answer(self, question: Question, model: Model, body: bytes, etag: str) -> PriceAnswer:
        until = _midnight(self._clock.now()) + timedelta(days=1)
        answer = PriceAnswer(*self.current(), until, model, body, etag)
        self._answers.put(question, answer)
        return answer

    def priced(self, model: Model, units: str, stored: StoredQuote, explain: bool) -> bytes:
        """Model and quote, as they are answered. Raises NotExplainable."""
        view = msgspec.json.encode(view_of(model, units))
        return b'{"model":%b,"price":%b}' % (view, self.explain(stored) if explain else stored.body)

    def explain(self, stored: StoredQuote) -> bytes:
        """The quote as it was issued, with the workings of every line. Raises NotExplainable."""
        quote = decode_view(stored.body)
        price_list = self.price_lists.get(quote.price_list)
        metal_fix = self.metal_fixes.get(quote.metal_fix)
        if price_list is None or metal_fix is None:
            raise NotExplainable
        return msgspec.json.encode(explained(quote, price_list[1], metal_fix[1]))


def is_disputed(model: Model) -> bool:
    return model.verification is not None and model.verification.state in DISPUTED


def _doubted(facts: Facts, code: str, said: str) -> Facts:
    return msgspec.structs.replace(facts, warnings=(*facts.warnings, MeshWarning(code, said)))


def _quote_id(
    sha256: str,
    analyser: str,
    options: Options,
    price_list: PriceList,
    metal_fix: MetalFix,
    now: datetime,
    tenant: str | None,
) -> str:
    """The same question on the same day is the same quote. The analyser belongs to the question."""
    *choices, leave_out = msgspec.structs.astuple(options)
    inputs = (
        sha256,
        analyser,
        *choices,
        *([leave_out] if leave_out else []),  # a question of before has the id of before
        price_list.version,
        metal_fix.version,
        _midnight(now),
        tenant,
    )
    return "q_" + hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()[:32]


def _midnight(now: datetime) -> datetime:
    return datetime(now.year, now.month, now.day, tzinfo=UTC)


QUOTING: web.AppKey[Quoting] = web.AppKey("quoting", Quoting)
