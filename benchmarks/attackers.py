"""One client that sends what hurts, in a process of its own: `python -m benchmarks.attackers PORT [KIND...]`.
It begins with a line `start` on standard input and answers a line `stop` with a line of JSON: how often each
kind was sent, and how it was answered.

- Bodies as large as they may be, and larger, with as many values, errors and unknown fields as there is room
  for.
- Readers that ask over and over on a connection and never read an answer, with a token and without.
- Forms whose first part never comes, thousands at once; and others that drip, a byte at a time.
- Bodies that stop before their end, heads that are long and do not end, and bodies in chunks of one byte.
"""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import uvloop

from benchmarks.harness import ADMIN_TOKEN
from benchmarks.load import request
from benchmarks.upload_clients import SENDER_NICENESS, connected, status_of_answer

BODIES_AT_ONCE = 4
READERS = 20
WINDOW_BYTES = 4096
"""What the kernel takes for a reader that does not read."""
PIPELINED = 1_000
SILENT = 3_000
DRIPS = 16
DRIP_PAUSE_S = 0.001
UNFINISHED = 400
LONG_HEADS = 100
CHUNKED = 20
RESTED_S = 2.0
"""Between two attempts of one attacker that was cut off: as it is told to wait."""
LIST = "/v1/price-batches"


def bodies() -> list[tuple[str, bytes]]:
    """Path and body of each."""
    wide = b",".join(b'"a%d":1' % number for number in range(16_000))
    row = {"model": "a" * 64, "material": "m" * 40, "finish": "f" * 40, "stones": "s:1," * 224 + "s:1"}
    rows = json.dumps({"items": [row] * 200}).encode()
    errors = json.dumps({"items": [{f"a{number}": 1 for number in range(75)}] * 200}).encode()
    materials = json.dumps({"materials": [{f"a{number}": 1 for number in range(75)}] * 200}).encode()
    return [
        (LIST, b'{"items":[' + b",".join([b"{}"] * 349_000) + b"]}"),
        (LIST, b'{"items":[' + b",".join([b"{}"] * 87_000) + b"]}"),
        (LIST, b'{"items":[' + b",".join([b"{}"] * 8_000) + b"]}"),
        (LIST, b'{"items":[' + b",".join([b"1"] * 16_000) + b"]}"),
        (LIST, b'{"items":[{' + wide + b"}]}"),
        (LIST, rows),
        (LIST, errors),
        ("/v1/price-lists", b"{" + wide + b"}"),
        ("/v1/price-lists", materials),
        ("/v1/orders", b'{"customer":"' + b"\\u0430" * 10_000 + b'"}'),
        ("/v1/orders", b"[" * 16_000 + b"]" * 16_000),
    ]


class Attackers:
    def __init__(self, port: int, kinds: Collection[str]) -> None:
        self._port = port
        self._kinds = kinds
        self._bodies = bodies()
        self._tasks: list[asyncio.Task[None]] = []
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        page = request("GET", "/v1/orders?limit=100", ADMIN_TOKEN)
        nowhere = request("GET", "/nowhere", "")
        attacks: dict[str, Sequence[Callable[[], Awaitable[None]]]] = {
            "bodies": [self._send_bodies] * BODIES_AT_ONCE,
            "readers": [lambda: self._never_read("pages", page)] * READERS
            + [lambda: self._never_read("nowhere", nowhere)] * READERS,
            "silent": [self._stay_silent] * SILENT,
            "drips": [self._drip] * DRIPS,
            "unfinished": [self._leave_unfinished] * UNFINISHED,
            "heads": [self._send_long_head] * LONG_HEADS,
            "chunks": [self._send_tiny_chunks] * CHUNKED,
        }
        chosen = [attack for kind in self._kinds or attacks for attack in attacks[kind]]
        self._tasks = [asyncio.create_task(self._again(attack)) for attack in chosen]

    async def stop(self) -> dict[str, Any]:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return dict(self.seen)

    async def _again(self, attack: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(ConnectionError, OSError):
                await attack()
            await asyncio.sleep(RESTED_S)

    async def _send_bodies(self) -> None:
        for path, body in self._bodies:
            async with connected(self._port) as connection:
                length = str(len(body))
                head = request(
                    "POST", path, ADMIN_TOKEN, Content_Type="application/json", Content_Length=length
                )
                with contextlib.suppress(ConnectionError):  # of a body that is not read to its end
                    await asyncio.get_running_loop().sock_sendall(connection, head + body)
                with contextlib.suppress(ConnectionError):
                    self.seen[f"bodies_{await status_of_answer(connection)}"] += 1

    async def _never_read(self, kind: str, asked: bytes) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
            connection.connect(("127.0.0.1", self._port))
            connection.setblocking(False)
            self.seen[f"readers_of_{kind}"] += 1
            while True:
                await asyncio.get_running_loop().sock_sendall(connection, asked * PIPELINED)

    async def _stay_silent(self) -> None:
        async with connected(self._port) as connection:
            self.seen["silent_forms"] += 1
            await asyncio.get_running_loop().sock_sendall(connection, self._form() + b"--ed")
            self.seen[f"silent_forms_{await status_of_answer(connection)}"] += 1

    async def _drip(self) -> None:
        async with connected(self._port) as connection:
            loop = asyncio.get_running_loop()
            self.seen["drips"] += 1
            await loop.sock_sendall(connection, self._form() + b"--edge\r\nX: ")
            while True:
                await loop.sock_sendall(connection, b"x")
                await asyncio.sleep(DRIP_PAUSE_S)

    async def _leave_unfinished(self) -> None:
        length = 256 << 10
        head = request("POST", LIST, ADMIN_TOKEN, Content_Type="application/json", Content_Length=str(length))
        async with connected(self._port) as connection:
            self.seen["unfinished"] += 1
            await asyncio.get_running_loop().sock_sendall(connection, head + b" " * (length - 1))
            self.seen[f"unfinished_{await status_of_answer(connection)}"] += 1

    async def _send_long_head(self) -> None:
        fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 8_000) for number in range(118))
        head = request("GET", "/livez", "").removesuffix(b"\r\n") + fields
        async with connected(self._port) as connection:
            self.seen["heads"] += 1
            await asyncio.get_running_loop().sock_sendall(connection, head)
            self.seen[f"heads_{await status_of_answer(connection)}"] += 1

    async def _send_tiny_chunks(self) -> None:
        head = request("POST", "/v1/models", ADMIN_TOKEN, Transfer_Encoding="chunked")
        async with connected(self._port) as connection:
            self.seen["chunked"] += 1
            await asyncio.get_running_loop().sock_sendall(connection, head)
            while True:
                await asyncio.get_running_loop().sock_sendall(connection, b"1\r\na\r\n" * 40_000)

    def _form(self) -> bytes:
        kind = "multipart/form-data; boundary=edge"
        return request("POST", "/v1/models", ADMIN_TOKEN, Content_Type=kind, Content_Length="1000000")


async def main(port: int, kinds: Collection[str]) -> None:
    os.nice(SENDER_NICENESS)
    attackers = Attackers(port, kinds)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "start":
            attackers.start()
        else:
            print(json.dumps(await attackers.stop()), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
