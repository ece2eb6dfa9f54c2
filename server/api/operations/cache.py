"""The cache over HTTP: what it holds, invalidation by key, warming, dead letters."""

from typing import Any

import msgspec
from aiohttp import web

from server.http.fields import Nothing
from server.http.problems import HttpError
from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import ADMIN, Routes
from server.observability.storage_metrics import database_loads
from storage.cache.read_through import Inspected
from storage.database.records import DeadLetter
from storage.errors import DatabaseUnavailable, NotFound
from storage.services.stack import Storage
from storage.services.warming import Warmed, warm


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int


class Lag(msgspec.Struct, frozen=True):
    entries: int
    seconds: float


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    entries: int
    bytes: int
    entries_max: int
    bytes_max: int
    age_s_max: float


class SharedReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is between the processes, as this one sees it. `state`: up or away. `age_s`: how long ago the end
    of the log was last seen, null when it never was. `joins`: how often this process began to follow;
    `rebases`: epochs of the log it began; `replayed`: entries the database lacked then."""

    state: str
    server: str | None
    durability: str
    error: str | None
    age_s: float | None
    joins: int
    rebases: int
    replayed: int
    hits: int
    fills: int
    fills_refused: int


class CacheReport(msgspec.Struct, frozen=True, kw_only=True):
    """`loads`: reads that reached the database, by what was loaded, since the process started. `flusher`:
    whether this process brings the log to the database. `dead_letters`: null while the database is away."""

    local: Tier
    lists: Tier
    models: Tier
    shared: SharedReport
    flusher: bool
    pending: int
    pending_hits: int
    refused_fills: int
    loads: dict[str, int]
    log_head: str
    flushed: str
    lag: Lag
    backlog: Backlog
    dead_letters: int | None
    parked: list[str]


class DeadLetters(msgspec.Struct, frozen=True):
    items: list[DeadLetter]
    next: str | None = None


_NO_BODY = {204: None}

routes = Routes("cache")


@routes(
    "GET",
    "/v1/cache",
    "What the tiers hold, and how far the database is behind",
    roles=ADMIN,
    answers={200: CacheReport},
    errors=(503,),
)
async def get_cache(call: Call) -> web.StreamResponse:
    storage, bounds = call.storage, call.storage.bounds
    epoch, tail = storage.change_log.epoch, storage.tail
    report = CacheReport(
        local=_tier(storage.reads.local.lru),
        lists=_tier(storage.reads.views.lru),
        models=_models_tier(storage),
        shared=_shared(storage),
        flusher=storage.lease.held,
        pending=tail.pending_orders,
        pending_hits=storage.reads.pending_hits,
        refused_fills=storage.reads.local.refused_fills,
        loads=database_loads(storage),
        log_head=f"{epoch}-{tail.head}",
        flushed=f"{epoch}-{tail.flushed}",
        lag=Lag(len(tail), round(tail.age_s, 3)),
        backlog=Backlog(
            entries=len(tail),
            bytes=tail.byte_count,
            entries_max=bounds.backlog_entries,
            bytes_max=bounds.backlog_bytes,
            age_s_max=bounds.backlog_age_s,
        ),
        dead_letters=await _dead_letters(storage),
        parked=tail.parked,
    )
    return json_response(report)


@routes(
    "GET",
    "/v1/cache/orders/{id}",
    "What each tier holds of an order",
    roles=ADMIN,
    answers={200: Inspected},
    errors=(404, 503),
)
async def get_cached_order(call: Call) -> web.StreamResponse:
    return json_response(await call.storage.reads.inspect(call.order_id))


@routes(
    "DELETE",
    "/v1/cache/orders/{id}",
    "Forget an order and read it again",
    roles=ADMIN,
    answers=_NO_BODY,
    errors=(404, 503),
)
async def delete_cached_order(call: Call) -> web.StreamResponse:
    """What is held is forgotten and read again; a pending change stays, it is newer than the database."""
    if not await call.storage.invalidate_order(call.order_id):
        raise NotFound("There is no such order; nothing is held of it now.")
    return web.Response(status=204)


@routes(
    "DELETE",
    "/v1/cache/models/{sha256}",
    "Forget a model's facts and read them again",
    roles=ADMIN,
    answers=_NO_BODY,
    errors=(404, 503),
)
async def delete_cached_model(call: Call) -> web.StreamResponse:
    if not await call.storage.invalidate_model(call.named("sha256")):
        raise HttpError(404, "unknown_model", "This model is not known here; nothing is held of it now.")
    return web.Response(status=204)


@routes("DELETE", "/v1/cache/lists", "Forget all lists and counts", roles=ADMIN, answers=_NO_BODY)
async def delete_cached_lists(call: Call) -> web.StreamResponse:
    await call.storage.invalidate_lists()
    return web.Response(status=204)


@routes(
    "POST",
    "/v1/cache/warm",
    "Warm again",
    roles=ADMIN,
    body=Nothing,
    body_optional=True,
    answers={200: Warmed},
    errors=(503,),
)
async def warm_cache(call: Call) -> web.StreamResponse:
    await call.body(Nothing, optional=True)
    return json_response(await warm(call.storage))


@routes(
    "GET",
    "/v1/cache/dead-letters",
    "Entries the database refused, with its words",
    roles=ADMIN,
    answers={200: DeadLetters},
    errors=(503,),
)
async def list_dead_letters(call: Call) -> web.StreamResponse:
    letters = await call.storage.database.load_dead_letters()
    return json_response(DeadLetters([letter for letter, _ in letters]))


@routes(
    "POST",
    "/v1/cache/dead-letters/{id}/replay",
    "Apply the dead letters of this one's order, after a repair",
    roles=ADMIN,
    body=Nothing,
    body_optional=True,
    answers=_NO_BODY,
    errors=(404, 409, 503),
)
async def replay_dead_letter(call: Call) -> web.StreamResponse:
    """Apply all dead letters of this one's order, in order, after the cause was repaired."""
    await call.body(Nothing, optional=True)
    letters = await call.storage.database.load_dead_letters()
    letter = next((letter for letter, _ in letters if letter.id == call.named("id")), None)
    if letter is None or letter.order_id is None:
        raise NotFound("There is no such dead letter.")
    await call.storage.replay_dead_letters(letter.order_id)
    return web.Response(status=204)


def _tier(lru: Any) -> Tier:
    return Tier(
        entries=len(lru),
        bytes=lru.byte_count,
        hits=lru.hits,
        misses=lru.misses,
        evictions=lru.evictions,
    )


def _shared(storage: Storage) -> SharedReport:
    change_log, status = storage.change_log, storage.change_log.status()
    return SharedReport(
        state="away" if change_log.last_error else "up",
        server=status.server,
        durability=status.durability,
        error=change_log.last_error,
        age_s=status.age_s,
        joins=status.joins,
        rebases=status.rebases,
        replayed=change_log.replayed,
        hits=storage.reads.shared_hits,
        fills=status.fills,
        fills_refused=status.fills_refused,
    )


async def _dead_letters(storage: Storage) -> int | None:
    """None while the database does not say."""
    try:
        return len(await storage.database.load_dead_letters())
    except DatabaseUnavailable:
        return None


def _models_tier(storage: Storage) -> Tier:
    cache = storage.models.cache
    return Tier(
        entries=len(cache),
        bytes=cache.byte_count,
        hits=cache.hits,
        misses=cache.misses,
        evictions=cache.evictions,
    )
