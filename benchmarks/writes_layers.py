"""The storage layer against the simplest one, without HTTP: 32 callers in one process, on one event loop.

Ours: `OrderBook.change` to its return, over Redis and PostgreSQL. Write-behind brings every change to
PostgreSQL meanwhile, in the same process and on the same servers; what it still lacks at the end of a round,
and how long that takes it, is reported beside, and the rate that results when that time is counted in.
Theirs: the same decisions and rows, each change committed through a pool of 32 (`benchmarks.pool_each`).
"""

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from benchmarks.engines import Engines, opened_storage
from benchmarks.harness import CALLERS
from benchmarks.orders import ADMIN, THERE_AND_BACK
from benchmarks.pool_each import PoolChanges, copy_orders
from storage.memory.keyed_locks import KeyedLocks
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order
from storage.orders.rules import StatusRequest, advance
from storage.orders.workflow import Status
from storage.postgresql.migrate import migrate_postgresql
from storage.services.orders import ChangeRequest
from storage.services.stack import Storage

ORDERS = 400
OUR_CHANGES, THEIR_CHANGES = 4_800, 1_600
"""Whole turns of `ORDERS` there and back: every change changes something."""
DRAIN_S = 60.0
Make = Callable[[str, Status], Awaitable[Any]]


class Round(NamedTuple):
    """`cpu_us`, `engines_us`: processor time per change, of this process and of the servers."""

    per_s: float
    p99_ms: float
    cpu_us: float
    engines_us: float
    behind: int = 0
    drained_s: float = 0.0
    sustained_per_s: float = 0.0

    @property
    def all_cpu_us(self) -> float:
        return self.cpu_us + self.engines_us


async def measure_layers(engines: Engines, rounds: int) -> dict[str, list[Round]]:
    url, each_url = (engines.postgres.create_database(name) for name in ("layer", "layer_each"))
    async with opened_storage(engines.redis.url, "layer", url) as storage:
        ids = await new_orders(storage, ORDERS)
        await drain(storage)
        await migrate_postgresql(each_url)
        await copy_orders(url, each_url)
        async with _opened(each_url) as each:
            return await _compare(engines, storage, each, ids, rounds)


async def _compare(
    engines: Engines, storage: Storage, each: PoolChanges, ids: list[str], rounds: int
) -> dict[str, list[Round]]:
    ours = changing(storage)
    found: dict[str, list[Round]] = {"facet": [], "commit_each": [], "commit_each_lean": []}
    for number in range(rounds + 1):
        for name, change in (("commit_each", each.change), ("commit_each_lean", each.change_lean)):
            result = await _round(engines, ids, change, THEIR_CHANGES, None)
            found[name] += [result] if number else []
        result = await _round(engines, ids, ours, OUR_CHANGES, storage)
        found["facet"] += [result] if number else []
    return found


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[PoolChanges]:
    each = await PoolChanges.open(url)
    try:
        yield each
    finally:
        await each.close()


def changing(storage: Storage) -> Make:
    async def change(order_id: str, status: Status) -> Any:
        async def decide(order: Order) -> Change | None:
            return advance(order, StatusRequest(status=status), ADMIN, storage.clock.now())

        return await storage.orders.change(order_id, decide, ChangeRequest(actor=ADMIN))

    return change


async def new_orders(storage: Storage, count: int) -> list[str]:
    async def draft() -> NewOrder:
        return NewOrder(customer="Anna", model="0" * 64)

    outcomes = await asyncio.gather(
        *(storage.orders.create(draft, ChangeRequest(actor=ADMIN)) for _ in range(count))
    )
    return [outcome.order.id for outcome in outcomes]


async def drain(storage: Storage) -> int:
    """Until PostgreSQL has everything. Returns how many entries it lacked."""
    behind = len(storage.tail)
    await storage.write_behind.wait_for(storage.tail.head, DRAIN_S)
    return behind


async def _round(engines: Engines, ids: list[str], make: Make, count: int, storage: Storage | None) -> Round:
    began_cpu_s, began_engines_s, began_s = time.process_time(), engines.cpu_s(), time.perf_counter()
    taken_s = await work_through(ids, make, count)
    ended_s = time.perf_counter()
    behind = 0 if storage is None else await drain(storage)
    drained_s = time.perf_counter() - ended_s
    return Round(
        per_s=count / (ended_s - began_s),
        p99_ms=taken_s[int(count * 0.99)] * 1000,
        cpu_us=(time.process_time() - began_cpu_s) / count * 1e6,
        engines_us=(engines.cpu_s() - began_engines_s) / count * 1e6,
        behind=behind,
        drained_s=drained_s,
        sustained_per_s=count / (ended_s - began_s + drained_s),
    )


async def work_through(ids: list[str], make: Make, count: int) -> list[float]:
    """So many changes by 32 callers."""
    turns = itertools.cycle((order_id, status) for status in THERE_AND_BACK for order_id in ids)
    return await work_for(itertools.islice(turns, count), make, math.inf)


async def work_for(wanted: Iterator[tuple[str, Status]], make: Make, seconds: float) -> list[float]:
    """Changes by 32 callers, each of which waits for its own; how long each took, sorted. Those of one order
    keep their turn: back before there would change nothing."""
    taken_s: list[float] = []
    turns: KeyedLocks[str] = KeyedLocks()
    until_s = time.perf_counter() + seconds

    async def caller() -> None:
        while (began_s := time.perf_counter()) < until_s:
            if (one := next(wanted, None)) is None:
                return
            async with turns.hold(one[0]):
                await make(*one)
            taken_s.append(time.perf_counter() - began_s)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return sorted(taken_s)
