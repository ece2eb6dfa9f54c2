"""Access tokens over HTTP."""

from datetime import datetime

import msgspec
from aiohttp import web

from server.api.orders.orders import Name
from server.http.keys import LINKS
from server.http.request import Call, json_response
from server.http.routes import ADMIN, EVERYBODY, Route
from storage.log.entries import Answer, AnyEntry, TokenIssued
from storage.log.log import Position
from storage.orders.actors import Role
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


async def list_tokens(call: Call) -> web.StreamResponse:
    return json_response(TokenList(call.storage.tokens.list()))


async def revoke_token(call: Call) -> web.StreamResponse:
    position = await call.storage.tokens.revoke(call.named("id"))
    return web.Response(status=204, headers={"Facet-Position": str(position)})


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


ROUTES = [
    Route(
        method="GET",
        path="/v1/me",
        handler=get_me,
        summary="Who this token says one is",
        tag="access",
        roles=EVERYBODY,
        answers={200: Me},
    ),
    Route(
        method="POST",
        path="/v1/tokens",
        handler=create_token,
        summary="Issue a token; its secret is shown once",
        tag="access",
        roles=ADMIN,
        body=NewToken,
        answers={201: IssuedToken},
        errors=(503,),
        changes=True,
    ),
    Route(
        method="GET",
        path="/v1/tokens",
        handler=list_tokens,
        summary="Valid tokens, without their secrets",
        tag="access",
        roles=ADMIN,
        answers={200: TokenList},
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{id}",
        handler=revoke_token,
        summary="Revoke a token",
        tag="access",
        roles=ADMIN,
        answers={204: None},
        errors=(404, 503),
    ),
]
