"""`facet bench first_answer CHECKOUT`: the first answer about a new ring of 100,000 facets, from this release
and from that of another checkout.

Both serve at the same time and are asked in turns, over HTTP, for the price of a model that they have never
seen: a model is new by its header. The ratio is that of the medians.
"""

import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import facet, machine
from benchmarks.pricing_http import PRICE, sent
from benchmarks.toruses import torus_stl

FACETS = 100_000
ROUNDS = 15
HEADER_BYTES = 80


def run(checkout: Path) -> dict[str, Any]:
    """Raises FileNotFoundError for a folder that is no checkout."""
    if not (checkout / "server" / "app.py").is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of Facet")
    ring = torus_stl(FACETS)
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name:
        directory = Path(name)
        with facet(directory, "other", checkout.resolve()) as other, facet(directory) as this:
            ports = {"other": other.port, "this": this.port}
            seconds: dict[str, list[float]] = {name: [] for name in ports}
            for _ in range(ROUNDS + 1):
                for name, port in ports.items():
                    seconds[name].append(_first_answer_s(port, ring))
    # The first one of each starts the workers.
    medians = {name: statistics.median(spent[1:]) for name, spent in seconds.items()}
    return {
        "name": "first_answer",
        "rounds": ROUNDS,
        "ratios": {"first_answer_of_other": round(medians["this"] / medians["other"], 2)},
        "figures": {f"{name}_ms": round(median * 1e3, 1) for name, median in medians.items()},
        "machine": machine(),
    }


def _first_answer_s(port: int, ring: bytes) -> float:
    new = os.urandom(HEADER_BYTES // 2).hex().encode() + ring[HEADER_BYTES:]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began_s = time.perf_counter()
        answer = sent(connection, PRICE, new)
        spent_s = time.perf_counter() - began_s
    if b'"gross"' not in answer:
        raise RuntimeError(f"no price: {answer[:300]!r}")
    return spent_s
