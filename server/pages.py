"""Pages rendered here: the newest orders with a price form, and a customer's page of one order."""

import http
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import BodyPartReader, web
from jinja2 import Environment

from pricing.errors import Refused
from pricing.pool import PoolBusy
from pricing.units import DECLARABLE_UNITS
from server.calls import Call, PartBody, RawBody, convert_query, reading_multipart
from server.keys import LINKS, PRICER, UPLOADS
from server.lists import Listing, list_query
from server.prices import Choices
from server.problems import HttpError
from server.routes import LOCAL_ADMIN, Route, is_local
from server.screens import TEXTS, language_of, render
from server.uploads import Pace, Source
from storage.errors import Invalid, NotFound
from storage.filters import ALL, OrderFilter
from storage.orders import PRICING_ROLES, Actor, decode_order

COOKIE = "facet_token"
COOKIE_S = 12 * 3600
FORM_BYTES_MAX = 16 * 1024
FIELD_BYTES_MAX = 200
FIELDS_MAX = 8
ROWS = 50

_decode_counts = msgspec.json.Decoder(dict[str, dict[str, int]]).decode


class Pages:
    def __init__(self, templates: Environment) -> None:
        self._templates = templates

    async def home(self, call: Call) -> web.StreamResponse:
        actor = await _visitor(call)
        if actor is None:
            return self._home(call, None)
        return await self._orders(call, actor)

    async def login(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        token = (await _small_form(call)).get("token", "").strip()
        if await call.storage.tokens.find(token) is None:
            lang = language_of(call.request)
            problem = _empty(TEXTS[lang]["wrong_token"])
            return render(self._templates, "home.html", lang, http_status=401, **problem)
        response = _redirect("/")
        response.set_cookie(
            COOKIE,
            token,
            max_age=COOKIE_S,
            httponly=True,
            samesite="Strict",
            secure=call.request.secure,
            path="/",
        )
        return response

    async def logout(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        response = _redirect("/")
        response.del_cookie(COOKIE, path="/")
        return response

    async def price(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        actor = await _visitor(call)
        if actor is None or actor.role not in PRICING_ROLES:
            return self._home(call, None)
        try:
            priced = await _price_form(call, actor)
        except (Refused, PoolBusy, HttpError, Invalid) as error:
            return await self._orders(call, actor, problem=str(error))
        return await self._orders(call, actor, priced=priced)

    async def customer(self, call: Call) -> web.StreamResponse:
        """Whoever has the link sees the order's number and status."""
        lang = language_of(call.request)
        links = call.request.app[LINKS]
        order_id = links.order_id(call.request.match_info["link"], call.storage.clock.now())
        order = None
        if order_id is not None:
            try:
                order = await call.storage.reads.order(order_id)
            except NotFound:
                pass
        status = 404 if order is None else 200
        return render(self._templates, "customer.html", lang, http_status=status, order=order)

    async def _orders(
        self, call: Call, actor: Actor, *, priced: Any = None, problem: str | None = None
    ) -> web.StreamResponse:
        query = call.request.query
        status = query.get("status", "")
        try:
            listing = convert_query(
                {"status": status, "cursor": query.get("cursor", ""), "limit": str(ROWS)}, Listing
            )
            wanted, limit = list_query(listing, actor)
        except Invalid as error:
            return self._home(call, actor, problem=str(error))
        reads, now = call.storage.reads, call.storage.clock.now()
        page = (await reads.page(wanted, limit, now)).page
        counted = await reads.counts(OrderFilter(customer=actor.tenant) if actor.tenant else ALL)
        rows = msgspec.json.decode(page.body, type=dict[str, msgspec.Raw])
        return self._home(
            call,
            actor,
            orders=[
                decode_order(bytes(raw)) for raw in msgspec.json.decode(rows["items"], type=list[msgspec.Raw])
            ],
            counts=_decode_counts(counted.body)["counts"],
            next=page.next,
            status=status,
            priced=priced,
            problem=problem,
        )

    def _home(self, call: Call, actor: Actor | None, **values: Any) -> web.StreamResponse:
        materials = call.request.app[PRICER].current()[0].materials if actor is not None else ()
        shown = {
            **_empty(None),
            "actor": actor,
            "may_price": actor is not None and actor.role in PRICING_ROLES,
            "materials": materials,
            **values,
        }
        if shown["priced"]:
            shown["chosen"] = shown["priced"]["chosen"]
        return render(self._templates, "home.html", language_of(call.request), **shown)


def _empty(problem: str | None) -> dict[str, Any]:
    return {
        "actor": None,
        "may_price": False,
        "materials": (),
        "units": DECLARABLE_UNITS,
        "chosen": Choices(material="gold-585-yellow"),
        "orders": [],
        "counts": {},
        "next": None,
        "status": "",
        "priced": None,
        "problem": problem,
    }


async def _visitor(call: Call) -> Actor | None:
    """Who is logged in."""
    token = call.request.cookies.get(COOKIE)
    if token is not None:
        return await call.storage.tokens.find(token)
    return LOCAL_ADMIN if is_local(call.request) else None


def _require_same_origin(request: web.Request) -> None:
    """A form of another site must not act for who is logged in here. (The cookie is SameSite=Strict.)"""
    origin = request.headers.get("Origin")
    # A proxy may have taken TLS off: only host and port are compared.
    if origin is not None and origin.partition("://")[2] != request.host:
        raise HttpError(403, "cross_origin", "This form was sent from another site.")


def _redirect(to: str) -> web.Response:
    return web.Response(status=http.HTTPStatus.SEE_OTHER, headers={"Location": to})


async def _small_form(call: Call) -> dict[str, str]:
    text = await _small_text(RawBody(call.request), FORM_BYTES_MAX)
    try:
        return dict(parse_qsl(text, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise HttpError(422, "too_many_fields", f"A form has at most {FIELDS_MAX} fields.") from None


async def _small_text(source: Source, bytes_max: int) -> str:
    pace, raw = Pace(), bytearray()
    while chunk := await pace.next(source):
        raw += chunk
        if len(raw) > bytes_max:
            raise HttpError(413, "too_large", "This form is too large.")
    return raw.decode("utf-8", "replace")


async def _price_form(call: Call, actor: Actor) -> dict[str, Any]:
    """The fields come in any order: the file is received when it comes, priced when all are there."""
    if call.request.content_type != "multipart/form-data":
        raise HttpError(415, "unsupported_media_type", "Send the form as multipart/form-data.")
    pricer, uploads = call.request.app[PRICER], call.request.app[UPLOADS]
    fields: dict[str, str] = {}
    model = None
    with reading_multipart():
        reader = await call.request.multipart()
    for _ in range(FIELDS_MAX):
        with reading_multipart():
            part = await reader.next()
        if not isinstance(part, BodyPartReader):
            break
        if part.name == "model":
            async with uploads.receive(PartBody(part)) as upload:
                model, _ = await pricer.receive(upload, None, actor)
        else:
            fields[part.name or ""] = await _small_text(PartBody(part), FIELD_BYTES_MAX)
    if model is None:
        raise HttpError(422, "no_model", "Choose a file.")
    chosen = convert_query(fields, Choices)
    options = chosen.options()
    stored = (await pricer.quote(model, options, actor)).stored
    view = pricer.view(model, options.units)
    price = msgspec.json.decode(stored.body)
    details = [warning.detail for warning in view.warnings] + [w["detail"] for w in price["warnings"]]
    return {"model": view, "price": price, "warnings": list(dict.fromkeys(details)), "chosen": chosen}


def page_routes(pages: Pages) -> list[Route]:
    def page(method: str, path: str, handler: Any, summary: str, answers: dict[int, Any]) -> Route:
        return Route(
            method=method,
            path=path,
            handler=handler,
            summary=summary,
            tag="pages",
            roles=None,
            answers=answers,
            errors=(403, 413, 503),
        )

    html = "text/html"
    return [
        page("GET", "/", pages.home, "The newest orders and a price form", {200: html}),
        page("POST", "/login", pages.login, "Log in to the pages", {303: None, 401: html}),
        page("POST", "/logout", pages.logout, "Log out of the pages", {303: None}),
        page("POST", "/price", pages.price, "The price form", {200: html}),
        page("GET", "/c/{link}", pages.customer, "A customer's page of an order", {200: html, 404: html}),
    ]
