"""How long it takes to be told a status while large models are uploaded, against the same with nothing else
going on, and how long the event loop was held meanwhile.

One server process, as `facet serve` runs it with its own worker processes. Twenty clients upload models of
25 MB that it has not seen, one after the other, and share a network of a gigabit a second; four others ask
for an order, 200 times a second. The loop's own monitor says how long it was held: by the clock, which on a
machine with too few cores is also the time the server waited for its turn, and by the processor time of its
thread.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web

from benchmarks.harness import cpu_s, fetch, machine, popen
from server import config
from server.observability.loop_monitor import LOOP_MONITOR, TICK_S
from server.process.serve import run as serve

FACETS = 500_000
ROUNDS = 3
IDLE_S = 8.0
BESIDE_S = 12.0
MODEL_FILES_BYTES = 1 << 30
"""What the server keeps of them meanwhile."""


class Found(NamedTuple):
    """One phase: what asking took, and the longest time the loop was held."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    held_ms: float
    held_by_processor_ms: float


class Partner:
    """A process that is told something on its standard input, and answers there with JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.hear()


@contextlib.contextmanager
def partner(*words: str, **settings: str) -> Iterator[Partner]:
    process = popen(["-m", *words], settings, stdin=subprocess.PIPE)
    try:
        yield Partner(process)
    finally:
        process.terminate()
        process.wait()


def run(rounds: int = ROUNDS, facets: int = FACETS) -> dict[str, Any]:
    from benchmarks.toruses import torus_stl  # what it imports is not for the processes that are measured

    with tempfile.TemporaryDirectory(prefix="facet-bench-") as directory, contextlib.ExitStack() as stack:
        model = Path(directory) / "model.stl"
        model.write_bytes(torus_stl(facets))
        settings = {"FACET_MODEL_FILES_BYTES": str(MODEL_FILES_BYTES)}
        data_dir = str(Path(directory) / "data")
        server = stack.enter_context(partner("benchmarks.uploads", data_dir, **settings))
        port = server.hear()
        order_id = fetch(port, "POST", "/v1/orders", {"customer": "Anna"})["id"]
        clients = "benchmarks.upload_clients"
        sender = stack.enter_context(partner(clients, "send", str(port), str(model)))
        asker = stack.enter_context(partner(clients, "ask", str(port), f"/v1/orders/{order_id}"))
        asker.ask("1")
        idle, beside, sent = [], [], []
        for _ in range(rounds):
            idle.append(_phase(server, asker, IDLE_S))
            before_s = _spent_s(server)
            sender.tell("start")
            beside.append(_phase(server, asker, BESIDE_S))
            sent.append(sender.ask("stop"))
            after_s = _spent_s(server)
            sent[-1]["cpu_s"], sent[-1]["loop_cpu_s"] = after_s[0] - before_s[0], after_s[1] - before_s[1]
        return _result(idle, beside, sent, model.stat().st_size)


def _phase(server: Partner, asker: Partner, seconds: float) -> Found:
    server.ask("longest")
    asked = asker.ask(str(seconds))
    held_s = [each + TICK_S for each in server.ask("longest")[:2]]  # at most: what began between two looks
    return Found(asked["p50_ms"], asked["p99_ms"], asked["max_ms"], held_s[0] * 1000, held_s[1] * 1000)


def _spent_s(server: Partner) -> tuple[float, float]:
    """Processor time of the server so far, and of its loop's thread."""
    return cpu_s(server.process.pid), server.ask("longest")[2]


def _result(idle: list[Found], beside: list[Found], sent: list[dict[str, Any]], size: int) -> dict[str, Any]:
    statuses = {status for each in sent for status in each["statuses"]}
    if statuses != {"200"}:
        raise RuntimeError(f"uploads were answered {statuses}")
    count = sum(each["statuses"]["200"] for each in sent)
    seconds = sum(each["seconds"] for each in sent)
    megabytes = count * size / 1e6
    return {
        "name": "uploads",
        "rounds": len(idle),
        "ratios": {
            f"{name}_beside_uploads_x_idle": _ratio(beside, idle, f"{name}_ms") for name in ("p50", "p99")
        },
        "figures": {
            **_figures("idle", idle),
            **_figures("beside_uploads", beside),
            "uploads": count,
            "upload_mb": round(size / 1e6, 1),
            "uploaded_mb_per_s": round(megabytes / seconds, 1),
            "server_cpu_ms_per_mb": round(sum(each["cpu_s"] for each in sent) * 1000 / megabytes, 2),
            "loop_cpu_ms_per_mb": round(sum(each["loop_cpu_s"] for each in sent) * 1000 / megabytes, 2),
        },
        "machine": machine(),
    }


def _figures(name: str, phases: list[Found]) -> dict[str, float]:
    """Medians of what asking took; of the rest the worst."""
    figures = {
        f"{name}_{field}": statistics.median(getattr(each, field) for each in phases)
        for field in ("p50_ms", "p99_ms")
    } | {
        f"{name}_{field}_at_most": max(getattr(each, field) for each in phases)
        for field in ("max_ms", "held_ms", "held_by_processor_ms")
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _ratio(over: list[Found], under: list[Found], field: str) -> float:
    pairs = zip(over, under, strict=True)
    ratios: list[float] = [getattr(a, field) / getattr(b, field) for a, b in pairs]
    return round(statistics.median(ratios), 2)


async def _started(app: web.Application, url: str) -> None:
    """Says its port, and to each line on standard input how long the loop was held since the last, and
    what processor time its thread took so far."""

    def answer() -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            return
        print(json.dumps([*app[LOOP_MONITOR].take_longest(), time.thread_time()]), flush=True)

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), answer)
    print(json.dumps(int(url.rpartition(":")[2])), flush=True)


if __name__ == "__main__":
    sys.exit(serve(config.load(port="0", data_dir=sys.argv[1]), _started))
