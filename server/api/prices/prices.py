"""Prices over HTTP: upload a model and get its price; quotes, materials, price lists, metal fixes."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from pricing.price.leave_out import parse_leave_out
from pricing.price.model_view import ModelView
from pricing.price.options import Options, check_options
from pricing.price.stones import parse_stones
from pricing.readers.formats import check_content_type
from pricing.units import DECLARABLE_UNITS
from server.http.headers import announced_sha256
from server.http.idempotency import Reply, as_kept, once
from server.http.problems import HttpError
from server.http.request import Call
from server.http.responses import json_response, read_answer
from server.http.routes import EVERYBODY, Routes
from server.jobs.respond import respond_later
from server.jobs.running import Job, Progress
from server.prices.model_uploads import MODEL_UPLOADS, facts_of
from server.prices.quotes import QuoteView, withdrawn
from server.prices.quoting import QUOTING
from server.prices.verification import VERIFICATIONS
from server.uploads.model_body import is_form, received
from storage.database.records import StoredQuote
from storage.log.entries import Answer
from storage.models.shared import Model
from storage.orders.actors import PRICING_ROLES
from storage.orders.fields import Code

QUANTITY_MAX = 1_000_000

STONES_TEXT_MAX = 2_600
"""Characters: 50 kinds, with the longest codes and counts."""

LEAVE_OUT_TEXT_MAX = 400
"""Characters: 50 numbers of bodies."""

Receive = Callable[[], Awaitable[tuple[Model, str]]]
"""The model to price, and where its facts came from."""


class Choices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a price depends on beside the model. `leave_out`: numbers of bodies that are no metal, with
    commas."""

    material: Code
    units: Code = ""
    finish: Code | None = None
    plating: Code | None = None
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] = 1
    rush: bool = False
    stones: Annotated[str, Meta(max_length=STONES_TEXT_MAX)] = ""
    leave_out: Annotated[str, Meta(max_length=LEAVE_OUT_TEXT_MAX)] = ""

    def options(self) -> Options:
        return Options(
            material=self.material,
            units=self.units,
            finish=self.finish,
            plating=self.plating,
            quantity=self.quantity,
            rush=self.rush,
            stones=parse_stones(self.stones),
            leave_out=parse_leave_out(self.leave_out),
        )


class PriceQuery(Choices, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`explain`: every line with the numbers it was made from."""

    explain: bool = False


class Explain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    explain: bool = False


class Priced(msgspec.Struct, frozen=True):
    model: ModelView
    price: QuoteView


class MaterialView(msgspec.Struct, frozen=True):
    code: str
    name: str
    density_g_cm3: str
    density_source: str


class SurfaceView(msgspec.Struct, frozen=True):
    code: str
    name: str


class StoneView(msgspec.Struct, frozen=True):
    code: str
    name: str
    price_each: str
    setting_each: str


class Materials(msgspec.Struct, frozen=True, kw_only=True):
    price_list: str
    metal_fix: str
    units: list[str]
    materials: list[MaterialView]
    finishes: list[SurfaceView]
    platings: list[SurfaceView]
    stones: list[StoneView]


_UPLOAD_ERRORS = (408, 409, 413, 415, 503)

routes = Routes("prices")


@routes(
    "POST",
    "/v1/prices",
    "Price a model",
    roles=PRICING_ROLES,
    query=PriceQuery,
    form=PriceQuery,
    uploads=True,
    answers={200: Priced, 202: Job},
    errors=(*_UPLOAD_ERRORS, 429),
    changes=True,
    prefers=True,
)
async def post_price(call: Call) -> web.StreamResponse:
    """The model as the raw body, or as the field `model` of a form, with other fields as in the query."""
    quoting = call.request.app[QUOTING]
    if not is_form(call.request):
        query = call.query(PriceQuery)
        check_options(query.options(), quoting.current()[0])
        if (sha256 := await _known_already(call)) is not None:
            reply = await _price_once(call, sha256.encode(), query, lambda: _known(call, sha256))
            reply.response.force_close()  # the body held back is not waited for
            return reply.response
    async with contextlib.AsyncExitStack() as stack:
        sent = await stack.enter_async_context(received(call, PriceQuery.__struct_fields__))
        query = call.query(PriceQuery, sent.fields)
        check_options(query.options(), quoting.current()[0])

        async def work(progress: Progress) -> Reply:
            async def receive() -> tuple[Model, str]:
                progress.stage = "measuring"
                received = await call.request.app[MODEL_UPLOADS].receive(
                    sent.upload, sent.content_type, call.actor
                )
                progress.stage = "pricing"
                return received

            return await _price_once(call, sent.identity, query, receive)

        if call.preferences.respond_async:
            return await respond_later(call, call.keyed(sent.identity), work, stack)
        return (await work(Progress())).response


async def _known(call: Call, sha256: str) -> tuple[Model, str]:
    model, source = await call.request.app[MODEL_UPLOADS].known_model(sha256, call.actor)
    call.storage.models.count(model)
    return model, source


async def _known_already(call: Call) -> str | None:
    """The hash of a body that is held back, when its sender has uploaded that model before."""
    if (sha256 := announced_sha256(call.request)) is None:
        return None
    uploads, length = call.request.app[MODEL_UPLOADS], call.request.content_length
    try:
        model, _ = await uploads.known_model(sha256, call.actor)
    except HttpError:
        return None
    if length not in (None, model.byte_count):
        return None  # another body is announced than the digest says: it is looked at
    check_content_type(call.request.headers.get("Content-Type"), facts_of(model).format)
    return sha256


async def _price_once(call: Call, identity: bytes, query: PriceQuery, receive: Receive) -> Reply:
    """The price of the model that `receive` returns; a request that was answered before is not priced.
    `identity`: what tells its body from others."""

    if (keyed := call.keyed(identity)) is None:
        return await _price(call, query, receive)
    return await once(call, keyed, lambda: _price(call, query, receive), as_kept)


async def _price(call: Call, query: PriceQuery, receive: Receive) -> Reply:
    quoting, options = call.request.app[QUOTING], query.options()
    model, source = await receive()
    if patience_s := call.preferences.wait_s:
        model = await call.request.app[VERIFICATIONS].settled(model, patience_s)
    quoted = await quoting.quote(model, options, call.actor)
    body = quoting.priced(model, options.units, quoted.stored, query.explain)
    headers = {"Cache-Status": cache_status(source), "Facet-Position": str(quoted.as_of)}
    return Reply(json_response(body, headers=headers), Answer(status=200, body=body))


@routes(
    "GET",
    "/v1/prices/{id}",
    "A quote as it was issued",
    roles=PRICING_ROLES,
    query=Explain,
    answers={200: QuoteView},
    errors=(404, 409, 503),
    conditional=True,
)
async def get_quote(call: Call) -> web.StreamResponse:
    explain = call.query(Explain).explain
    quoting = call.request.app[QUOTING]
    quote_id = call.named("id")
    held = isinstance(call.storage.quotes.lru.peek(quote_id), StoredQuote)
    source = "local" if held or call.storage.tail.pending_quote(quote_id) else "database"
    stored = await quoting.known_quote(quote_id, call.actor)
    body = quoting.explain(stored) if explain else stored.body
    state = ""
    if await quoting.is_withdrawn(stored):
        body, state = withdrawn(body), "withdrawn"
    return read_answer(call, body, quote_tag(stored.id, explain, state), cache_status(source))


@routes(
    "GET",
    "/v1/materials",
    "Alloys, finishes and platings of the current price list",
    roles=EVERYBODY,
    answers={200: Materials},
    errors=(503,),
)
async def list_materials(call: Call) -> web.StreamResponse:
    price_list, metal_fix = call.request.app[QUOTING].current()
    return json_response(
        Materials(
            price_list=price_list.version,
            metal_fix=metal_fix.version,
            units=list(DECLARABLE_UNITS),
            materials=[
                MaterialView(row.code, row.name, str(row.density_g_cm3), row.density_source)
                for row in price_list.materials
            ],
            finishes=[SurfaceView(row.code, row.name) for row in price_list.finishes],
            platings=[SurfaceView(row.code, row.name) for row in price_list.platings],
            stones=[
                StoneView(row.code, row.name, str(row.price_each), str(row.setting_each))
                for row in price_list.stones
            ],
        )
    )


def quote_tag(quote_id: str, explain: bool, state: str) -> str:
    """A quote never changes; its explanation says more, and it may be withdrawn."""
    return f'"{".".join(filter(None, (quote_id, "explained" if explain else "", state)))}"'


def cache_status(source: str) -> str:
    """`Cache-Status` of facts that were held here, loaded, or computed."""
    hit = source in ("local", "shared")
    return f"facet; hit; detail={source}" if hit else f"facet; fwd=miss; stored; detail={source}"
