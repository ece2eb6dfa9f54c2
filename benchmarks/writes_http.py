"""Changes over HTTP at 32 callers, and how long taking an order waits for PostgreSQL."""

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engines import Engines
from benchmarks.harness import ADMIN_TOKEN, Answered, Subject, baseline, facet, fetch, median
from benchmarks.load import request
from benchmarks.orders import changes, new_orders
from benchmarks.pool_each import copy_orders
from storage.postgresql.migrate import migrate_postgresql

ORDERS = 200
ROUND_S = 1.5
DRAIN_S = 60.0
TAKEN_ALONE = 100
TAKE_ROUNDS = 5
CORRECTION = b'{"status":"MANUFACTURING_APPROVED","comment":"paid on the telephone"}'
TAKE = b'{"operator":"Petr"}'


class Round(NamedTuple):
    """Beside what the generator saw: what the engines spent per change, and how far behind PostgreSQL was."""

    answered: Answered
    engines_us: float
    behind: int
    drained_s: float
    sustained_per_s: float
    """With the time until PostgreSQL had everything counted in."""

    @property
    def all_cpu_us(self) -> float:
        return self.answered.cpu_us + self.engines_us


def measure_changes(engines: Engines, directory: Path, rounds: int) -> dict[str, list[Round]]:
    database, each_database = (
        engines.postgres.create_database("http"),
        engines.postgres.create_database("each"),
    )
    with facet(directory, "single", **engines.settings("http")) as ours:
        ids = new_orders(ours, ORDERS)
        _until_flushed(ours)
        asyncio.run(migrate_postgresql(each_database))
        asyncio.run(copy_orders(database, each_database))
        with baseline("benchmarks.pool_each", directory, each_database) as each:
            tried = {
                "facet": (ours, "/v1"),
                "commit_each": (each, "/v1"),
                "commit_each_lean": (each, "/lean"),
            }
            found: dict[str, list[Round]] = {name: [] for name in tried}
            for number in range(rounds + 1):
                for name, (subject, prefix) in tried.items():
                    flushes = subject if subject is ours else None
                    seconds = ROUND_S if number else 0.5
                    result = _round(engines, subject, changes(ids, prefix), seconds, flushes)
                    if number:  # the round before the first opens connections and fills caches
                        found[name].append(result)
    return found


def _round(
    engines: Engines, subject: Subject, requests: list[bytes], seconds: float, flushes: Subject | None
) -> Round:
    began_s, spent_s = time.monotonic(), engines.cpu_s()
    answered = subject.load(requests, seconds)
    if set(answered.statuses) != {"200"}:
        raise RuntimeError(f"changes were answered {answered.statuses}")
    ended_s = time.monotonic()
    behind = _until_flushed(flushes) if flushes is not None else 0
    drained_s = time.monotonic() - ended_s
    count = answered.statuses["200"]
    spent_s, sustained_s = engines.cpu_s() - spent_s, time.monotonic() - began_s
    subject.load(requests[ORDERS:], 60.0, repeat=False)  # all back: the next round begins as this one did
    if flushes is not None:
        _until_flushed(flushes)
    return Round(
        answered=answered,
        engines_us=spent_s / count * 1e6,
        behind=behind,
        drained_s=drained_s,
        sustained_per_s=count / sustained_s,
    )


def _until_flushed(subject: Subject) -> int:
    """Returns how many entries PostgreSQL lacked at first."""
    until_s = time.monotonic() + DRAIN_S
    behind: int = _behind(subject)
    while _behind(subject):
        if time.monotonic() > until_s:
            raise RuntimeError("PostgreSQL did not catch up")
        time.sleep(0.01)
    return behind


def _behind(subject: Subject) -> int:
    behind: int = fetch(subject.port, "GET", "/v1/cache")["lag"]["entries"]
    return behind


def measure_takes(engines: Engines, directory: Path) -> dict[str, list[Answered]]:
    """By one process alone; then by each of two: only the one that has the lease brings the log to
    PostgreSQL, the other is told when it has."""
    engines.postgres.create_database("takes")
    settings = engines.settings("takes")
    found: dict[str, list[Answered]] = {}
    with facet(directory, "flusher", **settings) as flusher:
        ids = _approved(flusher)
        _take_and_release(flusher, ids, {})
        for _ in range(TAKE_ROUNDS):
            _take_and_release(flusher, ids, found, "alone")
        with facet(directory, "other", **settings) as other:
            for _ in range(TAKE_ROUNDS):
                _take_and_release(flusher, ids, found, "flusher")
                _take_and_release(other, ids, found, "other")
    return found


def _approved(subject: Subject) -> list[str]:
    ids = [fetch(subject.port, "POST", "/v1/orders", {"customer": "Anna"})["id"] for _ in range(ORDERS)]
    _wave(subject, [request("PUT", f"/v1/orders/{each}/status", ADMIN_TOKEN, CORRECTION) for each in ids])
    return ids


def _take_and_release(
    subject: Subject, ids: list[str], found: dict[str, list[Answered]], name: str = "first"
) -> None:
    takes = [request("POST", f"/v1/orders/{each}/take", ADMIN_TOKEN, TAKE) for each in ids]
    releases = [request("POST", f"/v1/orders/{each}/release", ADMIN_TOKEN) for each in ids]
    found.setdefault(f"{name}_32_callers", []).append(_wave(subject, takes))
    _wave(subject, releases)
    found.setdefault(f"{name}_1_caller", []).append(_wave(subject, takes[:TAKEN_ALONE], callers=1))
    _wave(subject, releases[:TAKEN_ALONE])


def _wave(subject: Subject, requests: list[bytes], **options: int) -> Answered:
    answered = subject.load(requests, 60.0, repeat=False, **options)
    if answered.statuses != {"200": len(requests)}:
        raise RuntimeError(f"{len(requests)} requests were answered {answered.statuses}")
    return answered


def figures_of(rounds: dict[str, list[Round]]) -> dict[str, float]:
    """What the rounds have beside the answers; medians."""
    shown: dict[str, float] = {}
    for name, found in rounds.items():
        shown[f"{name}_engines_cpu_us"] = _median(found, "engines_us")
    ours = rounds["facet"]
    return shown | {
        "facet_behind_entries": _median(ours, "behind"),
        "facet_drained_s": _median(ours, "drained_s"),
        "facet_sustained_per_s": _median(ours, "sustained_per_s"),
    }


def take_figures(takes: dict[str, list[Answered]]) -> dict[str, float]:
    return {
        f"take_{name}_{field}": round(median(answers, field), 2)
        for name, answers in takes.items()
        for field in ("p50_ms", "p99_ms")
    }


def _median(rounds: list[Round], field: str) -> Any:
    return round(sorted(getattr(each, field) for each in rounds)[len(rounds) // 2], 2)
