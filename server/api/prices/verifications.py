"""Models about which another program differs, over HTTP: their list, and a person's decision."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from pricing.facts import Decision
from pricing.price.model_view import ModelView
from pricing.units import AS_IN_THE_FILE
from server.api.prices.models import ModelBody, sha256_of
from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import ADMIN, Routes
from server.prices.quoting import view_of
from server.prices.verification import VERIFICATIONS
from storage.orders.fields import Comment

LIST_MAX = 200


class Verified(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`verification`: the one state that is listed, of models that a person has to look at."""

    verification: Literal["differs"]
    limit: Annotated[int, Meta(ge=1, le=LIST_MAX)] = 50


class ModelList(msgspec.Struct, frozen=True):
    """The latest first."""

    items: list[ModelView]
    next: str | None = None


class NewDecision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`accepted`: our facts are right, and the model is priced by them again. `comment`: why."""

    accepted: bool
    comment: Comment | None = None


routes = Routes("models")


@routes(
    "GET",
    "/v1/models",
    "Models that another program reads differently",
    roles=ADMIN,
    query=Verified,
    answers={200: ModelList},
    errors=(503,),
)
async def list_models(call: Call) -> web.StreamResponse:
    found = await call.storage.models.that_differ(call.query(Verified).limit)
    return json_response(ModelList([view_of(model, AS_IN_THE_FILE) for model in found]))


@routes(
    "PUT",
    "/v1/models/{sha256}/verification",
    "Decide about a model that another program reads differently",
    roles=ADMIN,
    body=NewDecision,
    answers={200: ModelBody},
    errors=(404, 409, 503),
)
async def decide(call: Call) -> web.StreamResponse:
    new = await call.body(NewDecision)
    now = call.storage.clock.now()
    decision = Decision(accepted=new.accepted, by=call.actor.name, at=now, comment=new.comment)
    decided, position = await call.request.app[VERIFICATIONS].decide(sha256_of(call), decision)
    body = msgspec.json.encode(ModelBody(view_of(decided, AS_IN_THE_FILE)))
    return json_response(body, headers={"Facet-Position": str(position)})
