"""Every cached answer against a bare aiohttp handler of as many bytes, and nginx's static file where it is.

`facet bench http [CHECKOUT]`. By the server's processor time per request; all in turns in each round, a
ratio is the median of the rounds'. Beside the plain requests: a new request id each time, a position that
moves, the headers of a browser, and 200 keyed changes a second, whose cost is counted in. With another
checkout: what is not answered from memory, against that release.
"""

import contextlib
import hashlib
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.harness import (
    ADMIN_TOKEN,
    START_S,
    Answered,
    Subject,
    baseline,
    facet,
    figures,
    machine,
    ratio,
)
from benchmarks.load import request
from benchmarks.orders import new_orders
from benchmarks.pricing_http import PRICE, sent
from benchmarks.toruses import torus_stl

ROUNDS = 5
ROUND_S = 1.0
ORDERS = 200
FACETS = 5_000
DISTINCT = 20_000
"""Requests that differ in one header, each sent once."""
CHANGES_A_SECOND = 200
REMARK = b'{"comment":"another"}'
LIST = "/v1/orders?status=FILE_UPLOADED&limit=50"
BROWSER = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Accept-Language": "ru-RU,ru;q=0.9,en;q=0.8",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Referer": "http://127.0.0.1/orders",
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-origin",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36",
    "DNT": "1",
    "Connection": "keep-alive",
}

Tried = dict[str, tuple[Subject, list[bytes]]]


def run(checkout: Path | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """Raises FileNotFoundError for a folder that is no checkout."""
    if checkout is not None and not (checkout / "server" / "app.py").is_file():
        raise FileNotFoundError(f"{checkout} is no checkout of Facet")
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        ours = stack.enter_context(facet(directory))
        ids = new_orders(ours, ORDERS)
        cached = _cached(ours, ids)
        files = _written(ours, directory / "bodies", cached)
        bare = stack.enter_context(baseline("benchmarks.bare", directory, str(files)))
        tried: Tried = {**_ours(ours, ids, cached), **_theirs("bare", bare, files)}
        if (nginx := shutil.which("nginx")) is not None:
            tried |= _theirs("nginx", stack.enter_context(_static(nginx, directory, files)), files)
        if checkout is not None:
            other = stack.enter_context(facet(directory, "other", checkout.resolve()))
            others = new_orders(other, ORDERS)
            _cached(other, others)  # both have the same to look after
            left = _left(ours, ids[0], ""), _left(other, others[0], "_other")
            tried |= dict(
                pair for pairs in zip(*(each.items() for each in left), strict=True) for pair in pairs
            )
        changed = ids[ORDERS // 2 :], ids[: ORDERS // 2]  # the oldest change: the list shows the newest
        found = _rounds(tried, rounds, ours, changed)
    return {
        "name": "http",
        "rounds": rounds,
        "ratios": _ratios(found),
        "figures": figures(found),
        "machine": machine(),
    }


def _cached(ours: Subject, ids: list[str]) -> dict[str, str]:
    """What is asked for, by name."""
    with socket.create_connection(("127.0.0.1", ours.port)) as connection:
        sent(connection, PRICE, torus_stl(FACETS), Prefer="wait=60")
    sha256 = hashlib.sha256(torus_stl(FACETS)).hexdigest()
    return {
        "status": f"/v1/orders/{ids[-1]}/status",
        "order": f"/v1/orders/{ids[-1]}",
        "list": LIST,
        "counts": "/v1/orders/counts",
        "price": f"/v1/models/{sha256}/price?material=gold-585-yellow",
    }


def _written(ours: Subject, folder: Path, cached: dict[str, str]) -> Path:
    """The same bytes as files, for others to serve."""
    folder.mkdir()
    for name, path in cached.items():
        (folder / name).write_bytes(_fetched(ours.port, path)[0])
    return folder


def _fetched(port: int, path: str) -> tuple[bytes, str]:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
    )
    with urllib.request.urlopen(asked) as response:
        return response.read(), response.headers.get("ETag") or ""


def _get(path: str, **headers: str) -> bytes:
    return request("GET", path, ADMIN_TOKEN, b"", **headers)


def _ours(ours: Subject, ids: list[str], cached: dict[str, str]) -> Tried:
    statuses = [f"/v1/orders/{order_id}/status" for order_id in ids]
    tags = {name: _fetched(ours.port, path)[1] for name, path in cached.items()}
    asked = {name: [_get(path)] for name, path in cached.items()} | {"status": [*map(_get, statuses)]}
    asked |= {
        f"{name}_304": [_get(path, If_None_Match=tags[name])] for name, path in cached.items() if tags[name]
    }
    turn = itertools.cycle(statuses)
    asked["status_new_id"] = [_get(next(turn), X_Request_Id=uuid4().hex) for _ in range(DISTINCT)]
    asked["status_browser"] = [
        request("GET", path, ADMIN_TOKEN, b"", **{name.replace("-", "_"): BROWSER[name] for name in BROWSER})
        for path in statuses
    ]
    # The position of an older answer, another one in each request.
    asked["status_moving_304"] = [
        _get(cached["status"], Facet_Position=f"1-{n % 150}", If_None_Match=tags["status"])
        for n in range(DISTINCT)
    ]
    return {name: (ours, requests) for name, requests in asked.items()}


def _theirs(name: str, subject: Subject, files: Path) -> Tried:
    """The same files from another server."""
    tried = {f"{name}_{file.name}": (subject, [_get(f"/{file.name}")]) for file in sorted(files.iterdir())}
    if name == "bare":
        tried["bare_304"] = (subject, [_get("/unchanged")])
    else:
        tag = _fetched(subject.port, "/status")[1]
        tried[f"{name}_304"] = (subject, [_get("/status", If_None_Match=tag)])
    return tried


def _left(subject: Subject, order_id: str, suffix: str) -> Tried:
    """What the normal path answers."""
    return {
        f"me{suffix}": (subject, [_get("/v1/me")]),
        f"history{suffix}": (subject, [_get(f"/v1/orders/{order_id}/history")]),
        f"unknown{suffix}": (subject, [_get("/v1/orders/nothing/status")]),
    }


def _rounds(
    tried: Tried, rounds: int, ours: Subject, changed: tuple[list[str], list[str]]
) -> dict[str, list[Answered]]:
    found: dict[str, list[Answered]] = {name: [] for name in (*tried, "status_under_changes")}
    polled = [_get(f"/v1/orders/{order_id}/status") for order_id in changed[0]]
    for _ in range(rounds):
        for name, (subject, requests) in tried.items():
            found[name].append(_load(subject, requests, name))
        with changing(ours, changed[1]):
            found["status_under_changes"].append(_load(ours, polled, "status"))
    return found


def _load(subject: Subject, requests: list[bytes], name: str) -> Answered:
    answered = subject.load(requests, ROUND_S, repeat=len(requests) < DISTINCT)
    expected = "404" if name.startswith("unknown") else "304" if name.endswith("304") else "200"
    if set(answered.statuses) != {expected}:
        raise RuntimeError(f"{name} answered {answered.statuses}")
    return answered


@contextlib.contextmanager
def changing(ours: Subject, ids: list[str]) -> Iterator[None]:
    """So many keyed changes a second, of other orders, by a caller that waits for each."""
    over = threading.Event()

    def change() -> None:
        turn, due_s = itertools.cycle(ids), time.perf_counter()
        with socket.create_connection(("127.0.0.1", ours.port)) as connection:
            while not over.wait(max(due_s - time.perf_counter(), 0)):
                due_s += 1 / CHANGES_A_SECOND
                path, key = f"/v1/orders/{next(turn)}/comments", str(uuid4())
                connection.sendall(request("POST", path, ADMIN_TOKEN, REMARK, Idempotency_Key=key))
                if not connection.recv(1 << 16).startswith(b"HTTP/1.1 201 "):
                    raise RuntimeError("a change was refused")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _static(nginx: str, directory: Path, files: Path) -> Iterator[Subject]:
    """nginx as one process on the servers' core, serving these files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n"
        f" server {{ listen 127.0.0.1:{port}; root {files}; default_type application/json; }} }}\n"
    )
    start = "import os; from benchmarks.load import pin; pin(0); os.execv"
    words = [nginx, "-p", str(directory), "-c", str(configuration)]
    process = subprocess.Popen([sys.executable, "-c", f"{start}({nginx!r}, {words!r})"], text=True)
    deadline_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        if time.monotonic() > deadline_s or process.poll() is not None:
            raise RuntimeError("nginx did not start")
        time.sleep(0.02)
    subject = Subject(process, port, directory)
    try:
        yield subject
    finally:
        subject.close()


def _ratios(found: dict[str, list[Answered]]) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for name in found:
        kind = name.partition("_")[0]
        if f"bare_{kind}" not in found or kind == "bare":
            continue
        for other in ("bare", "nginx"):
            against = f"{other}_304" if name.endswith("304") else f"{other}_{kind}"
            if against in found:
                # Of the bare handler: how many times as cheap. Of nginx: how many times as dear.
                over, under = (against, name) if other == "bare" else (name, against)
                ratios[f"{name}_of_{other}_by_cpu"] = ratio(found[over], found[under], "cpu_us")
    for name in ("me", "history", "unknown"):
        if f"{name}_other" in found:
            ratios[f"{name}_of_other_release_by_cpu"] = ratio(found[f"{name}_other"], found[name], "cpu_us")
    return ratios
