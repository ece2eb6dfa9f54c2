"""After the races, everybody at rest: whether the local tiers, Redis, the database and the clients agree.

Legal steps are written down once more, in `tests.drills.day_history`: a mistake in the service's own would
pass by.
"""

import asyncio
import itertools
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import redis

from storage.bounds import Bounds
from storage.orders.filters import ListQuery
from storage.orders.order import Order, encode_order
from storage.postgresql.database import PostgresDatabase
from storage.redis.keys import Keys, body_of
from tests.drills.day_history import LEGAL, LINE
from tests.support.shared_stacks import PREFIX

KINDS = (
    *(
        "lost",
        "doubled",
        "stale",
        "divergent",
        "inversions",
        "regressions",
        "gaps",
        "illegal",
        "double takes",
        "hedged",
        "clocks",
    ),
    *("forks", "dead letters", "parked", "unexpected", "unrest"),
)
"""What a violation can be; those of a run are counted by these."""
ORDERS_MAX = 1_000_000
CLOCKS_APART_S = 1.0
"""A process may have decided a change this long before it was accepted."""
_HISTORY = (
    "SELECT order_id, version, epoch, position, kind, from_status, to_status, actor,"
    " coalesce(idempotency_key, comment), at FROM order_history ORDER BY order_id, version"
)

Facts = list[Any]


class Wrong(NamedTuple):
    kind: str
    words: str


class Row(NamedTuple):
    """A row of `order_history`. `token` names the request that made it."""

    order_id: str
    version: int
    epoch: int
    position: int
    kind: str
    before: str | None
    after: str
    actor: str
    token: str | None
    at: datetime


class Told(NamedTuple):
    """What a client was told that it has changed."""

    order_id: str
    version: int
    epoch: int
    position: int
    token: str
    actor: str
    status: str


class State(NamedTuple):
    """What is left in the shared engines."""

    orders: list[Order]
    history: list[Row]
    dead_letters: list[str]
    in_redis: dict[str, bytes]


def read_records(files: Iterable[Path]) -> list[Facts]:
    """Of all processes. A line that a kill has cut short is no fact."""
    facts: list[Facts] = []
    for file in files:
        for line in file.read_bytes().split(b"\n")[:-1]:
            facts.append(json.loads(line))
    return facts


async def read_state(redis_url: str, database_url: str) -> State:
    connection = await asyncpg.connect(database_url)
    try:
        history = [Row(*row) for row in await connection.fetch(_HISTORY)]
        letters = [row[0] for row in await connection.fetch("SELECT error FROM dead_letters")]
    finally:
        await connection.close()
    database = PostgresDatabase(database_url, 1, Bounds().read_deadline_s * 4, keeps_answers=True)
    await database.open()
    try:
        snapshot = await database.load_list(ListQuery(), ORDERS_MAX)
    finally:
        await database.close()
    values = await asyncio.to_thread(_read_redis, redis_url, snapshot.position.epoch)
    return State(snapshot.rows, history, letters, values)


def _read_redis(url: str, epoch: int) -> dict[str, bytes]:
    prefix = Keys(PREFIX, epoch).order("")
    values: dict[str, bytes] = {}
    with redis.Redis.from_url(url) as client:
        for name in client.scan_iter(match=f"{prefix}*", count=1_000):
            body = body_of(client.get(name))
            if body is not None:
                values[name.decode().removeprefix(prefix)] = body
    return values


def judge(state: State, facts: list[Facts]) -> list[Wrong]:
    told = [Told(*fact[1:]) for fact in facts if fact[0] == "told"]
    bodies = {order.id: (order.version, zlib.crc32(encode_order(order))) for order in state.orders}
    return [
        *(Wrong(*fact[1:]) for fact in facts if fact[0] == "wrong"),
        *(Wrong("dead letters", error) for error in state.dead_letters),
        *_tiers(state, bodies, facts),
        *_bodies(facts),
        *_histories(state),
        *_told(state.history, told),
        *_hedged(told, facts),
        *_clocks(state.history),
    ]


def _tiers(state: State, stored: dict[str, tuple[int, int]], facts: list[Facts]) -> Iterator[Wrong]:
    """Redis, the local tiers and what is shown against the database."""
    for order_id, body in state.in_redis.items():
        version = json.loads(body)["version"]
        yield from _compare("Redis", order_id, (version, zlib.crc32(body)), stored)
    for kind, *values in facts:
        if kind in ("local", "shown"):
            order_id, version, crc = values
            yield from _compare(kind, order_id, (version, crc), stored)


def _compare(
    where: str, order_id: str, found: tuple[int, int], stored: dict[str, tuple[int, int]]
) -> Iterator[Wrong]:
    row = stored.get(order_id)
    if row is None:
        yield Wrong("lost", f"{order_id} is in {where} at version {found[0]}, not in the database")
    elif found[0] != row[0]:
        yield Wrong("stale", f"{order_id} is in {where} at version {found[0]}, in the database at {row[0]}")
    elif found[1] != row[1]:
        yield Wrong("divergent", f"{order_id} version {row[0]} has another body in {where}")


def _bodies(facts: list[Facts]) -> Iterator[Wrong]:
    """Nobody, at any time, was shown two bodies of one version."""
    seen: dict[tuple[str, int], int] = {}
    for kind, *values in facts:
        if kind == "saw":
            order_id, version, crc = values
            if seen.setdefault((order_id, version), crc) != crc:
                yield Wrong("divergent", f"{order_id} was shown with two bodies of version {version}")


def _histories(state: State) -> Iterator[Wrong]:
    histories: dict[str, list[Row]] = defaultdict(list)
    for row in state.history:
        histories[row.order_id].append(row)
    places = Counter((row.epoch, row.position) for row in state.history)
    yield from (Wrong("doubled", f"{count} rows at {place}") for place, count in places.items() if count > 1)
    for order in state.orders:
        history = histories.pop(order.id, [])
        if not history or (history[-1].version, history[-1].after) != (order.version, order.status):
            yield Wrong("divergent", f"{order.id}: the row is not what its history ends with")
        yield from _history(order.id, history)
    yield from (Wrong("lost", f"{order_id} has a history and no row") for order_id in histories)


def _history(order_id: str, history: list[Row]) -> Iterator[Wrong]:
    versions = [row.version for row in history]
    if versions != list(range(1, len(history) + 1)):
        yield Wrong("gaps", f"{order_id} has versions {versions}")
    for earlier, later in itertools.pairwise(history):
        if (earlier.epoch, earlier.position) >= (later.epoch, later.position):
            yield Wrong("inversions", f"{order_id}: version {later.version} is before {earlier.version}")
    status, holder = None, None
    for row in history:
        if row.before != status or not _is_legal(row):
            yield Wrong("illegal", f"{order_id} was {status}: {row}")
        status = row.after
        if row.kind == "take":
            if holder is not None:
                yield Wrong("double takes", f"{order_id}: {row.actor} took it while {holder} had it")
            holder = row.actor
        elif row.kind == "release":
            holder = None


def _is_legal(row: Row) -> bool:
    if row.kind in ("comment", "edit"):
        return row.before == row.after and (row.kind == "comment" or row.after in LINE[:4])
    if (row.before, row.after) in ((LINE[2], LINE[1]), (LINE[3], LINE[1])):
        return row.kind == "status"  # a new file
    return LEGAL.get((row.before, row.after)) == row.kind


def _told(history: list[Row], told: list[Told]) -> Iterator[Wrong]:
    """What was acknowledged is there, once, where it was said to be; what was not is there once at most."""
    effects: dict[str | None, list[Row]] = defaultdict(list)
    for row in history:
        effects[row.token].append(row)
    for token, rows in effects.items():
        if len(rows) > 1:
            yield Wrong("doubled", f"{token} took effect {len(rows)} times: {rows[:3]}")
    by_version = {(row.order_id, row.version): row for row in history}
    places: dict[tuple[str, int], Told] = {}
    for item in told:
        found = by_version.get((item.order_id, item.version))
        if found is None:
            yield Wrong("lost", f"{item}")
        elif (found.token, found.actor, found.after) != (item.token, item.actor, item.status):
            yield Wrong("lost", f"{item} was told, the history has {found}")
        elif (found.epoch, found.position) != (item.epoch, item.position):
            yield Wrong("inversions", f"{item} was told, the history has {found}")
        other = places.setdefault((item.order_id, item.version), item)
        if other.token != item.token:
            kind = "double takes" if item.status == "MANUFACTURING_STARTED" else "doubled"
            yield Wrong(kind, f"{item} and {other} were told the same version")


def _hedged(told: list[Told], facts: list[Facts]) -> Iterator[Wrong]:
    """Of those who sent one request none was refused when another was told that it happened."""
    happened = {item.token for item in told}
    for token in {fact[1] for fact in facts if fact[0] == "refused"} & happened:
        yield Wrong("hedged", f"{token} was refused by one process and happened by another")


def _clocks(history: list[Row]) -> Iterator[Wrong]:
    """The moments of the log follow one clock, whichever process wrote them."""
    newest: Row | None = None
    for row in sorted(history, key=lambda row: (row.epoch, row.position)):
        if newest is not None and (newest.at - row.at).total_seconds() > CLOCKS_APART_S:
            yield Wrong("clocks", f"{row} is of a time before {newest}")
        elif newest is None or row.at > newest.at:
            newest = row
