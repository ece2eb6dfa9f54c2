"""A lean load generator: keep-alive connections, requests built beforehand, answers barely looked at.

It must not be what limits the measurement: a raw uvloop protocol per connection, nothing else. Run as a
process of its own (`python -m benchmarks.load PORT CONNECTIONS CORE`), it reads commands from standard input:
a line of JSON `{"file": path, "seconds": s, "repeat": bool, "callers": n}`, where the file holds one request
per line (JSON strings), taken in turn by so many of the connections. It answers with a line of JSON: how many
answers of which status, in what time.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

HEAD_END = b"\r\n\r\n"


def request(method: str, path: str, token: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + HEAD_END + body


class Caller(asyncio.Protocol):
    """One connection with one request at a time under way."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._requests: Iterator[bytes] = iter(())
        self._until_s = 0.0
        self._began_s = 0.0
        self._buffer = b""
        self._missing = 0
        self._transport: asyncio.Transport
        self._done: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def run(self, requests: Iterator[bytes], until_s: float) -> "asyncio.Future[None]":
        self._requests, self._until_s = requests, until_s
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        return self._done

    def _next(self) -> None:
        now_s = time.perf_counter()
        following = next(self._requests, None) if now_s < self._until_s else None
        if following is None:
            self._done.set_result(None)
            return
        self._began_s = now_s
        self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._buffer += data
            head = self._buffer.find(HEAD_END)
            if head < 0:
                return
            self.statuses[self._buffer[9:12].decode()] += 1
            self._missing = head + 4 + _content_length(self._buffer, head) - len(self._buffer)
            self._buffer = b""
        if self._missing <= 0:
            self._missing = 0
            self.seconds.append(time.perf_counter() - self._began_s)
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("closed"))


def _content_length(buffer: bytes, head: int) -> int:
    at = buffer.find(b"Content-Length: ", 0, head)
    return 0 if at < 0 else int(buffer[at + 16 : buffer.find(b"\r\n", at)])


async def measure(port: int, connections: int) -> None:
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(Caller, "127.0.0.1", port) for _ in range(connections)]
    callers = [caller for _, caller in pairs]
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        requests = [json.loads(row).encode() for row in Path(command["file"]).read_text().splitlines()]
        turn = _endless(requests) if command["repeat"] else iter(requests)
        used = callers[: command["callers"]]
        print(json.dumps(await _round(used, turn, command["seconds"])), flush=True)


async def _round(callers: list[Caller], turn: Iterator[bytes], seconds: float) -> dict[str, Any]:
    for caller in callers:
        caller.statuses.clear()
        caller.seconds.clear()
    began_s = time.perf_counter()
    await asyncio.gather(*(caller.run(turn, began_s + seconds) for caller in callers))
    spent_s = time.perf_counter() - began_s
    taken_s = sorted(taken for caller in callers for taken in caller.seconds)
    statuses: Counter[str] = sum((caller.statuses for caller in callers), Counter())
    return {
        "count": len(taken_s),
        "seconds": spent_s,
        "statuses": dict(statuses),
        "p50_ms": statistics.median(taken_s) * 1000,
        "p99_ms": taken_s[int(len(taken_s) * 0.99)] * 1000,
    }


def _endless(requests: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from requests


def pin(core: int) -> None:
    """Onto one core, where the system allows that and has as many."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})


if __name__ == "__main__":
    port, connections, core = map(int, sys.argv[1:])
    pin(core)
    uvloop.run(measure(port, connections))
