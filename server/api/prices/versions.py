"""Price lists and metal fixes over HTTP: published once, never changed."""

from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from pricing.price.price_list import MetalFix, PriceList, metal_fix_of, price_list_of
from server.http.idempotency import answer_of
from server.http.request import LIST_BYTES_MAX, Call
from server.http.responses import json_response
from server.http.routes import ADMIN, Routes
from server.prices.quoting import QUOTING
from storage.database.records import StoredVersion
from storage.log.entries import Answer, AnyEntry, Position
from storage.services.price_versions import PriceVersions

routes = Routes("prices")


class PublishedVersion(msgspec.Struct, frozen=True):
    version: str
    valid_from: datetime
    valid_to: datetime | None


class PriceLists(msgspec.Struct, frozen=True):
    items: list[PublishedVersion]
    next: str | None = None


@routes("GET", "/v1/price-lists", "Published price lists", roles=ADMIN, answers={200: PriceLists})
async def list_price_lists(call: Call) -> web.StreamResponse:
    versions = call.request.app[QUOTING].price_lists.all()
    return json_response(
        PriceLists([PublishedVersion(item.version, item.starts_at, item.ends_at) for item in versions])
    )


@routes(
    "GET",
    "/v1/price-lists/current",
    "The price list that is valid now",
    roles=ADMIN,
    answers={200: PriceList},
    errors=(503,),
)
async def get_current_price_list(call: Call) -> web.StreamResponse:
    return json_response(call.request.app[QUOTING].current()[0])


@routes(
    "POST",
    "/v1/price-lists",
    "Publish a price list; it never changes afterwards",
    roles=ADMIN,
    body=PriceList,
    body_bytes_max=LIST_BYTES_MAX,
    answers={201: PriceList},
    errors=(409, 503),
    changes=True,
)
async def publish_price_list(call: Call) -> web.StreamResponse:
    record = price_list_of(await call.document())
    stored = StoredVersion(record.version, record.valid_from, record.valid_to, msgspec.json.encode(record))
    return await _publish(call, call.request.app[QUOTING].price_lists, stored)


@routes(
    "POST",
    "/v1/metal-fixes",
    "Publish a metal fix",
    roles=ADMIN,
    body=MetalFix,
    answers={201: MetalFix},
    errors=(409, 503),
    changes=True,
)
async def publish_metal_fix(call: Call) -> web.StreamResponse:
    record = metal_fix_of(await call.document())
    stored = StoredVersion(record.version, record.fixed_at, None, msgspec.json.encode(record))
    return await _publish(call, call.request.app[QUOTING].metal_fixes, stored)


@routes(
    "GET",
    "/v1/metal-fixes/current",
    "The metal fix that is valid now",
    roles=ADMIN,
    answers={200: MetalFix},
    errors=(503,),
)
async def get_current_metal_fix(call: Call) -> web.StreamResponse:
    return json_response(call.request.app[QUOTING].current()[1])


async def _publish(call: Call, known: PriceVersions[Any], stored: StoredVersion) -> web.StreamResponse:
    keyed = call.keyed(call.raw)
    remembered = None if keyed is None else keyed.remembered(Answer(status=201, body=stored.body))

    async def publish() -> web.Response:
        return _published(await known.publish(stored, remembered), stored.body)

    async def again(position: Position, entry: AnyEntry) -> web.Response:
        return _published(position, answer_of(entry).body or b"")

    return await call.storage.idempotency.once(keyed, publish, again)


def _published(position: Position, body: bytes) -> web.Response:
    return json_response(body, 201, {"Facet-Position": str(position), "Durability": "log"})
