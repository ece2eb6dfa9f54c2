"""Acknowledged status changes per second at 32 concurrent callers, against a commit for each change.

Over HTTP: the service against plain aiohttp handlers that commit to SQLite before they answer. And layer
against layer, in one process without HTTP: the order book against the same commits. Both sides keep every
acknowledged change through a power loss. Rounds are interleaved; a ratio is the median of the rounds' ratios.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.commit_each import Changes
from benchmarks.harness import (
    ADMIN_TOKEN,
    CALLERS,
    Answered,
    Subject,
    baseline,
    facet,
    fetch,
    figures,
    machine,
    ratio,
)
from benchmarks.load import request
from storage.bounds import Bounds
from storage.clock import SystemClock
from storage.data_directory import DataDirectory
from storage.embedded.change_log import EmbeddedChangeLog
from storage.orders.actors import Actor, Role
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order
from storage.orders.rules import StatusRequest, advance
from storage.orders.workflow import Status
from storage.services.orders import ChangeRequest
from storage.services.stack import Storage
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.log import SqliteLog
from storage.sqlite.migrate import migrate_sqlite

ROUNDS = 7
ORDERS = 400
ROUND_S = 1.5
LAYER_CHANGES = 1_500
ADMIN = Actor(token_id="bench", name="admin", role=Role.ADMIN)
THERE_AND_BACK = (Status.SUBMITTED, Status.FILE_UPLOADED)
"""A step and the way back, both legal as often as one likes."""


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as directory:
        over_http = _http(Path(directory), rounds)
        layers = uvloop.run(_layers(Path(directory), rounds))
    ours, each, hop = (over_http[name] for name in ("facet", "commit_each", "commit_each_one_hop"))
    return {
        "name": "orders",
        "rounds": rounds,
        "ratios": {
            "http_changes_per_s_x_commit_each": ratio(ours, each, "per_s"),
            "http_changes_per_s_x_commit_each_one_hop": ratio(ours, hop, "per_s"),
            "layer_changes_per_s_x_commit_each": _ratio(layers["facet"], layers["commit_each"]),
            "layer_changes_per_s_x_commit_each_one_hop": _ratio(
                layers["facet"], layers["commit_each_one_hop"]
            ),
        },
        "figures": {
            "callers": CALLERS,
            **figures(over_http),
            **{f"layer_{name}_per_s": round(statistics.median(found)) for name, found in layers.items()},
        },
        "machine": machine(),
    }


def _ratio(over: list[float], under: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(over, under, strict=True)), 2)


def _http(directory: Path, rounds: int) -> dict[str, list[Answered]]:
    with facet(directory) as ours:
        ids = new_orders(ours, ORDERS)
        ids_file = directory / "ids"
        ids_file.write_text("\n".join(ids))
        with baseline("benchmarks.commit_each", directory, str(directory / "each.db"), str(ids_file)) as each:
            tried: dict[str, tuple[Subject, str]] = {
                "facet": (ours, "/v1"),
                "commit_each": (each, "/v1"),
                "commit_each_one_hop": (each, "/one-hop"),
            }
            found: dict[str, list[Answered]] = {name: [] for name in tried}
            for name, (subject, prefix) in tried.items():
                _load(subject, ids, prefix, 0.5, name)  # first requests open files and fill caches
            for _ in range(rounds):
                for name, (subject, prefix) in tried.items():
                    found[name].append(_load(subject, ids, prefix, ROUND_S, name))
    return found


def new_orders(subject: Subject, count: int) -> list[str]:
    """Orders with a model on file, so that each can be submitted and go back."""
    ids = [fetch(subject.port, "POST", "/v1/orders", {"customer": "Anna"})["id"] for _ in range(count)]
    for order_id in ids:
        fetch(subject.port, "PUT", f"/v1/orders/{order_id}/status", {"status": "FILE_UPLOADED"})
    return ids


def changes(ids: list[str], prefix: str = "/v1") -> list[bytes]:
    """Every order there, then every order back: each request changes something."""
    bodies = [b'{"status":"%b"}' % status.encode() for status in THERE_AND_BACK]
    return [
        request("PUT", f"{prefix}/orders/{order_id}/status", ADMIN_TOKEN, body)
        for body in bodies
        for order_id in ids
    ]


def _load(subject: Subject, ids: list[str], prefix: str, seconds: float, name: str) -> Answered:
    answered = subject.load(changes(ids, prefix), seconds)
    if set(answered.statuses) != {"200"}:
        raise RuntimeError(f"{name} answered {answered.statuses}")
    return answered


async def _layers(directory: Path, rounds: int) -> dict[str, list[float]]:
    data_dir = DataDirectory(directory / "layer")
    data_dir.create()
    migrate_sqlite(data_dir.database)
    bounds, clock = Bounds(), SystemClock()
    database = SqliteDatabase(data_dir.database, bounds.busy_timeout_s, 2, bounds.read_deadline_s)
    log = SqliteLog(data_dir.log, 1.0, bounds.read_deadline_s)
    await database.open()
    await log.open()
    storage = Storage(
        database,
        lambda tail: EmbeddedChangeLog(log, database, tail, bounds, clock),
        analyser="1",
        bounds=bounds,
        clock=clock,
    )
    await storage.open(_failed)
    each = await Changes.open(directory / "layer-each.db")
    found = await _compare_layers(storage, each, rounds)
    await each.close()
    await storage.drain(10.0)
    await storage.close()
    return found


def _failed(name: str, error: BaseException) -> None:
    raise RuntimeError(name) from error


async def _compare_layers(storage: Storage, each: Changes, rounds: int) -> dict[str, list[float]]:
    ids = [await _new_order(storage) for _ in range(ORDERS)]
    await each.add(ids)

    async def ours(order_id: str, status: Status) -> None:
        async def decide(order: Order) -> Change | None:
            return advance(order, StatusRequest(status=status), ADMIN, storage.clock.now())

        await storage.orders.change(order_id, decide, ChangeRequest(actor=ADMIN))

    async def theirs(order_id: str, status: Status) -> None:
        await each.change(order_id, status, "admin")

    async def theirs_in_one_hop(order_id: str, status: Status) -> None:
        await each.change_in_one_hop(order_id, status, "admin")

    tried = {"facet": ours, "commit_each": theirs, "commit_each_one_hop": theirs_in_one_hop}
    found: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(rounds):
        for name, change in tried.items():
            found[name].append(await _changes_per_s(ids, change))
    return found


async def _new_order(storage: Storage) -> str:
    async def draft() -> NewOrder:
        return NewOrder(customer="Anna", model="0" * 64)

    return (await storage.orders.create(draft, ChangeRequest(actor=ADMIN))).order.id


async def _changes_per_s(ids: list[str], change: Callable[[str, Status], Awaitable[None]]) -> float:
    wanted = itertools.islice(
        itertools.cycle((order_id, status) for status in THERE_AND_BACK for order_id in ids), LAYER_CHANGES
    )

    async def caller() -> None:
        for order_id, status in wanted:
            await change(order_id, status)

    began_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return LAYER_CHANGES / (time.perf_counter() - began_s)
