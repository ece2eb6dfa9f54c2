"""Models over HTTP: upload, facts, price by hash, the file itself, a preview for screens."""

import re

import msgspec
from aiohttp import web

from pricing.facts import FROM_ARCHIVE, PREVIEW_MEDIA_TYPE
from pricing.price.model_view import ModelView
from pricing.units import check_declared_unit
from server.api.prices.prices import Priced, PriceQuery, cache_status, quote_tag
from server.http.file_response import send_file
from server.http.headers import matches_etag
from server.http.hot_path import Peek, Ready
from server.http.idempotency import Reply, once
from server.http.problems import HttpError
from server.http.ready_response import ReadyResponse
from server.http.request import Call
from server.http.responses import json_response, read_answer
from server.http.routes import Routes
from server.prices.model_uploads import MODEL_UPLOADS, facts_of
from server.prices.previews import PREVIEWS
from server.prices.quoting import QUOTING, view_of
from server.prices.verification import VERIFICATIONS, verified_tag
from server.uploads.model_body import is_form, received
from storage.errors import StorageError
from storage.log.entries import Answer
from storage.orders.actors import PRICING_ROLES, Role
from storage.orders.fields import Code

OCTETS = "application/octet-stream"
COUNTED_TOGETHER = 16
"""Requests for a price that are answered from memory before they are counted: by that alone it is popular."""
FILE_ROLES = frozenset({Role.OPERATOR, Role.MES, Role.PARTNER, Role.ADMIN})


_HEX = re.compile(r"[0-9a-f]{64}")
CACHEABLE = "private, max-age=3600"
"""The content under a hash never changes; who may see it may change, so that it is not cached for ever."""
SUFFIXES = {
    "stl-binary": "stl",
    "stl-ascii": "stl",
    "obj": "obj",
    "ply": "ply",
    "off": "off",
    "glb": "glb",
    "3mf": "3mf",
}
"""What a downloaded model is called, by format."""


class Units(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    units: Code = ""


class ModelBody(msgspec.Struct, frozen=True):
    model: ModelView


routes = Routes("models")


@routes(
    "POST",
    "/v1/models",
    "Upload a model without pricing it",
    roles=PRICING_ROLES,
    query=Units,
    form=Units,
    uploads=True,
    answers={201: ModelBody},
    errors=(408, 413, 415, 503),
    changes=True,
)
async def post_model(call: Call) -> web.StreamResponse:
    """Upload without pricing."""
    uploads = call.request.app[MODEL_UPLOADS]
    if not is_form(call.request):
        check_declared_unit(call.query(Units).units)
    async with received(call, Units.__struct_fields__) as sent:
        upload, content_type = sent.upload, sent.content_type
        units = check_declared_unit(call.query(Units, sent.fields).units)

        async def act() -> Reply:
            model, source = await uploads.receive(upload, content_type, call.actor)
            body = msgspec.json.encode(ModelBody(view_of(model, units)))
            headers = {"Cache-Status": cache_status(source), "Location": f"/v1/models/{model.sha256}"}
            return Reply(json_response(body, 201, headers), Answer(status=201, body=body))

        async def again(answer: Answer) -> web.Response:
            # Facts travel outside the log: those of the first upload may have been lost with its process.
            await uploads.receive(upload, content_type, call.actor)
            return json_response(
                answer.body or b"", answer.status, {"Location": f"/v1/models/{upload.sha256}"}
            )

        keyed = call.keyed(sent.identity)
        return (await (act() if keyed is None else once(call, keyed, act, again))).response


@routes(
    "GET",
    "/v1/models/{sha256}",
    "The facts of a known model",
    roles=PRICING_ROLES,
    query=Units,
    answers={200: ModelBody},
    errors=(404, 503),
    conditional=True,
)
async def get_model(call: Call) -> web.StreamResponse:
    units = check_declared_unit(call.query(Units).units)
    model, source = await call.request.app[MODEL_UPLOADS].known_model(sha256_of(call), call.actor)
    etag = f'"{model.analyser}-{model.sha256[:32]}-{units}-{verified_tag(model)}"'
    body = msgspec.json.encode(ModelBody(view_of(model, units)))
    return read_answer(call, body, etag, cache_status(source))


def _peek_price(call: Call) -> Peek:
    """As it was answered, while nothing has changed that it depends on."""
    models, quoting = call.storage.models, call.request.app[QUOTING]
    sha256, tenant = sha256_of(call), call.actor.tenant
    question = (tenant, sha256, call.request.rel_url.raw_query_string)

    asked = 0

    def peek() -> Ready | None:
        nonlocal asked
        model = models.peek_for(sha256, tenant)
        try:
            answer = None if model is None else quoting.answered(question, model)
        except (HttpError, StorageError):  # nothing is valid now: the normal path says so
            return None
        if model is None or answer is None:
            return None
        asked += 1
        if asked >= COUNTED_TOGETHER:
            models.count(model, asked)
            asked = 0
        return answer.body, answer.etag.encode(), b""

    return peek


@routes(
    "GET",
    "/v1/models/{sha256}/price",
    "The price of a known model, without sending it",
    roles=PRICING_ROLES,
    query=PriceQuery,
    answers={200: Priced},
    errors=(404, 409, 503),
    conditional=True,
    peek=_peek_price,
)
async def get_model_price(call: Call) -> web.StreamResponse:
    """The price of a known model, without sending it again."""
    uploads, request = call.request.app[MODEL_UPLOADS], call.request
    quoting = request.app[QUOTING]
    model, source = await uploads.known_model(sha256_of(call), call.actor)
    if model.verification is None and (patience_s := call.preferences.wait_s):
        model = await request.app[VERIFICATIONS].settled(model, patience_s)
    call.storage.models.count(model)
    question = (call.actor.tenant, model.sha256, request.rel_url.raw_query_string)
    answer, as_of = quoting.answered(question, model), None
    if answer is None:
        query = call.query(PriceQuery)
        options = query.options()
        stored, as_of = await quoting.quote(model, options, call.actor)
        body = quoting.priced(model, options.units, stored, query.explain)
        etag = quote_tag(stored.id, query.explain, verified_tag(model))
        answer = quoting.keep_answer(question, model, body, etag)
    return read_answer(call, answer.body, answer.etag, cache_status(source), as_of=as_of)


@routes(
    "GET",
    "/v1/models/{sha256}/file",
    "The model itself",
    roles=FILE_ROLES,
    answers={200: OCTETS, 206: OCTETS},
    errors=(404, 416, 503),
    conditional=True,
)
async def get_model_file(call: Call) -> web.StreamResponse:
    """The bytes as they were uploaded, as a download: strangers' files are not for a browser to open."""
    uploads = call.request.app[MODEL_UPLOADS]
    model, _ = await uploads.known_model(sha256_of(call), call.actor)
    facts = facts_of(model)
    packed = any(warning.code == FROM_ARCHIVE for warning in facts.warnings)
    suffix = "zip" if packed else SUFFIXES[facts.format]
    headers = {
        "Content-Type": OCTETS,
        "Content-Disposition": f'attachment; filename="{model.sha256[:12]}.{suffix}"',
        "Cache-Control": CACHEABLE,
        "X-Content-Type-Options": "nosniff",
    }
    return await send_file(call, await uploads.file_of(model), f'"{model.sha256}"', headers)


@routes(
    "GET",
    "/v1/models/{sha256}/preview",
    "The model for screens: a GLB of few facets",
    roles=FILE_ROLES,
    answers={200: PREVIEW_MEDIA_TYPE},
    errors=(404, 422, 503),
    conditional=True,
)
async def get_model_preview(call: Call) -> web.StreamResponse:
    """A mesh for screens: few facets, in metres, the model's z axis up."""
    model, _ = await call.request.app[MODEL_UPLOADS].known_model(sha256_of(call), call.actor)
    preview = await call.request.app[PREVIEWS].get(model.sha256)
    headers = {"ETag": preview.etag, "Cache-Control": CACHEABLE}
    if matches_etag(call.request, preview.etag):
        return ReadyResponse(status=304, headers=headers)
    headers |= {
        "Content-Type": PREVIEW_MEDIA_TYPE,
        "Content-Disposition": f'inline; filename="{model.sha256[:12]}-preview.glb"',
        "X-Content-Type-Options": "nosniff",
    }
    return ReadyResponse(body=preview.body, headers=headers)


def sha256_of(call: Call) -> str:
    text = call.named("sha256")
    if not _HEX.fullmatch(text):
        raise HttpError(404, "unknown_model", "This is not the SHA-256 of a model, in hex.")
    return text
