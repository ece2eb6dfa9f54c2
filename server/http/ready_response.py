"""Answers that leave in one write: the head is assembled here, next to a body that is ready.

aiohttp's own response serves every case and costs accordingly; most answers here are a few headers and some
bytes. What is not such a case goes its way. Relies on the pinned aiohttp's internals:
`tests/unit/test_ready_response.py` compares both, byte for byte but for `Server`.
"""

from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_BODILESS = frozenset({204, 304})


class ReadyResponse(web.Response):
    """A response with its whole body. Headers and body leave together.

    `text_bytes`: of a text, how long it is, or would be if its reader had not got it already."""

    text_bytes = 0

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self.prepared or self._cookies or request.version != HttpVersion11:
            return await super().prepare(request)
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        self._keep_alive = keep_alive
        body = self._body if isinstance(self._body, bytes) else b""
        bodiless = self.status in _BODILESS or (request.method == "HEAD" and not body)
        head = self._head(None if bodiless else len(body), keep_alive)
        writer = request._payload_writer
        data = head if request.method == "HEAD" or bodiless else head + body
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The connection is closing.")
        transport.write(data)
        writer.output_size += len(data)
        self._body_length = len(data)
        self._eof_sent = True
        return None

    def _head(self, length: int | None, keep_alive: bool) -> bytes:
        lines = [_STATUS_LINES[self.status]]
        for name, value in self._headers.items():
            if "\n" in value or "\r" in value:
                raise ValueError(f"a line end in the header {name}")
            lines.append(f"{name}: {value}\r\n")
        if length is not None:
            lines.append(f"Content-Length: {length}\r\n")
        if not keep_alive:
            lines.append("Connection: close\r\n")
        lines.append(f"Date: {rfc822_formatted_time()}\r\n\r\n")
        return "".join(lines).encode()
