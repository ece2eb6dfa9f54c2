"""Access tokens over HTTP."""

from datetime import datetime

import msgspec
from aiohttp import web

from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import ADMIN, EVERYBODY, Routes
from server.links import LINKS
from storage.log.entries import Answer, AnyEntry, Position, TokenIssued
from storage.orders.actors import Role
from storage.orders.fields import Name
from storage.services.tokens import PREFIX, Token


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`customer`: whose orders a `customer` or `partner` token sees; no other role has one."""

    role: Role
    name: Name
    customer: Name | None = None


class IssuedToken(msgspec.Struct, frozen=True, kw_only=True):
    """`token` is the secret: shown here and never again."""

    id: str
    token: str
    role: Role
    name: str
    customer: str | None
    created_at: datetime


class TokenList(msgspec.Struct, frozen=True):
    items: list[Token]
    next: str | None = None


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who the token says one is."""

    name: str
    role: Role
    customer: str | None


routes = Routes("access")


@routes(
    "POST",
    "/v1/tokens",
    "Issue a token; its secret is shown once",
    roles=ADMIN,
    body=NewToken,
    answers={201: IssuedToken},
    errors=(503,),
    changes=True,
)
async def create_token(call: Call) -> web.StreamResponse:
    new = await call.body(NewToken)
    keyed = call.keyed(call.raw)
    secret, remembered = None, None
    if keyed is not None:
        # The secret of a keyed request can be derived again for its repetition, so it is stored nowhere.
        secret = call.request.app[LINKS].derive(f"token {keyed.scope} {keyed.body_hash}")
        remembered = keyed.remembered(Answer(status=201))

    async def issue() -> web.Response:
        return _issued(*await call.storage.tokens.issue(new.role, new.name, new.customer, secret, remembered))

    async def again(position: Position, entry: AnyEntry) -> web.Response:
        assert isinstance(entry, TokenIssued)
        return _issued(_token(entry), f"{PREFIX}{secret}", position)

    return await call.storage.idempotency.once(keyed, issue, again)


@routes("GET", "/v1/tokens", "Valid tokens, without their secrets", roles=ADMIN, answers={200: TokenList})
async def list_tokens(call: Call) -> web.StreamResponse:
    return json_response(TokenList(call.storage.tokens.list()))


@routes("DELETE", "/v1/tokens/{id}", "Revoke a token", roles=ADMIN, answers={204: None}, errors=(404, 503))
async def revoke_token(call: Call) -> web.StreamResponse:
    position = await call.storage.tokens.revoke(call.named("id"))
    return web.Response(status=204, headers={"Facet-Position": str(position)})


@routes("GET", "/v1/me", "Who this token says one is", roles=EVERYBODY, answers={200: Me})
async def get_me(call: Call) -> web.StreamResponse:
    actor = call.actor
    return json_response(Me(name=actor.name, role=actor.role, customer=actor.customer))


def _issued(token: Token, secret: str, position: Position) -> web.Response:
    body = IssuedToken(
        id=token.id,
        token=secret,
        role=token.role,
        name=token.name,
        customer=token.customer,
        created_at=token.created_at,
    )
    headers = {
        "Cache-Control": "no-store",
        "Location": f"/v1/tokens/{token.id}",
        "Facet-Position": str(position),
    }
    return json_response(body, 201, headers)


def _token(entry: TokenIssued) -> Token:
    return Token(
        id=entry.token_id, role=entry.role, name=entry.name, customer=entry.customer, created_at=entry.at
    )
