"""Orders over HTTP: read, list, create, edit, move, take, undo, comment."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from server.http.fields import Nothing, canonical
from server.http.headers import echoed_version, matches_etag
from server.http.hot_path import Peek, Ready
from server.http.keys import SETTINGS
from server.http.problems import HttpError
from server.http.request import Call
from server.http.responses import json_response, read_answer, read_headers
from server.http.routes import EVERYBODY, Routes
from server.links import LINKS
from server.prices.order_prices import ORDER_PRICES
from storage.cache.read_through import Found
from storage.errors import Behind, Conflict, Invalid, NotFound
from storage.orders.actors import OPENING_ROLES, TENANT_ROLES, Actor, Role
from storage.orders.encoded import EncodedOrder
from storage.orders.fields import Comment, Name
from storage.orders.filters import LIMIT_MAX
from storage.orders.new_order import NewOrder, OrderEdit
from storage.orders.order import Change, HistoryItem, Money, Order, OrderStatus, set_fields
from storage.orders.rules import StatusRequest, advance, comment, edit, require_visible
from storage.orders.workflow import Status
from storage.services.orders import ChangeOutcome

logger = logging.getLogger("facet.http")

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

TAKERS = frozenset({Role.OPERATOR, Role.MES, Role.ADMIN})

RELEASERS = frozenset({Role.OPERATOR, Role.MES, Role.SELLER, Role.ADMIN})

STEPPERS = EVERYBODY - {Role.CUSTOMER}


class PersonPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price that a person set, with the reason."""

    net: Money
    reason: Comment


class StatusChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: Status
    comment: Comment | None = None
    operator: Name | None = None
    price: PersonPrice | None = None


class Take(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`operator`: whom a MES takes the order for."""

    operator: Name | None = None
    comment: Comment | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    comment: Comment | None = None


class Remark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    comment: Comment


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = LIMIT_MAX
    cursor: Annotated[str, Meta(max_length=400)] | None = None


class History(msgspec.Struct, frozen=True):
    """`was`: what each change replaced."""

    items: list[HistoryItem]
    next: str | None


class Link(msgspec.Struct, frozen=True):
    url: str
    expires_at: datetime


_READ_ERRORS = (404, 503)

_CHANGE_ERRORS = (404, 409, 412, 503)

routes = Routes("orders")


def _held(
    shown: Callable[[EncodedOrder], Ready],
) -> Callable[[Call], Peek]:
    """How an order in memory is shown, as long as its reader may see it."""

    def peek_of(call: Call) -> Peek:
        get, sees, order_id = call.storage.reads.local.lru.get, call.actor.sees, call.order_id

        def peek() -> Ready | None:
            held = get(order_id)
            return shown(held) if isinstance(held, EncodedOrder) and sees(held.customer) else None

        return peek

    return peek_of


@routes(
    "GET",
    "/v1/orders/{id}",
    "One order",
    answers={200: Order},
    errors=_READ_ERRORS,
    conditional=True,
    peek=_held(lambda held: (held.body, b'"%d"' % held.version, b"")),
)
async def get_order(call: Call) -> web.StreamResponse:
    found, applied = await _find(call, lambda held: held.version)
    etag = f'"{found.held.version}"'
    return read_answer(call, found.held.body, etag, found.source, applied, found.as_of)


@routes(
    "GET",
    "/v1/orders/{id}/status",
    "The status alone; what customers poll",
    answers={200: OrderStatus},
    errors=_READ_ERRORS,
    conditional=True,
    peek=_held(lambda held: (held.status_body, b'"%d"' % held.status_version, b"")),
)
async def get_status(call: Call) -> web.StreamResponse:
    found, applied = await _find(call, lambda held: held.status_version)
    etag = f'"{found.held.status_version}"'
    return read_answer(call, found.held.status_body, etag, found.source, applied, found.as_of)


@routes(
    "GET",
    "/v1/orders/{id}/history",
    "Every change of an order",
    query=HistoryQuery,
    answers={200: History},
    errors=_READ_ERRORS,
)
async def get_history(call: Call) -> web.StreamResponse:
    limits = call.query(HistoryQuery)
    await _visible(call)
    after = _history_cursor(limits.cursor)
    found = await call.storage.reads.history(call.order_id)
    page = [item for item in found.items if item.version > after][: limits.limit]
    following = str(page[-1].version) if page and page[-1].version < found.items[-1].version else None
    return json_response(History(page, following), headers=read_headers(call, found.source, found.as_of))


@routes(
    "POST",
    "/v1/orders",
    "Open an order",
    roles=OPENING_ROLES,
    body=NewOrder,
    answers={201: Order},
    errors=(409, 503),
    changes=True,
)
async def create_order(call: Call) -> web.StreamResponse:
    draft = _draft(await call.body(NewOrder), call.actor)
    prices = call.request.app[ORDER_PRICES]
    outcome = await call.storage.orders.create(
        lambda: prices.complete_draft(draft, call.actor), call.change(success=201)
    )
    return _changed(call, outcome)


@routes(
    "PATCH",
    "/v1/orders/{id}",
    "Edit an order before approval",
    roles=OPENING_ROLES,
    body=OrderEdit,
    answers={200: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def edit_order(call: Call) -> web.StreamResponse:
    changes = await call.body(OrderEdit)
    fields = {name: canonical(name, value) for name, value in set_fields(changes).items()}
    prices = call.request.app[ORDER_PRICES]

    async def decide(order: Order) -> Change | None:
        await prices.check_edit(order, fields, call.actor)
        return edit(order, fields, call.actor, call.storage.clock.now())

    reference = fields.get("reference")
    given = reference if isinstance(reference, str) else None
    return _changed(call, await call.storage.orders.edit(call.order_id, given, decide, call.change()))


@routes(
    "PUT",
    "/v1/orders/{id}/status",
    "Bring an order to another status",
    roles=STEPPERS,
    body=StatusChange,
    answers={200: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def put_status(call: Call) -> web.StreamResponse:
    return await _advance(call, await call.body(StatusChange))


@routes(
    "POST",
    "/v1/orders/{id}/take",
    "Take an order into work; answered when the database has it",
    roles=TAKERS,
    body=Take,
    body_optional=True,
    answers={200: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def take_order(call: Call) -> web.StreamResponse:
    take = await call.body(Take, optional=True)
    change = StatusChange(status=Status.MANUFACTURING_STARTED, operator=take.operator, comment=take.comment)
    return await _advance(call, change)


@routes(
    "POST",
    "/v1/orders/{id}/release",
    "Give a taken order back",
    roles=RELEASERS,
    body=Release,
    body_optional=True,
    answers={200: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def release_order(call: Call) -> web.StreamResponse:
    release = await call.body(Release, optional=True)
    change = StatusChange(status=Status.MANUFACTURING_APPROVED, comment=release.comment)
    return await _advance(call, change, only_from=Status.MANUFACTURING_STARTED)


@routes(
    "POST",
    "/v1/orders/{id}/undo",
    "Undo one's own last step, within 30 s",
    roles=STEPPERS,
    body=Nothing,
    body_optional=True,
    answers={200: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def undo_step(call: Call) -> web.StreamResponse:
    await call.body(Nothing, optional=True)
    return _changed(call, await call.storage.orders.undo(call.order_id, call.change()))


@routes(
    "POST",
    "/v1/orders/{id}/comments",
    "Leave a remark in the history",
    body=Remark,
    answers={201: Order},
    errors=_CHANGE_ERRORS,
    changes=True,
)
async def add_comment(call: Call) -> web.StreamResponse:
    remark = await call.body(Remark)

    async def decide(order: Order) -> Change:
        return comment(order, remark.comment, call.actor, call.storage.clock.now())

    return _changed(call, await call.storage.orders.change(call.order_id, decide, call.change(success=201)))


@routes(
    "POST",
    "/v1/orders/{id}/links",
    "A signed link to the customer's page of an order",
    roles=frozenset({Role.SELLER, Role.ADMIN}),
    body=Nothing,
    body_optional=True,
    answers={201: Link},
    errors=_READ_ERRORS,
)
async def make_link(call: Call) -> web.StreamResponse:
    """A page that shows a customer the status of this order, for anyone who has the link."""
    await call.body(Nothing, optional=True)
    await _visible(call)
    path, expires_at = call.request.app[LINKS].make(call.order_id, call.storage.clock.now())
    return json_response(Link(_public_origin(call) + path, expires_at), 201)


def _public_origin(call: Call) -> str:
    """What links begin with: never what a request says, once it is set."""
    public_url = call.request.app[SETTINGS].public_url
    if public_url:
        return public_url.rstrip("/")
    logger.warning(
        "FACET_PUBLIC_URL is not set: a link names the address of its request, %s", call.request.host
    )
    if not _HOST.fullmatch(call.request.host):
        raise HttpError(400, "invalid_host", "The Host header is not a host and a port.")
    return f"{call.request.scheme}://{call.request.host}"


def _history_cursor(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid(("/cursor", "not a cursor of this service"))
    return int(text)


def _draft(new: NewOrder, actor: Actor) -> NewOrder:
    customer = new.customer
    if customer is None:
        if actor.role not in TENANT_ROLES or actor.customer is None:
            raise Invalid(("/customer", "required"))
        customer = actor.customer
    if actor.role in OPENING_ROLES and not actor.sees(customer):
        raise HttpError(403, "forbidden", "A partner creates orders for itself only.")
    fields = {name: canonical(name, value) for name, value in msgspec.structs.asdict(new).items()}
    return msgspec.structs.replace(new, **{**fields, "customer": customer})


async def _advance(call: Call, change: StatusChange, only_from: Status | None = None) -> web.StreamResponse:
    """One step. `only_from`: the status that this step is defined for."""
    prices = call.request.app[ORDER_PRICES]
    given = change.price
    if given is not None and change.status is not Status.PRICE_CALCULATED:
        raise Invalid(("/price", "goes with PRICE_CALCULATED only"))

    async def decide(order: Order) -> Change | None:
        if only_from is not None and order.status is not only_from:
            raise Conflict(f"The order is {order.status}, not {only_from}.")
        require_visible(order, call.actor)
        price = None
        if given is not None or (change.status, order.status) == (
            Status.PRICE_CALCULATED,
            Status.SUBMITTED,
        ):
            person = None if given is None else (given.net, given.reason)
            price = await prices.price_of_order(order, call.actor, person)
        wish = StatusRequest(
            status=change.status, comment=change.comment, operator=change.operator, price=price
        )
        repeats = change.comment is not None and change.status is order.status
        said = await _said(call, order) if repeats else ()
        return advance(order, wish, call.actor, call.storage.clock.now(), said)

    return _changed(call, await call.storage.orders.change(call.order_id, decide, call.change()))


async def _said(call: Call, order: Order) -> list[str]:
    """What the caller has remarked since the order's last step, and at it."""
    items = (await call.storage.reads.history(order.id)).items
    return [
        item.comment
        for item in items
        if item.version >= order.status_version and item.actor == call.actor.name and item.comment is not None
    ]


async def _find(call: Call, tag: Callable[[EncodedOrder], int]) -> tuple[Found, Mapping[str, str]]:
    """The order of the path, when the caller may see it. With `Prefer: wait`, a caller that has it already
    is answered at its next change, with the headers that say so. Raises NotFound, Behind."""
    found = await _visible(call)
    if echoed_version(call.request) > tag(found.held) and not await call.storage.change_log.reach_head():
        raise Behind("This process has not reached the version that the request names.")
    if echoed_version(call.request) > tag(found.held):
        found = await _visible(call)
    wait_s = call.preferences.wait_s
    if wait_s is None or not matches_etag(call.request, f'"{tag(found.held)}"'):
        return found, {}
    await _changed_within(call, wait_s, tag(found.held), tag)
    return await _visible(call), {"Preference-Applied": f"wait={wait_s}"}


async def _changed_within(call: Call, wait_s: int, known: int, tag: Callable[[EncodedOrder], int]) -> None:
    """Returns when the order no longer is as it was known, or after the time. The caller then answers with
    the newest, or that it is not known: a new epoch may have begun meanwhile, or the log be out of reach."""
    reads, loop = call.storage.reads, asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    while (left_s := deadline_s - loop.time()) > 0:
        held = reads.peek(call.order_id)  # without a pause before the wait: no change comes in between
        if isinstance(held, EncodedOrder) and tag(held) != known:
            return
        if not await reads.wait_for_change(call.order_id, left_s):
            return
        if tag((await reads.get(call.order_id)).held) != known:
            return


async def _visible(call: Call) -> Found:
    found = await call.storage.reads.get(call.order_id)
    if not call.actor.sees(found.held.customer):
        raise NotFound("There is no such order.")
    return found


def _changed(call: Call, outcome: ChangeOutcome) -> web.Response:
    headers = {
        "ETag": f'"{outcome.order.version}"',
        "Facet-Position": str(outcome.position),
        "Durability": "database" if outcome.in_database else "log",
    }
    if outcome.status == 201:
        headers["Location"] = f"/v1/orders/{outcome.order.id}"
    if call.preferences.wait_for_database and outcome.in_database:
        headers["Preference-Applied"] = "durability=database"
    return json_response(outcome.body, outcome.status, headers)
