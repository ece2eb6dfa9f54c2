"""Prices over HTTP: upload a model and get its price; quotes, materials, price lists, metal fixes."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from pricing.formula import Options, check_options
from pricing.model import ModelView
from pricing.price_list import MetalFix, PriceList, parse_metal_fix, parse_price_list
from pricing.units import DECLARABLE_UNITS
from server.calls import Call, json_response
from server.conditions import announced_sha256
from server.keys import PRICER
from server.model_upload import received
from server.orders import Code
from server.pricer import Quote
from server.problems import HttpError
from server.routes import ADMIN, EVERYBODY, Route
from storage.database import StoredVersion
from storage.entries import Answer, Remembered
from storage.log import Position
from storage.models import Model
from storage.orders import PRICING_ROLES
from storage.published import Published

QUANTITY_MAX = 1_000_000

Receive = Callable[[], Awaitable[tuple[Model, str]]]
"""The model to price, and where its facts came from."""


class Choices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a price depends on beside the model."""

    material: Code
    units: Code = "mm"
    finish: Code | None = None
    plating: Code | None = None
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] = 1
    rush: bool = False

    def options(self) -> Options:
        return Options(
            material=self.material,
            units=self.units,
            finish=self.finish,
            plating=self.plating,
            quantity=self.quantity,
            rush=self.rush,
        )


class Priced(msgspec.Struct, frozen=True):
    model: ModelView
    price: Quote


class MaterialView(msgspec.Struct, frozen=True):
    code: str
    name: str
    density_g_cm3: str
    density_source: str


class SurfaceView(msgspec.Struct, frozen=True):
    code: str
    name: str


class Materials(msgspec.Struct, frozen=True, kw_only=True):
    price_list: str
    metal_fix: str
    units: list[str]
    materials: list[MaterialView]
    finishes: list[SurfaceView]
    platings: list[SurfaceView]


class PublishedVersion(msgspec.Struct, frozen=True):
    version: str
    valid_from: datetime
    valid_to: datetime | None


class PriceLists(msgspec.Struct, frozen=True):
    items: list[PublishedVersion]
    next: str | None = None


async def post_price(call: Call) -> web.StreamResponse:
    """The model as the raw body, or as the field `model` of a multipart body."""
    pricer, options = call.request.app[PRICER], call.query(Choices).options()
    check_options(options, pricer.current()[0])
    sha256 = await _known_already(call)
    if sha256 is not None:
        response = await _price_once(call, sha256, options, lambda: _known(call, sha256))
        response.force_close()  # the body held back is not waited for
        return response
    async with received(call) as (upload, content_type):

        def receive() -> Awaitable[tuple[Model, str]]:
            return pricer.receive(upload, content_type, call.actor)

        return await _price_once(call, upload.sha256, options, receive)


async def _known(call: Call, sha256: str) -> tuple[Model, str]:
    model, source = await call.request.app[PRICER].known_model(sha256, call.actor)
    call.storage.models.count(model)
    return model, source


async def _known_already(call: Call) -> str | None:
    """The hash of a body that is held back, when its sender has uploaded that model before."""
    sha256 = announced_sha256(call.request)
    if sha256 is None:
        return None
    try:
        await call.request.app[PRICER].known_model(sha256, call.actor)
    except HttpError:
        return None
    return sha256


async def _price_once(call: Call, sha256: str, options: Options, receive: Receive) -> web.Response:
    """The price of the model that `receive` returns; a request that was answered before is not priced."""
    keyed = call.keyed(sha256.encode())
    if keyed is None:
        return await _price(call, options, receive)
    async with call.storage.book.keyed_once(keyed) as found:
        if found is not None:
            return _repeated(found)
        response = await _price(call, options, receive)
        await call.storage.remember(keyed, Answer(status=200, body=response.body))  # type: ignore[arg-type]
        return response


async def _price(call: Call, options: Options, receive: Receive) -> web.Response:
    pricer = call.request.app[PRICER]
    model, source = await receive()
    stored, _ = await pricer.quote(model, options, call.actor)
    return _priced(pricer.view(model, options.units), stored.body, source)


async def get_quote(call: Call) -> web.StreamResponse:
    stored = await call.request.app[PRICER].known_quote(call.request.match_info["id"], call.actor)
    return json_response(stored.body)


async def list_materials(call: Call) -> web.StreamResponse:
    price_list, metal_fix = call.request.app[PRICER].current()
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
        )
    )


async def list_price_lists(call: Call) -> web.StreamResponse:
    versions = call.request.app[PRICER].price_lists.all()
    return json_response(
        PriceLists([PublishedVersion(item.version, item.starts_at, item.ends_at) for item in versions])
    )


async def get_current_price_list(call: Call) -> web.StreamResponse:
    return json_response(call.request.app[PRICER].current()[0])


async def publish_price_list(call: Call) -> web.StreamResponse:
    await call.document()
    record = parse_price_list(call.raw)
    stored = StoredVersion(record.version, record.valid_from, record.valid_to, msgspec.json.encode(record))
    return await _publish(call, call.request.app[PRICER].price_lists, stored)


async def publish_metal_fix(call: Call) -> web.StreamResponse:
    await call.document()
    record = parse_metal_fix(call.raw)
    stored = StoredVersion(record.version, record.fixed_at, None, msgspec.json.encode(record))
    return await _publish(call, call.request.app[PRICER].metal_fixes, stored)


async def get_current_metal_fix(call: Call) -> web.StreamResponse:
    return json_response(call.request.app[PRICER].current()[1])


async def _publish(call: Call, known: Published[Any], stored: StoredVersion) -> web.StreamResponse:
    keyed = call.keyed(call.raw)
    if keyed is None:
        return _published(await known.publish(stored), stored)
    async with call.storage.book.keyed_once(keyed) as found:
        if found is not None:
            return _repeated(found)
        answer = Answer(status=201, body=stored.body)
        remembered = Remembered(scope=keyed.scope, key=keyed.key, body_hash=keyed.body_hash, answer=answer)
        return _published(await known.publish(stored, remembered), stored)


def _published(position: Position, stored: StoredVersion) -> web.Response:
    headers = {"Facet-Position": str(position), "Durability": "log"}
    return json_response(stored.body, 201, headers)


def _priced(view: ModelView, quote: bytes, source: str) -> web.Response:
    body = b'{"model":%b,"price":%b}' % (msgspec.json.encode(view), quote)
    return json_response(body, headers={"Cache-Status": cache_status(source)})


def cache_status(source: str) -> str:
    """`Cache-Status` of facts that were held here, loaded, or computed."""
    return "facet; hit; detail=local" if source == "local" else f"facet; fwd=miss; stored; detail={source}"


def _repeated(found: tuple[Position, Any]) -> web.Response:
    answer = found[1].remembered.answer
    return json_response(answer.body, answer.status, {"Facet-Position": str(found[0])})


_UPLOAD_ERRORS = (408, 409, 413, 415, 503)

ROUTES = [
    Route(
        method="POST",
        path="/v1/prices",
        handler=post_price,
        summary="Price a model",
        tag="prices",
        roles=PRICING_ROLES,
        query=Choices,
        uploads=True,
        answers={200: Priced},
        errors=_UPLOAD_ERRORS,
        changes=True,
    ),
    Route(
        method="GET",
        path="/v1/prices/{id}",
        handler=get_quote,
        summary="A quote as it was issued",
        tag="prices",
        roles=PRICING_ROLES,
        answers={200: Quote},
        errors=(404, 503),
    ),
    Route(
        method="GET",
        path="/v1/materials",
        handler=list_materials,
        summary="Alloys, finishes and platings of the current price list",
        tag="prices",
        roles=EVERYBODY,
        answers={200: Materials},
        errors=(503,),
    ),
    Route(
        method="GET",
        path="/v1/price-lists",
        handler=list_price_lists,
        summary="Published price lists",
        tag="prices",
        roles=ADMIN,
        answers={200: PriceLists},
    ),
    Route(
        method="GET",
        path="/v1/price-lists/current",
        handler=get_current_price_list,
        summary="The price list that is valid now",
        tag="prices",
        roles=ADMIN,
        answers={200: PriceList},
        errors=(503,),
    ),
    Route(
        method="POST",
        path="/v1/price-lists",
        handler=publish_price_list,
        summary="Publish a price list; it never changes afterwards",
        tag="prices",
        roles=ADMIN,
        body=PriceList,
        answers={201: PriceList},
        errors=(409, 503),
        changes=True,
    ),
    Route(
        method="GET",
        path="/v1/metal-fixes/current",
        handler=get_current_metal_fix,
        summary="The metal fix that is valid now",
        tag="prices",
        roles=ADMIN,
        answers={200: MetalFix},
        errors=(503,),
    ),
    Route(
        method="POST",
        path="/v1/metal-fixes",
        handler=publish_metal_fix,
        summary="Publish a metal fix",
        tag="prices",
        roles=ADMIN,
        body=MetalFix,
        answers={201: MetalFix},
        errors=(409, 503),
        changes=True,
    ),
]
