"""How long acknowledgements take while the database is blocked for five seconds, against the same unblocked.

Another connection holds SQLite's write lock, as a long import would. Status changes come in waves
of 200 at 32 callers, spread over the time of the block; as many come just before it.
"""

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Answered, Subject, facet, fetch, figures, machine, ratio
from benchmarks.orders import changes, new_orders

BLOCKED_S = 5.0
CHANGES = 200
ROUNDS = 3
WAVES = 10
"""In each block, and before it."""


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as directory, facet(Path(directory)) as ours:
        requests = changes(new_orders(ours, CHANGES))
        # Every other wave brings the orders back, so that each request changes something.
        waves = [requests[:CHANGES], requests[CHANGES:]] * (WAVES // 2)
        free: list[Answered] = []
        blocked: list[Answered] = []
        for _ in range(rounds):
            _until_flushed(ours)
            free += [_wave(ours, wave) for wave in waves]
            with _blocked(Path(directory) / "facet" / "facet.db"):
                until_s = time.monotonic() + BLOCKED_S
                for number, wave in enumerate(waves, 1):
                    blocked.append(_wave(ours, wave))
                    left_s = until_s - time.monotonic()
                    time.sleep(max(0.0, left_s / (WAVES + 1 - number)))
    return {
        "name": "stall",
        "rounds": rounds,
        "ratios": {
            "blocked_p50_of_free": ratio(blocked, free, "p50_ms"),
            "blocked_p99_of_free": ratio(blocked, free, "p99_ms"),
        },
        "figures": figures({"free": free, "blocked": blocked}),
        "machine": machine(),
    }


def _wave(subject: Subject, requests: list[bytes]) -> Answered:
    answered = subject.load(requests, 60.0, repeat=False)
    if answered.statuses != {"200": len(requests)}:
        raise RuntimeError(f"{len(requests)} changes were answered {answered.statuses}")
    return answered


def _until_flushed(subject: Subject) -> None:
    while fetch(subject.port, "GET", "/v1/cache")["lag"]["entries"]:
        time.sleep(0.01)


@contextlib.contextmanager
def _blocked(database: Path) -> Iterator[None]:
    connection = sqlite3.connect(database, isolation_level=None, timeout=10)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
