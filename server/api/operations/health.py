"""Health and metrics."""

from typing import Any

import msgspec
from aiohttp import web

from server.http.keys import SETTINGS
from server.http.problems import HttpError
from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import Routes, authenticate, is_local
from server.observability.metrics import METRICS
from server.observability.readiness import READINESS
from server.observability.worker_metrics import WORKER_METRICS
from storage.orders.actors import Role


class Alive(msgspec.Struct, frozen=True):
    status: str


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """`ready` or `degraded` (200), `starting`, `warming` or `draining` (503)."""

    status: str
    troubles: list[str]
    reason: str
    dependencies: dict[str, Any]
    backlog: dict[str, Any]
    parked_orders: int
    clock_difference_s: float


routes = Routes("health")


@routes("GET", "/livez", "The process answers", roles=None, answers={200: Alive})
async def livez(call: Call) -> web.StreamResponse:
    return _plain({"status": "alive"}, 200)


@routes(
    "GET",
    "/readyz",
    "Whether to send requests here, with the state of every dependency",
    roles=None,
    answers={200: Ready, 503: Ready},
)
async def readyz(call: Call) -> web.StreamResponse:
    status, body = call.request.app[READINESS].report()
    return _plain(body, status)


@routes("GET", "/startupz", "Start-up is done", roles=None, answers={200: Alive, 503: Alive})
async def startupz(call: Call) -> web.StreamResponse:
    started = call.request.app[READINESS].started
    return _plain({"status": "started" if started else "starting"}, 200 if started else 503)


@routes("GET", "/metrics", "Prometheus metrics", roles=None, answers={200: "text/plain"})
async def metrics(call: Call) -> web.StreamResponse:
    protected = call.request.app[SETTINGS].metrics_protected
    if protected and (await authenticate(call.request)).role is not Role.ADMIN:
        raise HttpError(403, "forbidden", "The metrics are for tokens of role admin here.")
    body = call.request.app[METRICS].render()
    if call.request.app[SETTINGS].workers > 1 and not is_local(call.request):
        body = await call.request.app[WORKER_METRICS].everybody(body)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _plain(body: Any, status: int) -> web.Response:
    return json_response(body, status, {"Cache-Control": "no-store"})
