"""Prices of known models over HTTP: by hash against a cached status, by upload against a bare handler.

By hash: `GET /v1/models/{sha256}/price` against `GET /v1/orders/{id}/status`, both from memory, of the same
process. By upload: a binary STL of a million facets (50 MB) that the service knows, from the first byte sent
to the answer, against an aiohttp handler that receives and hashes the same bytes. Rounds are interleaved, a
ratio is the median of the rounds'; by processor time of the server process and by wall clock.
"""

import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import (
    ADMIN_TOKEN,
    Answered,
    Subject,
    baseline,
    cpu_s,
    facet,
    figures,
    machine,
    ratio,
)
from benchmarks.load import request
from benchmarks.orders import new_orders
from benchmarks.toruses import torus_stl

ROUNDS = 7
ROUND_S = 1.2
ORDERS = 200
FACETS = 1_000_000
SMALL_FACETS = 5_000
UPLOADS_EACH = 4
"""Uploads in a row of one subject: the system counts processor time in hundredths of a second."""
RECEIVE_BYTES = 1 << 16
PRICE = "/v1/prices?material=gold-585-yellow"


class Uploaded(NamedTuple):
    """One round, per upload."""

    cpu_s: float
    wall_s: float


def run(rounds: int = ROUNDS, facets: int = FACETS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name:
        directory = Path(name)
        with facet(directory) as ours:
            read = _by_hash(ours, rounds)
            with baseline("benchmarks.bare", directory) as bare:
                sent = _by_upload(ours, bare, torus_stl(facets), rounds)
    ratios = {
        "price_by_hash_of_status_by_cpu": ratio(read["price"], read["status"], "cpu_us"),
        "price_by_hash_of_status_by_requests_per_s": ratio(read["status"], read["price"], "per_s"),
        "unchanged_price_of_unchanged_status_by_cpu": ratio(read["price_304"], read["status_304"], "cpu_us"),
        "known_upload_of_bare_by_cpu": _ratio(sent, "cpu_s"),
        "known_upload_of_bare_by_wall_clock": _ratio(sent, "wall_s"),
    }
    shown = {
        f"{name}_upload_{field}": round(statistics.median(getattr(each, field) for each in uploads), 4)
        for name, uploads in sent.items()
        for field in Uploaded._fields
    }
    return {
        "name": "pricing_http",
        "rounds": rounds,
        "ratios": ratios,
        "figures": figures(read) | shown,
        "machine": machine(),
    }


def _by_hash(ours: Subject, rounds: int) -> dict[str, list[Answered]]:
    ids = new_orders(ours, ORDERS)
    with socket.create_connection(("127.0.0.1", ours.port)) as connection:
        priced = json.loads(_settled(connection, torus_stl(SMALL_FACETS)))
        path = f"/v1/models/{priced['model']['sha256']}/price?material=gold-585-yellow"
        paths = {"status": [f"/v1/orders/{order_id}/status" for order_id in ids], "price": [path]}
        tags = {kind: _tag(connection, some[0]) for kind, some in paths.items()}
    tried = {
        kind + suffix: [_get(path, tags[kind] if suffix else None) for path in some]
        for suffix in ("", "_304")
        for kind, some in paths.items()
    }
    found: dict[str, list[Answered]] = {name: [] for name in tried}
    for _ in range(rounds):
        for name, requests in tried.items():
            answered = ours.load(requests, ROUND_S)
            if set(answered.statuses) != {"304" if name.endswith("304") else "200"}:
                raise RuntimeError(f"{name} answered {answered.statuses}")
            found[name].append(answered)
    return found


def _get(path: str, etag: str | None) -> bytes:
    if etag is None:
        return request("GET", path, ADMIN_TOKEN)
    return request("GET", path, ADMIN_TOKEN, If_None_Match=etag)


def _by_upload(ours: Subject, bare: Subject, body: bytes, rounds: int) -> dict[str, list[Uploaded]]:
    found: dict[str, list[Uploaded]] = {"known": [], "bare": []}
    with (
        socket.create_connection(("127.0.0.1", ours.port)) as to_us,
        socket.create_connection(("127.0.0.1", bare.port)) as to_bare,
    ):
        _settled(to_us, body)
        for _ in range(rounds):
            found["bare"].append(_uploads(bare, to_bare, "/upload", body))
            found["known"].append(_uploads(ours, to_us, PRICE, body))
    return found


def _uploads(subject: Subject, connection: socket.socket, path: str, body: bytes) -> Uploaded:
    cpu_before_s, began_s = cpu_s(subject.process.pid), time.perf_counter()
    for _ in range(UPLOADS_EACH):
        sent(connection, path, body)
    wall_s = time.perf_counter() - began_s
    return Uploaded((cpu_s(subject.process.pid) - cpu_before_s) / UPLOADS_EACH, wall_s / UPLOADS_EACH)


def _ratio(sent: dict[str, list[Uploaded]], field: str) -> float:
    pairs = zip(sent["known"], sent["bare"], strict=True)
    ratios: list[float] = [getattr(ours, field) / getattr(bare, field) for ours, bare in pairs]
    return round(statistics.median(ratios), 2)


def _settled(connection: socket.socket, body: bytes) -> bytes:
    """The price of a new model once there is a second opinion: it comes in the background, and changes what
    is answered."""
    return sent(connection, PRICE, body, Prefer="wait=60")


def sent(connection: socket.socket, path: str, body: bytes, **headers: str) -> bytes:
    """The body of the answer to a POST."""
    connection.sendall(request("POST", path, ADMIN_TOKEN, b"", Content_Length=str(len(body)), **headers))
    connection.sendall(body)
    return _received(connection)[1]


def _tag(connection: socket.socket, path: str) -> str:
    connection.sendall(request("GET", path, ADMIN_TOKEN))
    head = _received(connection)[0]
    return next(line[6:].decode() for line in head.split(b"\r\n") if line.lower().startswith(b"etag: "))


def _received(connection: socket.socket) -> tuple[bytes, bytes]:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(
        int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += _more(connection)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(body[:500].decode("utf-8", "replace"))
    return head, body


def _more(connection: socket.socket) -> bytes:
    if not (chunk := connection.recv(RECEIVE_BYTES)):
        raise ConnectionError(f"the server closed the connection; process {os.getpid()}")
    return chunk
