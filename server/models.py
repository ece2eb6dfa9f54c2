"""Models over HTTP: upload, facts, price by hash, the file itself."""

from typing import Any

import msgspec
from aiohttp import web

from pricing.model import ModelView
from pricing.units import check_declared_unit
from server.calls import Call, json_response
from server.keys import PRICER
from server.model_upload import received
from server.orders import Code
from server.prices import Choices, Priced, cache_status
from server.problems import HttpError
from server.routes import Route
from storage.entries import Answer
from storage.orders import PRICING_ROLES, Role

FILE_ROLES = frozenset({Role.OPERATOR, Role.MES, Role.PARTNER, Role.ADMIN})


class Units(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    units: Code = "mm"


class ModelBody(msgspec.Struct, frozen=True):
    model: ModelView


async def post_model(call: Call) -> web.StreamResponse:
    """Upload without pricing."""
    pricer, units = call.request.app[PRICER], check_declared_unit(call.query(Units).units)
    async with received(call) as (upload, content_type):
        keyed = call.keyed(upload.sha256.encode())
        model, source = await pricer.receive(upload, content_type, call.actor)
    body = msgspec.json.encode(ModelBody(pricer.view(model, units)))
    if keyed is not None:
        # Uploading is its own repetition; the key is kept only to notice another body under it.
        async with call.storage.book.keyed_once(keyed) as found:
            if found is None:
                await call.storage.remember(keyed, Answer(status=201, body=body))
    headers = {"Cache-Status": cache_status(source), "Location": f"/v1/models/{model.sha256}"}
    return json_response(body, 201, headers)


async def get_model(call: Call) -> web.StreamResponse:
    units = check_declared_unit(call.query(Units).units)
    pricer = call.request.app[PRICER]
    model, source = await pricer.known_model(_sha256(call), call.actor)
    return json_response(ModelBody(pricer.view(model, units)), headers={"Cache-Status": cache_status(source)})


async def get_model_price(call: Call) -> web.StreamResponse:
    """The price of a known model, without sending it again."""
    options = call.query(Choices).options()
    pricer = call.request.app[PRICER]
    model, source = await pricer.known_model(_sha256(call), call.actor)
    call.storage.models.count(model)
    stored, _ = await pricer.quote(model, options, call.actor)
    view = msgspec.json.encode(pricer.view(model, options.units))
    body = b'{"model":%b,"price":%b}' % (view, stored.body)
    return json_response(body, headers={"Cache-Status": cache_status(source)})


async def get_model_file(call: Call) -> web.StreamResponse:
    pricer = call.request.app[PRICER]
    model, _ = await pricer.known_model(_sha256(call), call.actor)
    path: Any = await pricer.file_of(model)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{model.sha256[:12]}"',
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(path, headers=headers)


def _sha256(call: Call) -> str:
    text = call.request.match_info["sha256"]
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise HttpError(404, "unknown_model", "This is not the SHA-256 of a model, in lower-case hex.")
    return text


ROUTES = [
    Route(
        method="POST",
        path="/v1/models",
        handler=post_model,
        summary="Upload a model without pricing it",
        tag="models",
        roles=PRICING_ROLES,
        query=Units,
        uploads=True,
        answers={201: ModelBody},
        errors=(408, 413, 415, 503),
        changes=True,
    ),
    Route(
        method="GET",
        path="/v1/models/{sha256}",
        handler=get_model,
        summary="The facts of a known model",
        tag="models",
        roles=PRICING_ROLES,
        query=Units,
        answers={200: ModelBody},
        errors=(404, 503),
    ),
    Route(
        method="GET",
        path="/v1/models/{sha256}/price",
        handler=get_model_price,
        summary="The price of a known model, without sending it",
        tag="models",
        roles=PRICING_ROLES,
        query=Choices,
        answers={200: Priced},
        errors=(404, 503),
    ),
    Route(
        method="GET",
        path="/v1/models/{sha256}/file",
        handler=get_model_file,
        summary="The model itself",
        tag="models",
        roles=FILE_ROLES,
        answers={200: "application/octet-stream"},
        errors=(404, 503),
    ),
]
