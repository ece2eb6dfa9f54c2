"""Pages rendered here: the newest orders with a price form, and a customer's page of one order."""

import contextlib
import http
from collections.abc import Collection
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec
from aiohttp import web
from jinja2 import Environment
from msgspec import Meta

from pricing.errors import Refused
from pricing.pool import PoolBusy
from pricing.price.model_view import BodyView
from pricing.price.options import check_options
from pricing.units import DECLARABLE_UNITS
from server.api.orders.lists import Filters, Listing, list_query, order_filter
from server.api.prices.prices import Choices
from server.http.body import BODIES, RawBody, read_whole
from server.http.fields import Nothing
from server.http.keys import SETTINGS
from server.http.problems import HttpError, problem_response
from server.http.query import convert_query
from server.http.request import Call
from server.http.routes import LOCAL_ADMIN, Route, is_local
from server.links import LINKS
from server.pages.rendering import TEXTS, language_of, render
from server.prices.model_uploads import MODEL_UPLOADS
from server.prices.quotes import Quote, decode_quote
from server.prices.quoting import QUOTING, view_of
from server.uploads.model_body import is_form, received_form, unknown_field
from storage.errors import Invalid, NotFound
from storage.orders.actors import PRICING_ROLES, Actor
from storage.orders.fields import QuoteId
from storage.orders.order import decode_order

COOKIE = "facet_token"
COOKIE_S = 12 * 3600
FORM_BYTES_MAX = 16 * 1024
FIELDS_MAX = 8
ROWS = 50


class Visit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lang`: `en` or `ru`; else the browser's language is shown."""

    lang: Annotated[str, Meta(max_length=35)] | None = None


class Board(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the home page shows: orders as the list of them does, and a price that was issued."""

    lang: Annotated[str, Meta(max_length=35)] | None = None
    cursor: Annotated[str, Meta(max_length=400)] | None = None
    quote: QuoteId | None = None


TRACKERS = ("utm_", "fbclid", "gclid", "yclid", "ysclid", "mc_cid", "mc_eid", "_openstat")
"""What messengers, mail programs and search engines add to the addresses that people pass on."""


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


Asked = TypeVar("Asked", bound=msgspec.Struct)

_decode_counts = msgspec.json.Decoder(dict[str, dict[str, int]]).decode


class Pages:
    def __init__(self, templates: Environment) -> None:
        self._templates = templates

    async def home(self, call: Call) -> web.StreamResponse:
        actor = await _visitor(call)
        board = _asked(call, Board)
        if actor is None:
            return self._home(call, None, board=board)
        if board.quote is None or actor.role not in PRICING_ROLES:
            return await self._orders(call, actor, board)
        try:
            stored = await call.request.app[QUOTING].known_quote(board.quote.lower(), actor)
        except NotFound as error:
            return await self._orders(call, actor, board, problem=str(error), http_status=404)
        priced = await _priced(call, actor, decode_quote(stored.body))
        return await self._orders(call, actor, board, priced=priced)

    async def login(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        visit = call.query(Visit)
        token = (await _small_form(call, Login.__struct_fields__)).get("token", "").strip()
        if await call.storage.tokens.find(token) is None:
            lang = language_of(call.request)
            shown = {**_empty(TEXTS[lang]["wrong_token"]), "board": Board(lang=visit.lang)}
            return render(self._templates, "home.html", lang, http_status=401, **shown)
        response = _redirect(_home_of(visit))
        response.set_cookie(
            COOKIE,
            token,
            max_age=COOKIE_S,
            httponly=True,
            samesite="Strict",
            secure=call.request.secure or call.request.app[SETTINGS].is_public_over_tls,
            path="/",
        )
        return response

    async def logout(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        visit = call.query(Visit)
        await _small_form(call, ())
        response = _redirect(_home_of(visit))
        response.del_cookie(COOKIE, path="/")
        return response

    async def form_again(self, call: Call) -> web.StreamResponse:
        """Who asks for the address that a form is sent to wants the form."""
        return _redirect(_home_of(_asked(call, Visit)))

    async def price(self, call: Call) -> web.StreamResponse:
        _require_same_origin(call.request)
        visit = call.query(Visit)
        actor = await _visitor(call)
        if actor is None or actor.role not in PRICING_ROLES:
            return self._home(call, None, board=Board(lang=visit.lang), http_status=401)
        try:
            quote, chosen = await _price_form(call, actor)
        except (Refused, PoolBusy, HttpError, Invalid) as error:
            missing = isinstance(error, HttpError) and error.code == "no_model"
            problem = TEXTS[language_of(call.request)]["choose_file"] if missing else str(error)
            status = problem_response(error, call.request_id).status
            board = Board(lang=visit.lang)
            return await self._orders(call, actor, board, problem=problem, http_status=status)
        board = Board(lang=visit.lang, quote=quote.id)
        return await self._orders(call, actor, board, priced=await _priced(call, actor, quote), chosen=chosen)

    async def customer(self, call: Call) -> web.StreamResponse:
        """Anyone who has the link sees the order's number and status."""
        _asked(call, Visit)
        lang = language_of(call.request)
        links = call.request.app[LINKS]
        order_id = links.order_id(call.request.match_info["link"], call.storage.clock.now())
        order = None
        if order_id is not None:
            with contextlib.suppress(NotFound):
                order = await call.storage.reads.order(order_id)
        status = 404 if order is None else 200
        return render(self._templates, "customer.html", lang, http_status=status, order=order)

    def show_problem(self, request: web.Request, response: web.Response) -> web.Response:
        """A refusal, to a person; a program gets the problem document."""
        if "text/html" not in request.headers.get("Accept", "") or not isinstance(response.body, bytes):
            return response
        lang = language_of(request)
        problem = msgspec.json.decode(response.body)
        shown = render(self._templates, "problem.html", lang, http_status=response.status, said=problem)
        for name in ("Retry-After", "Connection", "Allow"):
            if name in response.headers:
                shown.headers[name] = response.headers[name]
        return shown

    async def _orders(self, call: Call, actor: Actor, board: Board, **values: Any) -> web.StreamResponse:
        given = {name: getattr(board, name) for name in Filters.__struct_fields__}
        wanted, limit = list_query(Listing(**given, cursor=board.cursor, limit=ROWS), actor)
        reads, now = call.storage.reads, call.storage.clock.now()
        page = (await reads.page(wanted, limit, now)).page
        counted = await reads.counts(order_filter(Filters(**{**given, "status": None}), actor))
        rows = msgspec.json.decode(page.body, type=dict[str, msgspec.Raw])
        return self._home(
            call,
            actor,
            orders=[
                decode_order(bytes(raw)) for raw in msgspec.json.decode(rows["items"], type=list[msgspec.Raw])
            ],
            counts=_decode_counts(counted.body)["counts"],
            next=page.next,
            board=board,
            **values,
        )

    def _home(self, call: Call, actor: Actor | None, **values: Any) -> web.StreamResponse:
        materials = call.request.app[QUOTING].current()[0].materials if actor is not None else ()
        shown = {
            **_empty(None),
            "actor": actor,
            "may_price": actor is not None and actor.role in PRICING_ROLES,
            "materials": materials,
            **values,
        }
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
        "board": Board(),
        "home": _address,
        "filters": _filters,
        "sizes": _sizes,
        "priced": None,
        "problem": problem,
    }


async def _visitor(call: Call) -> Actor | None:
    """Who is logged in."""
    if (token := call.request.cookies.get(COOKIE)) is not None:
        return await call.storage.tokens.find(token)
    return LOCAL_ADMIN if is_local(call.request) else None


def _require_same_origin(request: web.Request) -> None:
    """A form of another site must not act for who is logged in here. (The cookie is SameSite=Strict.)"""
    origin = request.headers.get("Origin")
    # A proxy may have taken TLS off: only host and port are compared. It may also have changed Host.
    ours = {request.host, request.app[SETTINGS].public_url.rstrip("/").partition("://")[2] or request.host}
    if origin is not None and origin.partition("://")[2] not in ours:
        raise HttpError(403, "cross_origin", "This form was sent from another site.")


def _redirect(to: str) -> web.Response:
    return web.Response(status=http.HTTPStatus.SEE_OTHER, headers={"Location": to})


async def _small_form(call: Call, known: Collection[str]) -> dict[str, str]:
    """The fields of a form without a file. Raises HttpError 413, 415, 422, Invalid."""
    if not call.request.body_exists:
        return {}
    bodies = call.request.app[BODIES]
    raw = await read_whole(RawBody(call.request, bodies), FORM_BYTES_MAX, bodies)
    if raw and call.request.content_type != "application/x-www-form-urlencoded":
        raise HttpError(415, "unsupported_media_type", "Send application/x-www-form-urlencoded.")
    try:
        pairs = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise HttpError(422, "too_many_fields", f"A form has at most {FIELDS_MAX} fields.") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise unknown_field(name, known)
        if name in fields:
            raise Invalid((f"/{name}", "given twice"))
        fields[name] = value
    return fields


async def _price_form(call: Call, actor: Actor) -> tuple[Quote, Choices]:
    """The quote that the form asks for, and what was chosen."""
    if not is_form(call.request):
        raise HttpError(415, "unsupported_media_type", "Send the form as multipart/form-data.")
    quoting = call.request.app[QUOTING]
    async with received_form(call, Choices.__struct_fields__) as sent:
        chosen = convert_query(sent.fields, Choices)
        options = chosen.options()
        check_options(options, quoting.current()[0])
        model, _ = await call.request.app[MODEL_UPLOADS].receive(sent.upload, None, actor)
        return decode_quote((await quoting.quote(model, options, actor)).stored.body), chosen


async def _priced(call: Call, actor: Actor, quote: Quote) -> dict[str, Any]:
    """A quote with the model it is for, as the page shows them. Raises HttpError 404."""
    model, _ = await call.request.app[MODEL_UPLOADS].known_model(quote.model, actor)
    view = view_of(model, quote.units)
    # Of a model without some of its bodies the quote says it all.
    remarks = quote.warnings if quote.leave_out else (*view.warnings, *quote.warnings)
    details = [warning.detail for warning in remarks]
    return {
        "model": view,
        "price": quote,
        "warnings": list(dict.fromkeys(details)),
        "left_out": quote.leave_out or (),
    }


def _asked(call: Call, record: type[Asked]) -> Asked:
    """The parameters of a page, without those of trackers. Raises Invalid."""
    return call.query(record, leave_out=TRACKERS)


def _sizes(body: BodyView) -> str:
    ends = zip(body.lower_mm, body.upper_mm, strict=True)
    return " × ".join(f"{upper - lower:.4g}" for lower, upper in ends)


def _filters(board: Board) -> dict[str, str]:
    """What the list is narrowed to beside the status."""
    values = {name: getattr(board, name) for name in Filters.__struct_fields__ if name != "status"}
    return {name: str(value) for name, value in values.items() if value is not None}


def _address(board: Board, **changed: str | None) -> str:
    """The home page as it is shown, but for what is changed."""
    shown = {name: getattr(board, name) for name in Board.__struct_fields__} | changed
    text = urlencode({name: str(value) for name, value in shown.items() if value is not None})
    return f"/?{text}" if text else "/"


def _home_of(visit: Visit) -> str:
    return _address(Board(lang=visit.lang))


def page_routes(pages: Pages) -> list[Route]:
    def page(
        method: str,
        path: str,
        handler: Any,
        summary: str,
        answers: dict[int, Any],
        query: type[msgspec.Struct] = Visit,
        form: type[msgspec.Struct] | None = None,
        *,
        uploads: bool = False,
    ) -> Route:
        return Route(
            method=method,
            path=path,
            handler=handler,
            summary=summary,
            tag="pages",
            roles=None,
            query=query,
            form=form,
            uploads=uploads,
            shows=pages.show_problem,
            answers=answers,
            errors=(403, 408, 413, 503) if form is not None else (503,),
        )

    html = "text/html"
    again = "Back to the form"
    return [
        page("GET", "/", pages.home, "The newest orders and a price form", {200: html}, Board),
        page("POST", "/login", pages.login, "Log in to the pages", {303: None, 401: html}, form=Login),
        page("GET", "/login", pages.form_again, again, {303: None}),
        page("POST", "/logout", pages.logout, "Log out of the pages", {303: None}, form=Nothing),
        page(
            "POST",
            "/price",
            pages.price,
            "The price form",
            {200: html, 401: html},
            form=Choices,
            uploads=True,
        ),
        page("GET", "/price", pages.form_again, again, {303: None}),
        page("GET", "/c/{link}", pages.customer, "A customer's page of an order", {200: html, 404: html}),
    ]
