"""Those who upload large models, and those who ask for an order meanwhile: two processes of their own.

`python -m benchmarks.upload_clients send PORT FILE` sends from a line `start` on standard input to a line
`stop`, which it answers, once all uploads under way are answered, with a line of JSON. The FILE is a binary
STL; its free header makes each upload a model nobody has seen. `python -m benchmarks.upload_clients ask PORT
PATH` asks for so many seconds as each line says, and answers with the times it took, as JSON.

Both are paced: by what a network brings, and by what a workshop asks. A sender that is faster than any
network would measure how well the machine shares its cores among strangers.
"""

import asyncio
import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.harness import ADMIN_TOKEN
from benchmarks.load import HEAD_END, request

SENDERS = 20
NETWORK_BYTES_S = 125_000_000
"""A gigabit a second, shared by all senders."""
PIECE_BYTES = 1 << 16
SENDER_NICENESS = 10
"""On other machines, senders would not take the server's processor at all."""
HEADER_BYTES = 80
ASKERS = 4
ASKED_PER_S = 200
"""By all askers together."""
ANSWER_BYTES = 1 << 16


class Senders:
    def __init__(self, port: int, model: bytes) -> None:
        self._port = port
        self._rest = memoryview(model)[HEADER_BYTES:]
        self._going = False
        self._sent = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._began_s = 0.0
        self.statuses: Counter[str] = Counter()

    def start(self) -> None:
        self._going, self._began_s = True, time.perf_counter()
        self.statuses.clear()
        self._tasks = [asyncio.create_task(self._send_on(number)) for number in range(SENDERS)]

    async def stop(self) -> dict[str, Any]:
        """What was sent and how it was answered."""
        self._going = False
        await asyncio.gather(*self._tasks)
        return {"statuses": self.statuses, "seconds": time.perf_counter() - self._began_s}

    async def _send_on(self, number: int) -> None:
        # Not all at once: they would go on in step.
        await asyncio.sleep(number * self._piece_s / SENDERS)
        async with connected(self._port) as connection:
            while self._going:
                self.statuses[await self._send(connection)] += 1

    async def _send(self, connection: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        self._sent += 1
        header = f"benchmark {os.getpid()} {self._sent}".encode().ljust(HEADER_BYTES)
        length = str(HEADER_BYTES + len(self._rest))
        path = "/v1/prices?material=gold-585-yellow"
        head = request("POST", path, ADMIN_TOKEN, Content_Length=length, Content_Type="model/stl")
        await loop.sock_sendall(connection, head + header)
        due_s = time.perf_counter()
        for begin in range(0, len(self._rest), PIECE_BYTES):
            await loop.sock_sendall(connection, self._rest[begin : begin + PIECE_BYTES])
            due_s = max(due_s + self._piece_s, time.perf_counter() - self._piece_s)
            await asyncio.sleep(due_s - time.perf_counter())
        return await status_of_answer(connection)

    @property
    def _piece_s(self) -> float:
        return PIECE_BYTES * SENDERS / NETWORK_BYTES_S


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


async def status_of_answer(connection: socket.socket) -> str:
    """The status of the next answer, once all of it is here."""
    loop, answer = asyncio.get_running_loop(), b""
    while (end := answer.find(HEAD_END)) < 0 or len(answer) < end + len(HEAD_END) + _length(answer[:end]):
        if not (received := await loop.sock_recv(connection, ANSWER_BYTES)):
            raise ConnectionError(f"closed after {answer!r}")
        answer += received
    return answer[9:12].decode()


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))


async def ask(port: int, path: str, seconds: float) -> dict[str, Any]:
    taken_s: list[float] = []
    asked = request("GET", path, ADMIN_TOKEN)

    async def ask_on(number: int) -> None:
        loop, pause_s = asyncio.get_running_loop(), ASKERS / ASKED_PER_S
        await asyncio.sleep(number * pause_s / ASKERS)
        async with connected(port) as connection:
            due_s = time.perf_counter()
            until_s = due_s + seconds
            while due_s < until_s:
                began_s = time.perf_counter()
                await loop.sock_sendall(connection, asked)
                if (status := await status_of_answer(connection)) != "200":
                    raise RuntimeError(f"{path} was answered {status}")
                taken_s.append(time.perf_counter() - began_s)
                due_s = max(due_s + pause_s, time.perf_counter())
                await asyncio.sleep(due_s - time.perf_counter())

    await asyncio.gather(*(ask_on(number) for number in range(ASKERS)))
    taken_s.sort()
    return {
        "count": len(taken_s),
        "p50_ms": statistics.median(taken_s) * 1000,
        "p99_ms": taken_s[int(len(taken_s) * 0.99)] * 1000,
        "max_ms": taken_s[-1] * 1000,
    }


async def main(kind: str, port: int, subject: str) -> None:
    senders = None
    if kind == "send":
        os.nice(SENDER_NICENESS)
        senders = Senders(port, Path(subject).read_bytes())
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if senders is None:
            print(json.dumps(await ask(port, subject, float(line))), flush=True)
        elif line == "start":
            senders.start()
        else:
            print(json.dumps(await senders.stop()), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
