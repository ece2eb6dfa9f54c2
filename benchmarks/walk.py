"""A walk through 100,000 orders by pages of 200, beside lists that others look at.

Prints the processor time of the server for a page (of the walk, and of the first page, which is held), how
many of pages 2 to 20 of a held list were answered from memory, and how many of the lists that were in use
before the walk are still held after it.
"""

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import ADMIN_TOKEN, Subject, cpu_s, facet, fetch, machine
from benchmarks.load import request

ORDERS = 100_000
PAGE_ROWS = 200
FILL_S = 5.0
SETTLED_S = 120.0
ROUNDS = 3
USED = [f"/v1/orders?operator=operator-{n}" for n in range(20)]
LOCAL = "detail=local"


def run(orders: int = ORDERS, rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name, facet(Path(name)) as ours:
        _fill(ours, orders)
        visitor = Visitor(ours)
        for path in USED:
            visitor.get(path)
        first_us = [_first_us(visitor) for _ in range(rounds)]
        walks_us = [_walk_us(visitor, orders) for _ in range(rounds)]
        held = sum(LOCAL in visitor.get(path)[1] for path in USED)
        cut = _pages_from_memory(visitor)
    page_us = statistics.median(walks_us)
    return {
        "name": "walk",
        "rounds": rounds,
        "ratios": {
            "deep_page_of_first_page_by_cpu": round(page_us / statistics.median(first_us), 2),
            "lists_still_held": held / len(USED),
            "pages_2_to_20_from_memory": cut / 19,
        },
        "figures": {"orders": orders, "page_cpu_ms": round(page_us / 1e3, 2)},
        "machine": machine(),
    }


class Visitor:
    """One connection, kept."""

    def __init__(self, ours: Subject) -> None:
        self.ours = ours
        self._connection = http.client.HTTPConnection("127.0.0.1", ours.port)

    def get(self, path: str) -> tuple[Any, str]:
        """The answer, and where it came from."""
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}")
        return json.loads(body), answer.headers["Cache-Status"]


def _fill(ours: Subject, orders: int) -> None:
    """So many, all of them in the database."""
    body = b'{"customer":"Anna","note":"a ring of white gold"}'
    asked = [request("POST", "/v1/orders", ADMIN_TOKEN, body)] * 100
    made = 0
    while made < orders:
        answered = ours.load(asked, FILL_S)
        if set(answered.statuses) != {"201"}:
            raise RuntimeError(f"orders were answered with {answered.statuses}")
        made += answered.statuses["201"]
    until_s = time.monotonic() + SETTLED_S
    while fetch(ours.port, "GET", "/v1/cache")["lag"]["entries"]:
        if time.monotonic() > until_s:
            raise RuntimeError("the orders do not reach the database")
        time.sleep(0.1)


def _first_us(visitor: Visitor) -> float:
    before_s = cpu_s(visitor.ours.process.pid)
    for _ in range(PAGE_ROWS):
        visitor.get(f"/v1/orders?limit={PAGE_ROWS}")
    return (cpu_s(visitor.ours.process.pid) - before_s) / PAGE_ROWS * 1e6


def _walk_us(visitor: Visitor, orders: int) -> float:
    before_s, pages, met, path = cpu_s(visitor.ours.process.pid), 0, 0, f"/v1/orders?limit={PAGE_ROWS}"
    while True:
        page, _ = visitor.get(path)
        pages, met = pages + 1, met + len(page["items"])
        if page["next"] is None:
            break
        path = f"/v1/orders?limit={PAGE_ROWS}&cursor={page['next']}"
    if met < orders:
        raise RuntimeError(f"the walk met {met} orders of {orders}")
    return (cpu_s(visitor.ours.process.pid) - before_s) / pages * 1e6


def _pages_from_memory(visitor: Visitor) -> int:
    page, _ = visitor.get("/v1/orders?limit=50")
    count = 0
    for _ in range(19):
        page, source = visitor.get(f"/v1/orders?limit=50&cursor={page['next']}")
        count += LOCAL in source
    return count
