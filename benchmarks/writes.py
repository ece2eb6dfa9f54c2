"""What Redis and PostgreSQL behind the service cost and gain, on private servers, in one run.

Valkey keeps every change on disk before it answers (`appendfsync always`), PostgreSQL every commit. Variants
take turns, a ratio is the median of the rounds' own ratios, and processor time stands beside: the server's
(`cpu_us`) and that of Valkey and PostgreSQL together (`engines_cpu_us`), per change. Ratios of `p99_ms` and
`all_cpu_us` (server and engines) are better below 1.

* over HTTP: acknowledged status changes per second at 32 callers, against an aiohttp handler on uvloop that
  commits each to PostgreSQL through a pool of 32, and a lean one with as few round trips as can be
* layer against layer: the same without HTTP (`benchmarks.writes_layers`)
* the flush: batches of 1,000 against `executemany` (`benchmarks.flushes`)
* reads of the shared tier against redis-py (`benchmarks.shared_gets`)
* taking an order, which waits for PostgreSQL: by one process, and by either of two
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import flushes, shared_gets, writes_http, writes_layers
from benchmarks.engines import engines
from benchmarks.harness import CALLERS, figures, machine

ROUNDS = 5


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name, engines(Path(name)) as servers:
        over_http = writes_http.measure_changes(servers, Path(name), rounds)
        layers = uvloop.run(writes_layers.measure_layers(servers, rounds))
        flushed = uvloop.run(flushes.measure_flushes(servers, rounds))
        gets = uvloop.run(shared_gets.measure_gets(servers, rounds))
        takes = writes_http.measure_takes(servers, Path(name))
        versions = servers.versions()
    answered = {name: [each.answered for each in found] for name, found in over_http.items()}
    return {
        "name": "writes",
        "rounds": rounds,
        "ratios": {
            **_against(answered, "http_changes_per_s", "per_s"),
            **_against(over_http, "http_sustained_changes_per_s", "sustained_per_s"),
            **_against(answered, "http_p99_ms", "p99_ms"),
            **_against(over_http, "http_all_cpu_us", "all_cpu_us"),
            **_against(layers, "layer_changes_per_s", "per_s"),
            **_against(layers, "layer_sustained_changes_per_s", "sustained_per_s"),
            **_against(layers, "layer_all_cpu_us", "all_cpu_us"),
            "flush_x_executemany": _ratio(flushed["executemany"], flushed["facet"], "us"),
            "get_per_s_x_redis_py": _ratio(gets["get"], gets["get_redis_py"], "per_s"),
            "load_per_s_x_redis_py": _ratio(gets["load"], gets["load_redis_py"], "per_s"),
        },
        "figures": {
            "callers": CALLERS,
            **figures(answered),
            **writes_http.figures_of(over_http),
            **_medians("layer", layers),
            **_medians("flush", flushed),
            **_medians("shared", gets),
            **writes_http.take_figures(takes),
        },
        "machine": machine() | versions,
    }


def _against(rounds: dict[str, Any], what: str, field: str) -> dict[str, float]:
    """Ours against each of the others."""
    return {
        f"{what}_x_{name}": _ratio(rounds["facet"], found, field)
        for name, found in rounds.items()
        if name != "facet"
    }


def _ratio(over: list[Any], under: list[Any], field: str) -> float:
    pairs = zip(over, under, strict=True)
    ratios: list[float] = [getattr(a, field) / getattr(b, field) for a, b in pairs]
    return round(statistics.median(ratios), 2)


def _medians(prefix: str, rounds: dict[str, list[Any]]) -> dict[str, float]:
    return {
        f"{prefix}_{name}_{field}": round(statistics.median(getattr(each, field) for each in found), 2)
        for name, found in rounds.items()
        for field in found[0]._fields
    }
