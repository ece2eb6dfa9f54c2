"""From an upload or a known model to a quote, and from an order to its price: pricing meets storage here."""

import asyncio
import hashlib
import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from pricing.errors import Refused
from pricing.facts import Facts, MeshWarning
from pricing.pool import FactsPool, PoolBusy, PoolClosed
from pricing.price.formula import price
from pricing.price.model_view import ModelView, model_view
from pricing.price.options import Options, check_options
from pricing.price.price_list import MetalFix, PriceList
from pricing.readers.formats import check_content_type
from pricing.units import DECLARABLE_UNITS
from server.http.problems import HttpError
from server.prices.answer_cache import PriceAnswer, PriceAnswers, Question
from server.prices.quotes import (
    MadeFrom,
    NotExplainable,
    Quote,
    decode_quote,
    decode_view,
    explained,
    quote_of,
)
from server.uploads.receiving import Upload
from storage.clock import Clock
from storage.database.records import StoredQuote
from storage.errors import Invalid, NotFound, NotPriceable
from storage.log.log import Position
from storage.models.files import KeptFiles
from storage.models.shared import Model, Refusal
from storage.orders.actors import Actor, Role
from storage.orders.order import Money, Order, OrderPrice, PriceSource
from storage.services.models import ModelRefused
from storage.services.orders import Draft
from storage.services.price_versions import Published
from storage.services.stack import Storage

logger = logging.getLogger("facet.models")

CENT = Decimal("0.01")
AMOUNT_MAX = Decimal(1_000_000_000)
HOUSE = ""
"""The tenant of models that the workshop's own systems upload."""

_decode_facts = msgspec.json.Decoder(Facts).decode


PASSING = frozenset({"worker_died", "time_limit", "out_of_memory"})
"""Refusals that say nothing of the file for certain: the next time may go better."""


class Analysis:
    """What is to be done once about an uploaded file whose facts nobody knows."""

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
            facts = await self._pool.analyse(body)
        except Refused as refused:
            if refused.code in PASSING:
                raise
            return Refusal(refused.code, refused.detail, refused.remedy)
        await asyncio.to_thread(self._files.keep, self._upload.sha256, body)
        return msgspec.json.encode(facts)


class Quoted(NamedTuple):
    """A quote, and a position of the log that has it and what it was decided on."""

    stored: StoredQuote
    as_of: Position


class Pricer:
    def __init__(
        self,
        storage: Storage,
        pool: FactsPool,
        files: KeptFiles,
        price_lists: Published[PriceList],
        metal_fixes: Published[MetalFix],
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._pool = pool
        self._files = files
        self.price_lists = price_lists
        self.metal_fixes = metal_fixes
        self._clock = clock
        self._answers = PriceAnswers()

    async def receive(self, upload: Upload, content_type: str | None, actor: Actor) -> tuple[Model, str]:
        """The model of an upload, its facts known or computed once, and where they came from.

        Raises Refused, PoolBusy.
        """

        if upload.byte_count == 0:
            raise Refused("empty_file", "The file has no bytes.", "Send the model as the body.")
        models = self._storage.models
        tenant = actor.tenant or HOUSE
        work = Analysis(self._pool, self._files, upload)
        try:
            found, source = await models.facts(upload.sha256, upload.byte_count, tenant, work)
        except ModelRefused as refused:
            raise Refused(*msgspec.structs.astuple(refused.refusal)) from None
        check_content_type(content_type, self.facts(found).format)
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
        models, tenant = self._storage.models, actor.tenant
        found = await (models.find(sha256) if tenant is None else models.find_for(sha256, tenant))
        if found is None:
            raise HttpError(404, "unknown_model", "This model is not known here: upload it.")
        return found

    async def file_of(self, model: Model) -> Path:
        """The path of a kept model. Raises HttpError 404."""
        path = await asyncio.to_thread(self._files.path, model.sha256)
        if path is None:
            raise HttpError(404, "file_gone", "The file is no longer kept; its facts are. Upload it again.")
        return path

    def facts(self, model: Model) -> Facts:
        return _decode_facts(model.facts)

    async def _facts_to_price(self, model: Model) -> tuple[Facts, str]:
        """And what found them. Those of an earlier version of the analyser are as good as they were while the
        file is kept: it is read anew soon. Without it they stay, and a person should look."""
        facts = self.facts(model)
        if not self._storage.models.is_outdated(model):
            return facts, model.analyser
        if await asyncio.to_thread(self._files.path, model.sha256) is not None:
            return facts, model.analyser
        doubt = MeshWarning("older_analysis", "Found by an earlier release, and the file is no longer kept.")
        return msgspec.structs.replace(facts, warnings=(*facts.warnings, doubt)), f"{model.analyser} alone"

    async def read_anew(self, sha256: str) -> bool:
        """Find the facts of a kept file anew, after the analyser has changed. False: try again later."""
        path = await asyncio.to_thread(self._files.path, sha256)
        if path is None:
            return True
        try:
            byte_count = (await asyncio.to_thread(path.stat)).st_size
            facts = await self._pool.analyse(path)
        except (PoolBusy, PoolClosed, OSError):  # closed: not started yet, or about to end
            return False
        except Refused as refused:  # what was priced before stays priced
            logger.warning("model %s is refused by this analyser: %s", sha256, refused)
            return True
        self._storage.models.take_in(sha256, byte_count, msgspec.json.encode(facts))
        return True

    def view(self, model: Model, units: str) -> ModelView:
        return model_view(model.sha256, model.byte_count, self.facts(model), units)

    def current(self) -> tuple[PriceList, MetalFix]:
        """Raises HttpError 503 when no published version is valid now."""
        now = self._clock.now()
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
        quote_id = _quote_id(model.sha256, analyser, options, price_list, metal_fix, now, actor.tenant)
        known = self._storage.quotes.peek(quote_id)
        if isinstance(known, StoredQuote):
            return Quoted(known, as_of)
        priced = price(facts, options, price_list, metal_fix)
        valid_until = _midnight(now) + timedelta(days=1 + price_list.quote_validity_days)
        quote = quote_of(quote_id, model.sha256, MadeFrom(analyser, options, facts), priced, now, valid_until)
        stored = StoredQuote(quote_id, actor.tenant, valid_until, msgspec.json.encode(quote))
        issued, position = await self._storage.quotes.issue(stored, model.sha256)
        return Quoted(issued, position or as_of)

    async def known_quote(self, quote_id: str, actor: Actor) -> StoredQuote:
        """Raises NotFound, for another tenant's quote as well."""
        stored = await self._storage.quotes.get(quote_id)
        if actor.tenant is not None and stored.tenant != actor.tenant:
            raise NotFound("There is no such quote.")
        return stored

    def answered(self, question: Question, model: Model) -> PriceAnswer | None:
        """What this question was answered before, while it still is the answer."""
        return self._answers.get(question, model, self.current(), self._clock.now())

    def keep_answer(
        self, question: Question, model: Model, stored: StoredQuote, body: bytes, etag: str
    ) -> PriceAnswer:
        until = _midnight(self._clock.now()) + timedelta(days=1)
        answer = PriceAnswer(*self.current(), until, model.facts, body, etag)
        self._answers.put(question, answer)
        return answer

    def priced(self, model: Model, units: str, stored: StoredQuote, explain: bool) -> bytes:
        """Model and quote, as they are answered. Raises NotExplainable."""
        view = msgspec.json.encode(self.view(model, units))
        return b'{"model":%b,"price":%b}' % (view, self.explain(stored) if explain else stored.body)

    def explain(self, stored: StoredQuote) -> bytes:
        """The quote as it was issued, with the workings of every line. Raises NotExplainable."""
        quote = decode_view(stored.body)
        price_list = self.price_lists.get(quote.price_list)
        metal_fix = self.metal_fixes.get(quote.metal_fix)
        if price_list is None or metal_fix is None:
            raise NotExplainable
        return msgspec.json.encode(explained(quote, price_list[1], metal_fix[1]))

    async def complete_draft(self, draft: Draft, actor: Actor) -> Draft:
        """A new order's choices, checked, and taken from its quote where it names one. Raises Invalid."""
        self._check_choices(msgspec.structs.asdict(draft))
        if draft.quote is None:
            return msgspec.structs.replace(draft, quantity=draft.quantity or 1)
        quote = await self._quote_for(draft.quote, actor)
        chosen = {**_choices(quote), "model": quote.model, "quantity": quote.quantity}
        given = {name: getattr(draft, name) for name in chosen}
        errors = [
            (f"/{name}", f"the quote has {chosen[name]}")
            for name in chosen
            if given[name] not in (None, 0, chosen[name])
        ]
        if errors:
            raise Invalid(*errors, code="quote_mismatch")
        return msgspec.structs.replace(draft, **chosen)

    async def check_edit(self, order: Order, fields: dict[str, Any], actor: Actor) -> None:
        """Raises Invalid for a choice the price list does not have, or a quote for something else."""
        self._check_choices(fields)
        quote_id = fields.get("quote")
        if quote_id is None:
            return
        quote = await self._quote_for(quote_id, actor)
        after = {name: fields.get(name, getattr(order, name)) for name in _ASKED}
        if not _answers(quote, after):
            raise Invalid(("/quote", "is for another model or other choices"), code="quote_mismatch")

    async def price_of_order(
        self, order: Order, actor: Actor, person: tuple[Money, str] | None
    ) -> OrderPrice | None:
        """What PRICE_CALCULATED puts on an order: a person's price, else its valid quote, else the price of
        its model. None when the order has no model here. Raises Invalid, NotPriceable."""
        if person is not None:
            return self._price_of_person(*person)
        if actor.role is Role.SELLER:
            raise Invalid(("/price", "a seller sets the price: net and reason"), code="price_required")
        quote = await self._own_quote(order)
        if quote is not None and quote.valid_until > self._clock.now():
            return _order_price(quote, PriceSource.QUOTE)
        found = await self._storage.models.find(order.model) if order.model is not None else None
        if found is None:
            return None
        if order.material is None:
            raise NotPriceable("The order names no material: edit it, or send price {net, reason}.")
        options = Options(
            material=order.material,
            units=order.units or "mm",
            finish=order.finish,
            plating=order.plating,
            quantity=order.quantity,
            # An order has no fields for these: they come with its quote, and stay when that has expired.
            rush=quote is not None and quote.rush,
            stones=tuple(quote.stones) if quote is not None else (),
        )
        self._storage.models.count(found[0])
        asker = Actor(token_id="", name="", role=Role.PARTNER, customer=order.customer)
        quoted = await self.quote(found[0], options, asker)
        return self.order_price(quoted.stored, PriceSource.COMPUTED)

    def order_price(self, stored: StoredQuote, source: PriceSource) -> OrderPrice:
        """What a quote puts on an order. Raises NotPriceable when it is not firm."""
        return _order_price(decode_quote(stored.body), source)

    async def _own_quote(self, order: Order) -> Quote | None:
        """The quote the order names, valid or not, while it is for what the order is for."""
        if order.quote is None:
            return None
        try:
            stored = await self._storage.quotes.get(order.quote)
        except NotFound:
            return None
        quote = decode_quote(stored.body)
        return quote if _answers(quote, {name: getattr(order, name) for name in _ASKED}) else None

    async def _quote_for(self, quote_id: str, actor: Actor) -> Quote:
        try:
            stored = await self.known_quote(quote_id, actor)
        except NotFound:
            raise Invalid(("/quote", "no such quote"), code="unknown_quote") from None
        if stored.valid_until <= self._clock.now():
            raise Invalid(("/quote", "has expired"), code="quote_expired")
        return decode_quote(stored.body)

    def _check_choices(self, fields: dict[str, Any]) -> None:
        price_list, _ = self.current()
        known = {
            "units": set(DECLARABLE_UNITS),
            "material": {row.code for row in price_list.materials},
            "finish": {row.code for row in price_list.finishes},
            "plating": {row.code for row in price_list.platings},
        }
        errors = [
            (f"/{name}", f"one of {', '.join(sorted(codes))}")
            for name, codes in known.items()
            if fields.get(name) is not None and fields[name] not in codes
        ]
        if errors:
            raise Invalid(*errors)

    def _price_of_person(self, net: Money, reason: str) -> OrderPrice:
        price_list, _ = self.current()
        if net.currency != price_list.currency:
            raise Invalid(("/price/net/currency", f"must be {price_list.currency}"))
        amount = net.amount
        if not amount.is_finite() or not 0 < amount <= AMOUNT_MAX or amount != amount.quantize(CENT):
            raise Invalid(("/price/net/amount", f"above 0, at most {AMOUNT_MAX}, with two decimals"))
        vat = (amount * price_list.rates.vat).quantize(CENT)
        currency = price_list.currency
        return OrderPrice(
            source=PriceSource.PERSON,
            net=Money(amount.quantize(CENT), currency),
            vat=Money(vat, currency),
            gross=Money(amount.quantize(CENT) + vat, currency),
            reason=reason,
        )


_ASKED = ("model", "units", "material", "finish", "plating", "quantity")


def _choices(quote: Quote) -> dict[str, Any]:
    return {
        "units": quote.units if quote.units in DECLARABLE_UNITS else None,
        "material": quote.material,
        "finish": quote.finish,
        "plating": quote.plating,
    }


def _answers(quote: Quote, asked: dict[str, Any]) -> bool:
    """Whether the quote is for what is asked; a choice left open fits any."""
    chosen = {**_choices(quote), "model": quote.model, "quantity": quote.quantity}
    return all(value is None or value == chosen[name] for name, value in asked.items())


def _order_price(quote: Quote, source: PriceSource) -> OrderPrice:
    if quote.priceable != "auto" or quote.net is None or quote.vat is None or quote.gross is None:
        codes = ", ".join(warning.code for warning in quote.warnings) or quote.priceable
        raise NotPriceable(
            f"The model cannot be priced firmly ({codes}): send price {{net, reason}}.",
            priceable=quote.priceable,
        )
    return OrderPrice(source=source, net=quote.net, vat=quote.vat, gross=quote.gross, quote=quote.id)


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
    inputs = (
        sha256,
        analyser,
        *msgspec.structs.astuple(options),
        price_list.version,
        metal_fix.version,
        _midnight(now),
        tenant,
    )
    return "q_" + hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()[:32]


def _midnight(now: datetime) -> datetime:
    return datetime(now.year, now.month, now.day, tzinfo=UTC)


PRICER: web.AppKey[Pricer] = web.AppKey("pricer", Pricer)
