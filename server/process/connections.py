"""One connection: aiohttp's protocol, with what it leaves open closed.

- What aiohttp refuses by itself is a problem document too.
- Thousands that send or end together are served by turns: some in each round of the event loop.
- The head of a request has a bound, and so has what comes behind a request that is not answered yet.
- An answer waits until its reader has taken it, and who does not read is cut off.
- A caller that has sent all it will send is still answered, for a moment.
- What has been understood before and is in memory is answered before it is parsed: `server/http/hot_path.py`.

Relies on the pinned aiohttp's internals (`_messages`, `_waiter`, the flags of paused reading): see
`tests/unit/test_connections.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.client_exceptions import ClientConnectionResetError
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from server.http.hot_path import HEAD_END, HotPath
from server.http.problems import HttpError, problem_response
from server.http.request import request_id_of
from server.process.turns import Turns

logger = logging.getLogger("facet.http")

READ_WINDOW_S = 20.0
READ_RATE_BYTES_MIN = 1024
"""A reader is cut off when it takes fewer bytes a second than this, averaged over the window, while an answer
waits for it."""
HALF_CLOSED_S = 1.0
"""How long a request may take whose sender has closed its half of the connection: it may wait for the answer,
or be gone."""
HEAD_BYTES_MAX = 32 << 10
"""A request line and its headers, all together."""
CHUNKING_BYTES_MAX = 64 << 10
"""What a body in chunks may have around its bytes, when that is more than they are: chunks of a byte or two
cost as much to read as large ones."""
SLICE_BYTES = 4 << 10
"""How much the parser is given at once, unless it is in a body of known length."""
PIPELINED_MAX = 4
"""Requests of one connection that wait for the answers before them; more are not read."""
HELD_BYTES_TOTAL = 4 << 20
"""What all connections together may have sent before it is their turn."""
READING = b"GH"
"""What GET and HEAD begin with."""
ANSWERS_BYTES = 64 << 10
"""How much is answered from memory at once; what is asked behind that goes the normal way, which waits for
its reader."""


class Connection(RequestHandler):
    __slots__ = (
        "_body",
        "_body_bytes",
        "_chunking_bytes",
        "_due_bytes",
        "_half_closed",
        "_head_bytes",
        "_held",
        "_hot_path",
        "_plain",
        "_unread",
        "_waits",
        "turns",
    )

    def __init__(self, turns: Turns, hot_path: HotPath | None, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.turns = turns
        self._hot_path = hot_path
        self._due_bytes: int | None = 0
        """How much is missing of the last request. None: unknown. 0: the next byte begins a request."""
        self._unread: asyncio.Task[None] | None = None
        self._plain: tuple[object, bytes] | None = None
        """The last request and its bytes, when they were a whole chunk without a body."""
        self._held = b""
        """What was sent and not parsed yet."""
        self._waits = False
        """For its turn to be parsed."""
        self._head_bytes = 0
        """Of a request whose head has not ended yet."""
        self._body: StreamReader | None = None
        """Of the last request that was begun, and its length, when it was announced."""
        self._body_bytes: int | None = None
        self._chunking_bytes = 0
        self._half_closed: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            # Whatever the kernel does not take at once is waited for: nothing unread is left at the end.
            self.transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if not data or self._upgraded:  # aiohttp asks itself to go on
            super().data_received(data)
            return
        small = len(data) <= SLICE_BYTES or len(data) <= self._slice_bytes()
        if small and not self._held and self.turns.may_parse():
            self._parse(data)
            return
        self._hold(self._held + data)
        self._pause_transport_reading()
        if self._may_go_on():
            self._wait_for_turn()
        elif self.turns.held_bytes > HELD_BYTES_TOTAL and self.transport is not None:
            self.transport.abort()  # it sends on and on, and is not even to be parsed

    def resume_reading(self, resume_parser: bool = True) -> None:
        """The handler has taken what there was of its body."""
        super().resume_reading(resume_parser)
        if self._held:
            self._pause_transport_reading()
            self._wait_for_turn()

    def _may_go_on(self) -> bool:
        """Whether more of what is held may be parsed: the body under way takes it, and not too many requests
        wait for their answers."""
        full = self._reading_paused or len(self._messages) >= PIPELINED_MAX
        return bool(self._held) and self.transport is not None and not full

    def _hold(self, data: bytes) -> None:
        self.turns.held_bytes += len(data) - len(self._held)
        self._held = data

    def _wait_for_turn(self) -> None:
        if not self._waits:
            self._waits = True
            self.turns.parse(self)

    def parse_slice(self) -> bool:
        """When it is its turn. Whether there is more."""
        if self._may_go_on():
            self._parse_some()
        self._waits = self._may_go_on()
        return self._waits

    def _parse_some(self) -> None:
        size = self._slice_bytes()
        piece = self._held[:size]
        self._hold(self._held[size:])
        self._parse(piece)
        if not self._held and not (self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def _slice_bytes(self) -> int:
        """How much the parser may see now: a body of known length at once, anything else by slices."""
        body = self._body
        if body is None or self._body_bytes is None or body.is_eof():
            return SLICE_BYTES
        return max(self._body_bytes - body.total_bytes, 1)

    def _parse(self, data: bytes) -> None:
        """Request by request, as far as it is known where each ends: one that cannot be read takes from none
        before it the answer."""
        hot_path = self._hot_path
        while data and (due := self._due_bytes) is not None:
            if due == 0:
                if hot_path is not None and not (data := self._answered(data, hot_path)):
                    return
                due = data.find(HEAD_END) + 4
                if due < 4:
                    break
            self._parse_some_of_one(data[:due])
            data = data[due:]
        if data:
            self._parse_some_of_one(data)

    def _answered(self, data: bytes, hot_path: HotPath) -> bytes:
        """Answer from memory, in order, the requests that are understood without the parser. Returns those
        that are not, and all that comes behind them."""
        waiter, paused, transport = self._waiter, self._paused, self.transport
        if (
            waiter is None  # a request is under way
            or waiter.done()  # or about to be, or the connection ends
            or paused
            or transport is None
            or transport.is_closing()
            or self._half_closed is not None
            or self._manager.leaving  # type: ignore[union-attr]
            or data[0] not in READING
        ):
            return data
        answers, size, line = [], 0, b""
        try:
            while size < ANSWERS_BYTES and (end := data.find(HEAD_END)) >= 0:
                line_end = data.find(b"\r\n")
                line = data[:line_end]
                answer = hot_path.answer(line, data[line_end : end + 4])
                if answer is None:
                    break
                answers.append(answer)
                size += len(answer)
                if not (data := data[end + 4 :]):
                    break
        except Exception:
            logger.exception("an answer from memory failed: the normal path answers")
            hot_path.drop(line)
        if answers:
            transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._paused and (self._unread is None or self._unread.done()):
                self._unread = self._loop.create_task(self._require_reading())
        return data

    async def _require_reading(self) -> None:
        """No handler waits for the reader of what was answered from memory."""
        with contextlib.suppress(ConnectionError):
            await self._drain_helper()
            if self._half_closed is not None and not (self._messages or self._held):
                self.close()

    def _parse_some_of_one(self, data: bytes) -> None:
        """As aiohttp does, and note how much of the last request is missing."""
        due, count = self._due_bytes, self._request_count
        self._plain = None
        self._parse_watched(data)
        if self._request_count == count:
            self._due_bytes = due - len(data) if due else None
            return
        self._due_bytes = None
        message, payload = self._messages[-1]
        if not data.endswith(HEAD_END) or self._upgraded or self._buffer_paused:
            return
        if payload is EMPTY_PAYLOAD and isinstance(message, RawRequestMessage):
            # The last request has no body, and a whole head stands at the end: nothing of another has begun.
            self._due_bytes = 0
            # The parser passes over empty lines before a request: nothing is learned of one behind them.
            if due == 0 and self._hot_path is not None and data[:1].isalpha():
                self._plain = (message, data)
        elif due == 0 and self._request_count == count + 1:
            self._due_bytes = self._body_bytes

    def plain_bytes(self, message: RawRequestMessage) -> bytes | None:
        """Those of the request that is being answered, when they were a whole chunk without a body, on a
        connection that stood at the beginning of a request. Told once."""
        plain, self._plain = self._plain, None
        return plain[1] if plain is not None and plain[0] is message else None

    def _parse_watched(self, data: bytes) -> None:
        count, body = self._request_count, self._body
        in_body = body is not None and not body.is_eof()
        taken = 0 if body is None else body.total_bytes
        super().data_received(data)
        if self._request_count > count:
            self._head_bytes = 0
            message, body = self._messages[-1]
            self._body, self._body_bytes, self._chunking_bytes = None, None, 0
            if body is not EMPTY_PAYLOAD:
                self._body, self._body_bytes = body, _length_of(message)
        elif body is not None and in_body and self._body_bytes is None:
            self._chunking_bytes += len(data) - (body.total_bytes - taken)
            if self._chunking_bytes > max(CHUNKING_BYTES_MAX, body.total_bytes):
                self._refuse_chunks(body)
        elif not in_body and not self._force_close and not self._close:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse_head()

    def _refuse_chunks(self, body: StreamReader) -> None:
        """The reader of the body gets an exception."""
        body.set_exception(web.RequestPayloadError("The chunks are too small."))
        self._lingering_time = 0  # there is no rest to be thrown away
        self._hold(b"")
        self._pause_transport_reading()

    def _refuse_head(self) -> None:
        """As if the parser had: one answer, and the end of the connection."""
        error = HttpProcessingError(code=431, message=f"Headers may have at most {HEAD_BYTES_MAX} bytes.")
        self._messages.append((_ErrInfo(status=431, exc=error, message=error.message), EMPTY_PAYLOAD))
        self._hold(b"")
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._pause_transport_reading()

    def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        if self.turns.may_begin():
            return super()._handle_request(request, start_time, request_handler)
        return self._handle_in_turn(request, start_time, request_handler)

    async def _handle_in_turn(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        await self.turns.begin()
        if self.transport is None:  # the connection was lost meanwhile
            raise ClientConnectionResetError("Connection lost")
        return await super()._handle_request(request, start_time, request_handler)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            if exc is not None:
                exc.__traceback__ = None  # its frames refer to the body, which refers to it: a cycle
            return _NoAnswer()
        detail = "This is not a request that can be read."
        if status == 431:
            detail = f"A request line and its headers may have at most {HEAD_BYTES_MAX} bytes."
        error: BaseException = HttpError(status, "malformed_request", detail)
        if status == 500:
            error = exc or RuntimeError(message)
        request_id = request_id_of(request)
        response = problem_response(error, request_id)
        response.headers["X-Request-Id"] = request_id
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(self._manager, Connections) and self._manager.leaving and not resp.prepared:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        self._plain = None
        if self._paused:
            await self._drain_helper()
        if self._may_go_on():
            self._wait_for_turn()
        if self._half_closed is not None and not (self._messages or self._held):
            self.close()
        return finished

    async def _drain_helper(self) -> None:
        """Whatever writes waits here while more is on its way to the reader than the transport holds. Raises
        ConnectionError when the connection is lost, or ended for want of a reader."""
        while self._paused:
            if self.transport is None:
                raise ClientConnectionResetError("Connection lost")
            if self._drain_waiter is None:
                self._drain_waiter = self._loop.create_future()
            unsent = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(READ_WINDOW_S):
                    await asyncio.shield(self._drain_waiter)
            except TimeoutError:
                self._require_reader(unsent)

    def _require_reader(self, unsent_before: int) -> None:
        """Raises ConnectionError when too little was read in a window."""
        if self.transport is None:
            raise ClientConnectionResetError("Connection lost")
        taken = unsent_before - self.transport.get_write_buffer_size()
        if taken < READ_RATE_BYTES_MIN * READ_WINDOW_S:
            self.transport.abort()
            raise ClientConnectionResetError("The answer is not read.")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The caller sends no more. True keeps the other half open."""
        if self.transport is None:
            return None
        if self._owes_answer():
            self._half_closed = self._loop.call_later(HALF_CLOSED_S, self._end)
        else:
            self.turns.end(self._end)
        return True

    def _owes_answer(self) -> bool:
        """Whether a request is here in full, and its answer is not on its way in full."""
        request = self._current_request
        if request is not None and not request.content.is_eof():
            return False  # its body will never be complete
        waits = self._waiter is not None and not self._waiter.done()
        return bool(self._messages or self._held) or self._paused or not waits

    def _end(self) -> None:
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._half_closed is not None:
            self._half_closed.cancel()
        self.turns.end(lambda: self._lost(exc))

    def _lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._hold(b"")
        self._body = self._half_closed = None  # they refer to the connection: no cycle is left to collect


class _NoAnswer(web.Response):
    """No answer: the caller is gone, or an answer has begun already."""

    async def prepare(self, request: web.BaseRequest) -> None:
        raise ConnectionResetError


def _length_of(message: object) -> int | None:
    """Of the request's body, when its head says so."""
    if not isinstance(message, RawRequestMessage) or message.chunked:
        return None
    length = message.headers.get("Content-Length")
    return None if length is None else int(length)


class Connections(web.Server):
    leaving = False
    """From now on each answer says that it is the last one on its connection."""

    def __init__(self, inner: web.Server, hot_path: HotPath | None = None) -> None:
        super().__init__(
            inner.request_handler,
            request_factory=inner.request_factory,
            loop=asyncio.get_running_loop(),
            **inner._kwargs,
        )
        self.turns = Turns()
        self._hot_path = hot_path

    def __call__(self) -> RequestHandler:
        return Connection(self.turns, self._hot_path, self, loop=self._loop, **self._kwargs)
