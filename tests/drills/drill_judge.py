"""What must hold when the drill is over: of what clients were told, of the history, of the three servers, of
Redis and of PostgreSQL."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import asyncpg
import msgspec
import redis

from storage.redis.keys import body_of
from tests.drills.day_history import LINE, Acknowledged, Row, State, judged
from tests.drills.drill_clients import Floor, People, Told
from tests.drills.drill_world import World

DRAIN_S = 30.0
TOGETHER = 16
_HISTORY = (
    "SELECT order_id, version, kind, from_status, to_status, actor, at, idempotency_key"
    " FROM order_history ORDER BY order_id, version"
)


class Window(NamedTuple):
    """In which what a server alone held may have been lost with it."""

    from_s: float
    until_s: float


class Stored(NamedTuple):
    rows: list[Row]
    states: dict[str, State]
    dead_letters: int


class Verdict(NamedTuple):
    violations: list[str]
    lost_by_exception: list[Acknowledged]


async def stored(url: str) -> Stored:
    connection = await asyncpg.connect(url)
    try:
        rows = [Row(*row) for row in await connection.fetch(_HISTORY)]
        states = await connection.fetch("SELECT id, version, status, operator, updated_at FROM orders")
        letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
        return Stored(rows, {row[0]: State(*row) for row in states}, letters)
    finally:
        connection.terminate()


def judge(found: Stored, floor: Floor, windows: Iterable[Window]) -> Verdict:
    excused = _excused(found.rows, floor.acknowledged, list(windows))
    orders = {change.order_id for change in excused}
    told = [item.change for item in floor.acknowledged if item.change.order_id not in orders]
    return Verdict(
        [
            *(str(error) for _, error in floor.violations if error.order_id not in orders),
            *judged(found.rows, found.states, found.dead_letters, told),
            *_effects_of_refused(found.rows, floor.refused_keys),
        ],
        excused,
    )


def _excused(rows: list[Row], told: list[Told], windows: list[Window]) -> list[Acknowledged]:
    """Contract 1's exception: told in such a window, and not in the history."""
    kept = {(row.order_id, row.version, row.key) for row in rows}
    return [
        change
        for at_s, change in told
        if not any((change.order_id, change.version, key) in kept for key in (change.key, *change.or_by))
        and any(window.from_s <= at_s <= window.until_s for window in windows)
    ]


def _effects_of_refused(rows: list[Row], keys: set[str]) -> list[str]:
    return [f"{row.key} was refused and took effect: {row}" for row in rows if row.key in keys]


async def drained(people: People) -> str:
    """Empty once no server lags behind; otherwise what is left."""
    end_s, left = time.monotonic() + DRAIN_S, "?"
    while time.monotonic() < end_s:
        replies = [await admin.get("/v1/cache") for admin in people.admins]
        if all(reply.status == 200 and not reply.json["lag"]["entries"] for reply in replies):
            heads = {reply.json["log_head"] for reply in replies}
            if len(heads) == 1:
                return ""
        left = str([reply.json.get("lag", reply) for reply in replies])
        await asyncio.sleep(0.1)
    return f"the backlog was not drained in {DRAIN_S:g} s: {left}"


async def divergences(world: World, people: People, found: Stored) -> list[str]:
    """Between the three servers, Redis and PostgreSQL."""
    in_redis = await asyncio.to_thread(_in_redis, world)
    differences = [
        f"{order_id} has version {version} in Redis, {state.version} in PostgreSQL"
        for order_id, version in in_redis.items()
        if (state := found.states.get(order_id)) is not None and state.version != version
    ]
    differences += [f"{order_id} is in Redis only" for order_id in in_redis.keys() - found.states.keys()]
    places = asyncio.Semaphore(TOGETHER)

    async def compare(order_id: str, state: State) -> None:
        async with places:
            replies = [await admin.get(f"/v1/orders/{order_id}") for admin in people.admins]
        for number, reply in enumerate(replies, 1):
            shown = _state(reply.json) if reply.status == 200 else (reply.status,)
            if shown != (state.version, state.status, state.operator):
                differences.append(f"server {number} shows {order_id} as {shown}, PostgreSQL has {state}")

    await asyncio.gather(*(compare(order_id, state) for order_id, state in found.states.items()))
    return differences + await _list_divergences(people, found)


async def _list_divergences(people: People, found: Stored) -> list[str]:
    differences = []
    for status in (*LINE, "CANCELLED"):
        expected = {order_id for order_id, state in found.states.items() if state.status == status}
        for number, admin in enumerate(people.admins, 1):
            shown: set[str] = set()
            path = f"/v1/orders?status={status}&limit=200"
            while path:
                page = (await admin.get(path)).json
                shown |= {row["id"] for row in page["items"]}
                path = f"/v1/orders?status={status}&limit=200&cursor={page['next']}" if page["next"] else ""
            if shown != expected:
                differences.append(
                    f"server {number} lists {len(shown)} {status}, PostgreSQL has {len(expected)}:"
                    f" {sorted(shown ^ expected)[:5]}"
                )
    return differences


def _state(order: dict[str, Any]) -> tuple[Any, ...]:
    return order["version"], order["status"], order["operator"]


def _in_redis(world: World) -> dict[str, int]:
    """Order -> version."""
    found = {}
    with redis.Redis(port=world.redis.port) as client:
        epoch = client.hget("{facet}:meta", "epoch")
        assert isinstance(epoch, bytes)
        for name in client.scan_iter(f"{{facet}}:{epoch.decode()}:order:*", count=1000):
            body = body_of(client.get(name))
            if body is not None:
                found[name.decode().rpartition(":")[2]] = int(msgspec.json.decode(body)["version"])
    return found
