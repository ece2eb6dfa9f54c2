"""How long after a change is acknowledged on one process another process shows it.

Two processes, each with the whole storage of a server and a core of its own, over one Valkey (`appendfsync
always`) and one PostgreSQL; no HTTP, which would only slow the writer down. First the machine's own maximum:
how many changes a second the writer is acknowledged with 32 callers who each wait for theirs. Then half of
that, each change begun when it is due. Measured for every one of these: from the moment at which
`OrderBook.change` has returned on the writer to the moment at which the other process's follower has put it
into the local tier (checked there: the version that the local tier answers is this one). Nobody polls: both
note the monotonic clock, which the processes of a machine share. 0 means that the other was not later.

In turn the process that also brings the log to PostgreSQL writes and the other shows, and the reverse.
"""

import asyncio
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.engines import Engines, engines
from benchmarks.harness import CALLERS, machine, popen
from storage.postgresql.migrate import migrate_postgresql

ROUNDS = 5
ORDERS = 2_000
MOST_S, PACED_S = 1.5, 3.0
GOAL_MS = 100.0


class Round(NamedTuple):
    most_per_s: float
    paced_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    acknowledged_p99_ms: float
    behind_entries: int
    changes: int


class Process:
    def __init__(self, servers: Engines, core: int) -> None:
        words = [servers.redis.url, "coherence", servers.postgres.url_of("coherence"), str(core)]
        self._process = popen(["-m", "benchmarks.storage_process", *words], stdin=subprocess.PIPE)
        self._read()

    def ask(self, do: str, **command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("the storage process ended")
        return line

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run(rounds: int = ROUNDS, *, most_s: float = MOST_S, paced_s: float = PACED_S) -> dict[str, Any]:
    found: dict[str, list[Round]] = {"from_flusher": [], "to_flusher": []}
    with _processes() as (flusher, other, versions):
        for _ in range(rounds):
            found["from_flusher"].append(_round(flusher, other, most_s, paced_s))
            found["to_flusher"].append(_round(other, flusher, most_s, paced_s))
    return {
        "name": "coherence",
        "rounds": rounds,
        "ratios": {
            f"{name}_p99_of_100_ms": round(_median(each, "p99_ms") / GOAL_MS, 3)
            for name, each in found.items()
        },
        "figures": {
            "callers": CALLERS,
            **{
                f"{name}_{field}": round(_median(each, field), 2)
                for name, each in found.items()
                for field in Round._fields
            },
            **{f"{name}_max_ms": round(max(one.max_ms for one in each), 2) for name, each in found.items()},
        },
        "machine": machine() | versions,
    }


@contextmanager
def _processes() -> Iterator[tuple[Process, Process, dict[str, str]]]:
    """The first takes the lease and keeps it."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="facet-bench-")))
        servers = stack.enter_context(engines(directory))
        asyncio.run(migrate_postgresql(servers.postgres.create_database("coherence")))
        processes = []
        for core in (0, 1):
            processes.append(Process(servers, core))
            stack.callback(processes[-1].close)
        ids = processes[0].ask("create", count=ORDERS)
        for process in processes:
            process.ask("load", ids=ids)
        if [process.ask("seen")["flushes"] for process in processes] != [True, False]:
            raise RuntimeError("the first process does not have the lease")
        yield processes[0], processes[1], servers.versions()


def _round(writer: Process, reader: Process, most_s: float, paced_s: float) -> Round:
    most_per_s = writer.ask("most", seconds=most_s)
    reader.ask("seen")
    paced = writer.ask("pace", per_s=most_per_s / 2, seconds=paced_s)
    shown = reader.ask("seen")
    writer.ask("seen")
    if shown["unseen"]:
        raise RuntimeError(f"{shown['unseen']} changes were followed and not shown")
    seen_s = dict(shown["seen"])
    late_ms = sorted(max(0.0, seen_s[n] - at_s) * 1000 for n, at_s in paced["acknowledged"])
    return Round(
        most_per_s=most_per_s,
        paced_per_s=paced["per_s"],
        p50_ms=statistics.median(late_ms),
        p99_ms=late_ms[int(len(late_ms) * 0.99)],
        max_ms=late_ms[-1],
        acknowledged_p99_ms=paced["took_p99_ms"],
        behind_entries=paced["behind"],
        changes=len(late_ms),
    )


def _median(rounds: list[Round], field: str) -> float:
    values: list[float] = [getattr(each, field) for each in rounds]
    return statistics.median(values)
