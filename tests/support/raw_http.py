"""Requests written byte by byte, for what no client library would send."""

import asyncio
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.processes import ADMIN_TOKEN

DEADLINE_S = 15.0
AS_ADMIN = f"Authorization: Bearer {ADMIN_TOKEN}\r\n".encode()


class RawReply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(line: bytes, headers: bytes = b"", body: bytes = b"") -> bytes:
    """A request of an administrator, whose connection ends with the answer; `headers` end in CR LF each."""
    return line + b" HTTP/1.1\r\nHost: facet\r\nConnection: close\r\n" + AS_ADMIN + headers + b"\r\n" + body


async def sent(url: str, data: bytes, *, end: bool = False) -> RawReply | None:
    """The answer; None when the connection ends without one. `end`: no more comes from this side, as when a
    caller dies."""
    reader, writer = await _connected(url)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(data)
            if end:
                writer.write_eof()
            head = await reader.readuntil(b"\r\n\r\n")
            status, headers = parsed(head)
            return RawReply(status, headers, await reader.readexactly(int(headers["Content-Length"])))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()


async def abandoned(url: str, data: bytes) -> None:
    """The request is begun and its connection reset."""
    _, writer = await _connected(url)
    writer.write(data)
    await writer.drain()
    writer.transport.abort()


async def answered_before(url: str, data: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    """The first head that the service sends for a request whose body is held back."""
    reader, writer = await _connected(url)
    async with asyncio.timeout(DEADLINE_S):
        writer.write(data)
        return await reader.readuntil(b"\r\n\r\n"), reader, writer


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


def parsed(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines)
