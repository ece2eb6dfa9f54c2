"""Cached reads against bare aiohttp handlers that return ready bytes of the same size.

Statuses, a list of 50 orders, and both when the caller has them already (304). By the server's processor
time per request, and by requests per second; rounds are interleaved, a ratio is the median of the rounds'.
"""

import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.harness import ADMIN_TOKEN, Answered, Subject, baseline, facet, figures, machine, ratio
from benchmarks.load import request
from benchmarks.orders import new_orders

ROUNDS = 7
ORDERS = 200
ROUND_S = 1.2
LIST = "/v1/orders?status=FILE_UPLOADED&limit=50"


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as directory:
        found = _rounds(Path(directory), rounds)
    ratios = {}
    for read in ("status", "list", "status_304", "list_304"):
        bare = found["bare_304" if read.endswith("304") else f"bare_{read}"]
        ratios[f"{read}_by_cpu"] = ratio(bare, found[read], "cpu_us")
        ratios[f"{read}_by_requests_per_s"] = ratio(found[read], bare, "per_s")
    return {
        "name": "reads",
        "rounds": rounds,
        "ratios": ratios,
        "figures": figures(found),
        "machine": machine(),
    }


def _rounds(directory: Path, rounds: int) -> dict[str, list[Answered]]:
    bodies = directory / "bodies"
    bodies.mkdir()
    with facet(directory) as ours:
        ids = new_orders(ours, ORDERS)
        status, tag = _fetched(ours, f"/v1/orders/{ids[0]}/status")
        page, page_tag = _fetched(ours, LIST)
        (bodies / "status").write_bytes(status)
        (bodies / "list").write_bytes(page)
        paths = [f"/v1/orders/{order_id}/status" for order_id in ids]
        with baseline("benchmarks.bare", directory, str(bodies)) as bare:
            tried: dict[str, tuple[Subject, list[bytes]]] = {
                "status": (ours, [_get(path) for path in paths]),
                "bare_status": (bare, [_get("/status")]),
                "list": (ours, [_get(LIST)]),
                "bare_list": (bare, [_get("/list")]),
                "status_304": (ours, [_get(path, tag) for path in paths]),
                "list_304": (ours, [_get(LIST, page_tag)]),
                "bare_304": (bare, [_get("/unchanged")]),
            }
            found: dict[str, list[Answered]] = {name: [] for name in tried}
            for _ in range(rounds):
                for name, (subject, requests) in tried.items():
                    found[name].append(_load(subject, requests, name))
    return found


def _get(path: str, etag: str | None = None) -> bytes:
    if etag is None:
        return request("GET", path, ADMIN_TOKEN)
    return request("GET", path, ADMIN_TOKEN, If_None_Match=etag)


def _load(subject: Subject, requests: list[bytes], name: str) -> Answered:
    answered = subject.load(requests, ROUND_S)
    if set(answered.statuses) != {"304" if name.endswith("304") else "200"}:
        raise RuntimeError(f"{name} answered {answered.statuses}")
    return answered


def _fetched(subject: Subject, path: str) -> tuple[bytes, str]:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{subject.port}{path}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
    )
    with urllib.request.urlopen(asked) as response:
        return response.read(), response.headers["ETag"]
