"""Thousands of connections that are kept and poll now and then, on one process.

As many as the limit of open files allows, up to 10,000. Each asks for a status in its turn, 1,000 times a
second all together, first with nothing else going on, then beside 200 keyed changes a second. Prints the
memory of the server for a connection, and how long a status takes: with 100 connections, with all, and with
all beside the changes.
"""

import asyncio
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.harness import ADMIN_TOKEN, GENERATOR_CORE, Subject, facet, machine
from benchmarks.http import changing
from benchmarks.load import pin, request
from benchmarks.orders import new_orders

POLLERS, FEW = 10_000, 100
SPARE_FILES = 200
POLLS_A_SECOND = 1_000
ROUND_S = 5.0
ORDERS = 200
OPENED_TOGETHER = 200


class Poller(asyncio.Protocol):
    """One connection; an answer ends its turn."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answered: asyncio.Future[None]
        self.status = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.status = data[9:12]
        if not self.answered.done():
            self.answered.set_result(None)

    async def poll(self, asked: bytes) -> float:
        """Seconds. Raises RuntimeError for anything but the status."""
        self.answered = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        self.transport.write(asked)
        await self.answered
        if self.status != b"200":
            raise RuntimeError(f"a status was answered with {self.status!r}")
        return time.perf_counter() - began_s


def run(pollers: int = POLLERS) -> dict[str, Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pollers = min(pollers, hard - SPARE_FILES)
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name, facet(Path(name)) as ours:
        ids = new_orders(ours, ORDERS)
        pin(GENERATOR_CORE)
        return uvloop.run(_measured(ours, ids, pollers))


async def _measured(ours: Subject, ids: list[str], count: int) -> dict[str, Any]:
    half = len(ids) // 2
    asked = [request("GET", f"/v1/orders/{order_id}/status", ADMIN_TOKEN) for order_id in ids[half:]]
    few = await _opened(ours.port, FEW)
    await _round(few, asked)
    before_bytes, few_s = _resident_bytes(ours), await _round(few, asked)
    pollers = few + await _opened(ours.port, count - FEW)
    for poller in pollers:  # each has asked once
        await poller.poll(asked[0])
    a_connection = (_resident_bytes(ours) - before_bytes) / (count - FEW)
    all_s = await _round(pollers, asked)
    with changing(ours, ids[:half]):
        beside_s = await _round(pollers, asked)
    figures = {
        f"{name}_{what}": value
        for name, taken in (("few", few_s), ("all", all_s), ("beside_changes", beside_s))
        for what, value in _times(taken).items()
    }
    return {
        "name": "pollers",
        "rounds": 1,
        "ratios": {
            "p99_of_all_of_few": round(figures["all_p99_ms"] / figures["few_p99_ms"], 2),
            "p99_beside_changes_of_all": round(figures["beside_changes_p99_ms"] / figures["all_p99_ms"], 2),
        },
        "figures": {"connections": count, "kib_a_connection": round(a_connection / 1024, 1), **figures},
        "machine": machine(),
    }


async def _opened(port: int, count: int) -> list[Poller]:
    loop = asyncio.get_running_loop()
    pollers: list[Poller] = []
    while len(pollers) < count:
        together = min(OPENED_TOGETHER, count - len(pollers))
        pairs = [loop.create_connection(Poller, "127.0.0.1", port) for _ in range(together)]
        pollers += [poller for _, poller in await asyncio.gather(*pairs)]
    return pollers


async def _round(pollers: list[Poller], asked: list[bytes]) -> list[float]:
    """Seconds of each poll, all connections in turn, at the rate of all together."""
    polls: list[asyncio.Task[float]] = []
    due_s, turn = time.perf_counter(), 0
    until_s = due_s + ROUND_S
    while due_s < until_s:
        if (wait_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
        if turn >= len(pollers):
            await polls[turn - len(pollers)]  # its last turn is over
        poll = pollers[turn % len(pollers)].poll(asked[turn % len(asked)])
        polls.append(asyncio.create_task(poll))
        due_s += 1 / POLLS_A_SECOND
        turn += 1
    return await asyncio.gather(*polls)


def _times(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1e3, 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1e3, 2),
    }


def _resident_bytes(subject: Subject) -> int:
    fields = Path(f"/proc/{subject.process.pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()
