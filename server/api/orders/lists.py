"""Lists of orders over HTTP: pages, counts, several statuses at once, and what operators have in work."""

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta
from yarl import URL

from server.http.fields import in_range
from server.http.hot_path import Peek, Ready
from server.http.request import Call
from server.http.responses import json_response, read_answer, read_headers
from server.http.routes import EVERYBODY, Routes
from storage.cache.list_views import CountsQuery
from storage.cache.read_through import CacheStatus
from storage.errors import Behind, Invalid
from storage.memory.lru import Lru, Sentinel
from storage.orders.actors import TENANT_ROLES, Actor, Role
from storage.orders.fields import Moment, Name, Reference
from storage.orders.filters import (
    LIMIT_MAX,
    NO_OPERATOR,
    ListQuery,
    OrderFilter,
    SortField,
    decode_cursor,
    parse_sort,
)
from storage.orders.order import Order, OrderStatus, decode_order
from storage.orders.search import fold
from storage.orders.workflow import Status

_meanings: Lru[tuple[Actor, str], tuple[ListQuery, int]] = Lru(2_000, 4 * 2**20)
"""Screens ask for the same lists again and again: what the parameters mean is worked out once."""
_links: Lru[tuple[str, str], str] = Lru(2_000, 4 * 2**20)

OPERATORS_ORDERS = 1_000
"""Orders in work that the list of operators looks through."""


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`status`: several with commas. `operator`: a name, `me` or `none`. `q`: text to find."""

    status: Annotated[str, Meta(max_length=300)] | None = None
    operator: Name | None = None
    customer: Name | None = None
    number: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    reference: Reference | None = None
    q: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    created_from: Moment | None = None
    created_to: Moment | None = None
    due_from: Moment | None = None
    due_to: Moment | None = None


class Listing(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sort: Annotated[str, Meta(max_length=20)] = "-created_at"
    limit: Annotated[int, Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: Annotated[str, Meta(max_length=400)] | None = None


class Ids(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Up to 200 ids with commas."""

    ids: Annotated[str, Meta(min_length=1, max_length=LIMIT_MAX * 37)]


class OrderPage(msgspec.Struct, frozen=True):
    items: list[Order]
    next: str | None


class Statuses(msgspec.Struct, frozen=True, kw_only=True):
    """`missing`: ids that name no order the caller may see."""

    items: list[OrderStatus]
    missing: list[str]
    next: str | None = None


class Counts(msgspec.Struct, frozen=True):
    counts: dict[Status, int]


class InWork(msgspec.Struct, frozen=True):
    id: str
    number: int
    since: datetime


class Operator(msgspec.Struct, frozen=True):
    name: str
    in_work: list[InWork]


class Operators(msgspec.Struct, frozen=True):
    items: list[Operator]
    next: str | None = None


routes = Routes("orders")


def _peek_page(call: Call) -> Peek | None:
    """The first page, as long as its list is held. A walk by the time of change begins anew with each
    request; further pages are asked for once."""
    query, limit = _listed(call)
    if query.sort.field is SortField.UPDATED_AT or query.after is not None:
        return None
    peek_page, now = call.storage.reads.views.peek_page, call.storage.clock.now()
    raw_path, url = call.request.raw_path, call.request.rel_url

    def peek() -> Ready | None:
        """Nothing of the page is kept here: what is held of lists has its bound elsewhere."""
        found = peek_page(query, limit, now)
        if isinstance(found, Sentinel):
            return None
        link = b"" if found.next is None else b"\r\nLink: " + _link(raw_path, url, found.next).encode()
        return found.body, found.etag.encode(), link

    return peek


def _peek_counts(call: Call) -> Peek:
    query = CountsQuery(order_filter(call.query(Filters), call.actor))
    peek_counts = call.storage.reads.views.peek_counts

    def peek() -> Ready | None:
        body = peek_counts(query)
        return None if isinstance(body, Sentinel) else (body, b"", b"")

    return peek


@routes(
    "GET",
    "/v1/orders",
    "List orders, newest first",
    query=Listing,
    answers={200: OrderPage},
    errors=(503,),
    conditional=True,
    peek=_peek_page,
)
async def list_orders(call: Call) -> web.StreamResponse:
    query, limit = _listed(call)
    found = await call.storage.reads.page(query, limit, call.storage.clock.now())
    response = read_answer(call, found.page.body, found.page.etag, found.source, as_of=found.as_of)
    if found.page.next is not None:
        response.headers["Link"] = _link(call.request.raw_path, call.request.rel_url, found.page.next)
    return response


@routes(
    "GET",
    "/v1/orders/counts",
    "Count orders by status",
    query=Filters,
    answers={200: Counts},
    errors=(503,),
    peek=_peek_counts,
)
async def count_orders(call: Call) -> web.StreamResponse:
    found = await call.storage.reads.counts(order_filter(call.query(Filters), call.actor))
    return json_response(found.body, headers=read_headers(call, found.source, found.as_of))


@routes(
    "GET", "/v1/statuses", "Up to 200 statuses in one call", query=Ids, answers={200: Statuses}, errors=(503,)
)
async def get_statuses(call: Call) -> web.StreamResponse:
    """Up to 200 statuses in one answer, in the order asked for; each id once."""
    ids = list(dict.fromkeys(call.query(Ids).ids.lower().split(",")))
    if "" in ids:
        raise Invalid(("/ids", "an id is empty"))
    if len(ids) > LIMIT_MAX:
        raise Invalid(("/ids", f"at most {LIMIT_MAX}"))
    found = await call.storage.reads.get_many(ids)
    seen = {order_id: held for order_id, held in found.held.items() if call.actor.sees(held.customer)}
    shown = b",".join(seen[order_id].status_body for order_id in ids if order_id in seen)
    missing = [order_id for order_id in ids if order_id not in seen]
    if missing and found.source == CacheStatus.STALE:
        raise Behind("This process is cut off from the others: there may be such orders.")
    body = b'{"items":[%b],"missing":%b,"next":null}' % (shown, msgspec.json.encode(missing))
    return json_response(body, headers=read_headers(call, found.source))


@routes(
    "GET",
    "/v1/operators",
    "Operators and what each has in work",
    roles=EVERYBODY - TENANT_ROLES,
    answers={200: Operators},
    errors=(503,),
)
async def list_operators(call: Call) -> web.StreamResponse:
    """Every operator's name, with the orders in work, the longest in work first."""
    started = ListQuery(filter=OrderFilter(statuses=frozenset({Status.MANUFACTURING_STARTED})))
    found = await call.storage.reads.rows(started, OPERATORS_ORDERS)
    in_work: dict[str, list[InWork]] = {name: [] for name in call.storage.tokens.names(Role.OPERATOR)}
    for order in sorted(map(decode_order, found.bodies), key=lambda order: order.status_since):
        if order.operator is not None:
            in_work.setdefault(order.operator, []).append(InWork(order.id, order.number, order.status_since))
    operators = Operators([Operator(name, in_work[name]) for name in sorted(in_work)])
    return json_response(operators, headers=read_headers(call, found.source, found.as_of))


def _listed(call: Call) -> tuple[ListQuery, int]:
    """Raises Invalid."""
    key = (call.actor, call.request.raw_path)
    known = _meanings.get(key)
    if not isinstance(known, Sentinel):
        return known
    meaning = list_query(call.query(Listing), call.actor)
    _meanings.put(key, meaning, len(key[1]))
    return meaning


def _link(raw_path: str, url: URL, cursor: str) -> str:
    key = (raw_path, cursor)
    known = _links.get(key)
    if not isinstance(known, Sentinel):
        return known
    link = f'<{url.update_query(cursor=cursor).raw_path_qs}>; rel="next"'
    _links.put(key, link, 2 * len(link))
    return link


def list_query(listing: Listing, actor: Actor) -> tuple[ListQuery, int]:
    """Raises Invalid."""
    sort = parse_sort(listing.sort)
    after = None if listing.cursor is None else decode_cursor(listing.cursor, sort)
    return ListQuery(filter=order_filter(listing, actor), sort=sort, after=after), listing.limit


def order_filter(filters: Filters, actor: Actor) -> OrderFilter:
    """What the parameters mean for this actor: tenants see their own orders only. Raises Invalid."""
    operator = filters.operator
    if operator == "me":
        operator = actor.name
    elif operator == "none":
        operator = NO_OPERATOR
    customer = filters.customer
    if actor.tenant is not None:
        if customer not in (None, actor.tenant):
            raise Invalid(("/customer", "not yours"))
        customer = actor.tenant
    moments = {
        name: in_range(name, getattr(filters, name))
        for name in ("created_from", "created_to", "due_from", "due_to")
    }
    return OrderFilter(
        statuses=_statuses(filters.status),
        operator=operator,
        customer=customer,
        number=filters.number,
        reference=filters.reference,
        q=_needle(filters.q),
        **moments,  # type: ignore[arg-type]
    )


def _needle(text: str | None) -> str | None:
    if text is not None and not (text := fold(text)):
        raise Invalid(("/q", "nothing but accents"))
    return text


def _statuses(text: str | None) -> frozenset[Status]:
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in Status.__members__]:
        raise Invalid(("/status", f"no such status: {', '.join(unknown)[:100] or 'one is empty'}"))
    return frozenset(Status(name) for name in names)
