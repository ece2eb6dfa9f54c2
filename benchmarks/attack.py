"""How long it takes to be told a status while one client attacks, against the same with nothing going on; how
long the event loop was held meanwhile, and what memory the attack takes and gives back.

The attacks are those of `benchmarks.attackers`. First all at once: large bodies, readers that do not read,
silent forms and drips; then, on another server, what is sent by halves. Four others ask for an order, 200
times a second.
"""

import contextlib
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import fetch, machine
from benchmarks.uploads import Partner, partner
from server.observability.loop_monitor import TICK_S

ATTACKS = {
    "whole": ("bodies", "readers", "silent", "drips"),
    "halves": ("unfinished", "heads", "chunks"),
}
IDLE_S = 10.0
ATTACK_S = 30.0
BACK_S = 60.0
"""Within this the memory is back."""
BACK_BYTES = 16 << 20
"""What counts as back: the allocator keeps some."""
LOOK_S = 0.25
ORDERS = 100
NOTE = "x" * 150
"""So that a page of orders has some 39 KB, as those of a workshop do."""
MIB = 1 << 20


def run(attack_s: float = ATTACK_S) -> dict[str, Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = {name: attacked(attack_s, *kinds) for name, kinds in ATTACKS.items()}
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "name": "attack",
        "rounds": 1,
        "ratios": {
            f"{name}_{field}_x_idle": round(figures[f"{field}_ms"] / figures[f"idle_{field}_ms"], 2)
            for name, figures in found.items()
            for field in ("p50", "p99")
        },
        "figures": {
            f"{name}_{field}": value for name, figures in found.items() for field, value in figures.items()
        },
        "machine": machine(),
    }


def attacked(attack_s: float, *kinds: str) -> dict[str, Any]:
    """What a server of its own goes through under these kinds, all at once."""
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as directory, contextlib.ExitStack() as stack:
        server = stack.enter_context(partner("benchmarks.uploads", str(Path(directory) / "data")))
        port = server.hear()
        for number in range(ORDERS):
            order = fetch(port, "POST", "/v1/orders", {"customer": f"Anna {number}", "note": NOTE})
        path = f"/v1/orders/{order['id']}/status"
        asker = stack.enter_context(partner("benchmarks.upload_clients", "ask", str(port), path))
        asker.ask("2")
        server.ask("longest")
        before_bytes = _resident_bytes(server)
        idle = asker.ask(str(IDLE_S))
        idle_held_s = server.ask("longest")
        attackers = stack.enter_context(partner("benchmarks.attackers", str(port), *kinds))
        attackers.tell("start")
        asker.tell(str(attack_s))
        highest_bytes = _highest_until(server, time.monotonic() + attack_s)
        beside = asker.hear()
        held_s = server.ask("longest")
        sent = attackers.ask("stop")
        back_s, after_bytes = _back(server, before_bytes)
    return {
        **{f"idle_{name}": round(idle[name], 2) for name in ("p50_ms", "p99_ms", "max_ms")},
        **{name: round(beside[name], 2) for name in ("p50_ms", "p99_ms", "max_ms")},
        # At most: what began between two looks.
        "idle_held_by_processor_ms_at_most": round((idle_held_s[1] + TICK_S) * 1000, 1),
        "held_by_processor_ms_at_most": round((held_s[1] + TICK_S) * 1000, 1),
        "memory_before_mib": round(before_bytes / MIB, 1),
        "memory_grown_mib_at_most": round((highest_bytes - before_bytes) / MIB, 1),
        "memory_left_mib": round((after_bytes - before_bytes) / MIB, 1),
        "memory_back_s": round(back_s, 1),
        **sent,
    }


def _highest_until(server: Partner, until_s: float) -> int:
    highest_bytes = 0
    while time.monotonic() < until_s:
        highest_bytes = max(highest_bytes, _resident_bytes(server))
        time.sleep(LOOK_S)
    return highest_bytes


def _back(server: Partner, before_bytes: int) -> tuple[float, int]:
    """When it is back, or BACK_S; and what the server has then."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < BACK_S:
        if _resident_bytes(server) <= before_bytes + BACK_BYTES:
            break
        time.sleep(LOOK_S)
    return time.monotonic() - began_s, _resident_bytes(server)


def _resident_bytes(server: Partner) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
