"""What a route is, and what stands between the server and a handler: access, errors, request ids, timing."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from server.http.coding import encode
from server.http.hot_path import HOT_PATH, Peek
from server.http.keys import STORAGE
from server.http.problems import HttpError, problem_response
from server.http.request import JSON_BYTES_MAX, Call, invite_body, request_id_of
from storage.cache.read_through import CacheStatus
from storage.errors import Behind, Invalid, NotFound
from storage.orders.actors import Actor, Role

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

ANYBODY = Actor(token_id="", name="", role=Role.CUSTOMER, customer="")
"""Who asks where no token is needed."""
LOCAL_ADMIN = Actor(token_id="local", name="local", role=Role.ADMIN)
"""Who asks through the socket in the data directory: its permissions are the access check."""
EVERYBODY = frozenset(Role)
ADMIN = frozenset({Role.ADMIN})


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path: what it does, who may, what goes in and what comes out.

    `roles` None: no token is needed. `form`: the fields of a form, beside its file for uploads.
    `answers`: status -> the record of the body, or a media type.
    `errors`: statuses it can be refused with, beside those every route has.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    roles: frozenset[Role] | None = EVERYBODY
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    body_optional: bool = False
    body_bytes_max: int = JSON_BYTES_MAX
    form: type[msgspec.Struct] | None = None
    uploads: bool = False
    answers: Mapping[int, Any] = {}
    errors: tuple[int, ...] = ()
    shows: Callable[[web.Request, web.Response], web.Response] | None = None
    """How a refusal is shown to a person; None: as the problem document that it is."""
    conditional: bool = False
    changes: bool = False
    prefers: bool = False
    """Can be answered later: `Prefer: respond-async`."""
    peek: Callable[[Call], Peek | None] | None = None
    """How to answer again from memory what has been answered once: see `server/http/hot_path.py`. What it
    returns must not keep the request."""

    @property
    def is_page(self) -> bool:
        return self.shows is not None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


class Routes(list[Route]):
    """The routes of one file, each declared above its handler: `@routes("GET", "/v1/me", "Who one is")`."""

    def __init__(self, tag: str) -> None:
        """`tag`: under which the API's document shows them."""
        super().__init__()
        self._tag = tag

    def __call__(self, method: str, path: str, summary: str, **what: Any) -> Callable[[Handler], Handler]:
        """`what`: further fields of the route."""

        def declare(handler: Handler) -> Handler:
            self.append(
                Route(method=method, path=path, handler=handler, summary=summary, tag=self._tag, **what)
            )
            return handler

        return declare


SHARED_ABSENCES = frozenset({"not_found", "unknown_model", "unknown_job"})
"""Codes of things that another process may know of. (A file that is not kept here is not.)"""

_LEARNED = (200, 304)

POLLED = ("/v1/orders/{id}/status", "/v1/models/{sha256}/price")


Observe = Callable[[int, float], None]
"""Told the status and the seconds of each request of a route."""


def add_routes(app: web.Application, routes: list[Route], observer: Callable[[str, str], Observe]) -> None:
    """`observer`: what observes the route of this path and method."""
    # Paths under one prefix are tried one after the other: what customers and shops poll comes first.
    for route in sorted(routes, key=lambda route: route.path not in POLLED):
        handler = _endpoint(route, observer(route.path, route.method))
        expected = _expected_upload if route.uploads else _expected
        if route.method == "GET":
            app.router.add_get(route.path, handler, allow_head=True, expect_handler=expected)
        else:
            app.router.add_route(route.method, route.path, handler, expect_handler=expected)
    app.router.add_route("*", "/{tail:.*}", _nowhere, expect_handler=_expected_upload)


def _endpoint(route: Route, observe: Observe) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    roles, handler = route.roles, route.handler
    clock = time.perf_counter
    body_bytes_max = route.body_bytes_max
    takes_query = route.query is not None
    takes_body = route.uploads or route.body is not None or route.form is not None
    make_peek = route.peek
    encodes = route.method == "GET"

    def refused(error: Exception, request: web.Request, request_id: str) -> web.Response:
        response = problem_response(error, request_id)
        return response if route.shows is None else route.shows(request, response)

    async def endpoint(request: web.Request) -> web.StreamResponse:
        began_s = clock()
        request_id = request_id_of(request)
        response: web.StreamResponse
        call = Call(request, ANYBODY, request_id, body_bytes_max)
        try:
            if roles is not None:
                call.actor = _known(request, roles) or await _authorized(request, roles)
                if not call.begins_at_once():
                    await call.begin()
            if "Content-Encoding" in request.headers:
                _require_identity(request)
            if "#" in request.raw_path:
                raise HttpError(400, "malformed_request", "An address here has no fragment (#).")
            if not takes_query and "?" in request.raw_path:
                _refuse_query(request)
            if not takes_body and request.body_exists and not _is_empty(request):
                raise HttpError(400, "unexpected_body", "This request has no body.")
            response = await handler(call)
            if encodes:
                encode(request, response, held=make_peek is not None)
        except web.HTTPException as error:
            response = refused(HttpError(error.status, "refused", error.reason), request, request_id)
        except (web.RequestPayloadError, HttpProcessingError):
            response = refused(_malformed_body(), request, request_id)
            response.force_close()
        except (ConnectionError, asyncio.CancelledError):
            observe(499, clock() - began_s)
            raise
        except Exception as error:
            response = refused(_as_far_as_known(error, call), request, request_id)
            _end_unread(request, response)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            if roles is not None:
                _say_how_new(call, response)
        observe(response.status, clock() - began_s)
        if (
            make_peek is not None
            and response.status in _LEARNED
            and not call.disconnected
            and (hot_path := request.app[HOT_PATH]) is not None
        ):
            hot_path.learn(request, call.actor, functools.partial(make_peek, call), observe)
        return response

    return endpoint


def _as_far_as_known(error: Exception, call: Call) -> Exception:
    """A process that is cut off from the others cannot say that there is no such thing."""
    absent = isinstance(error, NotFound) or (isinstance(error, HttpError) and error.code in SHARED_ABSENCES)
    if call.disconnected and absent:
        return Behind("This process is cut off from the others: there may be such a thing.")
    return error


def _say_how_new(call: Call, response: web.StreamResponse) -> None:
    """Which position an answer is complete to, unless its handler has said it; and whether it may be old."""
    headers = response.headers
    if call.as_of[0] and "Facet-Position" not in headers:
        headers["Facet-Position"] = call.position
    if call.disconnected and response.status < 400:
        headers["Cache-Status"] = CacheStatus.STALE


def _require_identity(request: web.Request) -> None:
    """Raises HttpError 415 for a body that is sent encoded."""
    codings = ",".join(request.headers.getall("Content-Encoding")).lower().split(",")
    if not {coding.strip() for coding in codings} <= {"", "identity"}:
        raise HttpError(
            415,
            "content_encoding_unsupported",
            "Send the body without Content-Encoding.",
            {"Accept-Encoding": "identity"},
        )


def _is_empty(request: web.Request) -> bool:
    """A body of no bytes, sent in chunks."""
    return request.content.is_eof() and request.content.total_bytes == 0


def _refuse_query(request: web.Request) -> None:
    """What would not be read is refused. Raises Invalid."""
    if unknown := dict.fromkeys(request.query):
        raise Invalid(*((f"/{name}", "unknown parameter") for name in unknown))


def _malformed_body() -> HttpError:
    return HttpError(400, "malformed_body", "The body is not what the request's headers announced.")


def _end_unread(request: web.Request, response: web.StreamResponse) -> None:
    """A refused body that is still coming is not waited for: the connection ends with the answer."""
    if request.body_exists and not request.content.is_eof() and not response.prepared:
        response.force_close()


def _known(request: web.Request, roles: frozenset[Role]) -> Actor | None:
    """Who asks, when the token is known here and may: most often."""
    header = request.headers.get("Authorization")
    if header is None or header[:7] != "Bearer ":
        return None
    actor = request.app[STORAGE].tokens.authenticate(header[7:])
    return actor if actor is not None and actor.role in roles else None


async def _authorized(request: web.Request, roles: frozenset[Role]) -> Actor:
    actor = await authenticate(request)
    if actor.role not in roles:
        allowed = ", ".join(sorted(roles))
        raise HttpError(
            403, "forbidden", f"A token of role {actor.role} cannot do this; these can: {allowed}."
        )
    return actor


async def authenticate(request: web.Request) -> Actor:
    """Raises HttpError 401; Behind when it cannot be known whether the token is valid."""
    if (header := request.headers.get("Authorization")) is None:
        if is_local(request):
            return LOCAL_ADMIN
        raise HttpError(401, "unauthenticated", "Send Authorization: Bearer <token>.", _CHALLENGE)
    actor = None
    if header[:7].lower() == "bearer ":
        tokens, secret = request.app[STORAGE].tokens, header[7:].strip()
        actor = tokens.authenticate(secret) or await tokens.find(secret)
    if actor is None:
        raise HttpError(401, "invalid_token", "This token is not known here, or was revoked.", _CHALLENGE)
    return actor


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="facet"'}


def is_local(request: web.Request) -> bool:
    """Whether the request came through the Unix socket in the data directory."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), (str, bytes))


async def _allowed_methods(request: web.Request) -> set[str]:
    """What the path answers; a literal path wins over one with a variable, as when requests are routed."""
    literal: set[str] = set()
    variable: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != "/{tail}":
            _, methods = await resource.resolve(request)
            found = literal if resource.canonical == request.path else variable
            found |= methods
    return literal or variable


async def _expected_upload(request: web.Request) -> web.StreamResponse | None:
    """`Expect: 100-continue` may stand here, nothing else. The handler invites the body when it wants it."""
    if request.headers["Expect"].lower() == "100-continue":
        return None
    request_id = request_id_of(request)
    response = problem_response(
        HttpError(417, "expectation_failed", "Only 100-continue can be expected."), request_id
    )
    response.headers["X-Request-Id"] = request_id
    _end_unread(request, response)
    return response


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """As above; the body is small and invited at once."""
    if (response := await _expected_upload(request)) is None:
        await invite_body(request)
    return response


async def _nowhere(request: web.Request) -> web.StreamResponse:
    """No such path: 404; or a path without this method: 405."""
    allowed = await _allowed_methods(request)
    error = HttpError(404, "not_found", "There is nothing at this address.")
    if allowed:
        detail = f"This address answers {', '.join(sorted(allowed))}."
        error = HttpError(405, "method_not_allowed", detail, {"Allow": ", ".join(sorted(allowed))})
    request_id = request_id_of(request)
    response = problem_response(error, request_id)
    response.headers["X-Request-Id"] = request_id
    _end_unread(request, response)
    return response
