"""Multipart forms: read part by part, at the pace and within the size of bodies. What is not documented is
refused before anything is done with the rest."""

import contextlib
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from aiohttp.helpers import parse_mimetype
from multipart import MultipartError, MultipartSegment, ParserError, PushMultipartParser

from server.http.body import Bodies, RawBody, read_whole
from server.http.problems import HttpError
from server.http.request import CHARSETS
from server.uploads.receiving import FRAMING_BYTES_MAX
from storage.errors import Invalid

MODEL = "model"
"""The field that is the file."""

PARTS_MAX = 20

FIELD_BYTES_MAX = 8 << 10
"""A field other than the file; the longest is `stones`."""

HEADER_BYTES_MAX = 4 << 10
"""A line of a part's head."""

HEADERS_MAX = 8

BOUNDARY_LENGTH_MAX = 70
"""RFC 2046."""

_QUOTED = re.compile(r'"[^"]*"')

_NAME = re.compile(r"(?:^|;)\s*name\s*=", re.IGNORECASE)

PLAIN_ENCODINGS = ("binary", "8bit", "7bit")


class _FormParser(PushMultipartParser):  # type: ignore[misc]
    """Without what two readers could understand differently, or would pass over: folded headers, anything
    before the first boundary or behind the last. Relies on the pinned library's internals."""

    def _on_segment_headerline(self, line: bytes) -> None:
        if line[:1] in (b" ", b"\t"):
            raise ParserError("a header is folded")
        super()._on_segment_headerline(line)

    def require_nothing_behind(self) -> None:
        if self._buffer.strip(b"\r\n \t"):
            raise ParserError("something stands behind the last boundary")


class Part:
    """One part of a form, as a source of bytes. It is read to its end before the next one is asked for."""

    def __init__(self, parts: "FormParts", segment: MultipartSegment) -> None:
        self._parts = parts
        self._segment = segment
        self.name = str(segment.name)
        self._require_once()
        self.content_type: str | None = segment.header("Content-Type")

    @property
    def is_missing_file(self) -> bool:
        """As a browser sends a form in which no file was chosen."""
        return bool(self._segment.filename == "" and self._segment.bytes_received == 0)

    async def read_chunk(self) -> bytes:
        """Raises HttpError 400, 408, 413."""
        return await self._parts.read_chunk()

    async def text(self) -> str:
        """All of a small part. Raises HttpError 413, Invalid."""
        what = f"The field {self.name[:40]!r}"
        raw = await read_whole(self, FIELD_BYTES_MAX, self._parts.bodies, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Invalid((f"/{self.name}", "not UTF-8")) from None

    def _require_once(self) -> None:
        """Raises HttpError 400 for a head that says two things of one."""
        names = [name for name, _ in self._segment.headerlist]
        disposition = _QUOTED.sub("", self._segment.header("Content-Disposition", ""))
        if len(set(names)) < len(names) or len(_NAME.findall(disposition)) > 1:
            raise HttpError(400, "malformed_multipart", "A part repeats a header, or has more than one name.")

    def require_plain(self) -> None:
        """Raises HttpError 415 for what was encoded on its way."""
        content = self._segment.header("Content-Encoding", "identity")
        transfer = self._segment.header("Content-Transfer-Encoding", "binary")
        charset = "utf-8" if self.name == MODEL else (self._segment.charset or "utf-8")
        encoded = content.lower() != "identity" or transfer.lower() not in PLAIN_ENCODINGS
        if encoded or charset.lower() not in CHARSETS:
            raise HttpError(
                415, "content_encoding_unsupported", "Send files as they are, and texts in UTF-8."
            )


class FormParts:
    """The parts of a multipart body, one after the other."""

    def __init__(self, request: web.Request, bodies: Bodies) -> None:
        """Raises HttpError 400."""
        self.bodies = bodies
        self._source = RawBody(request, bodies)
        self._events: deque[Any] = deque()
        self._bytes = self._file_bytes = 0
        self._in_file = False
        with _reading():
            boundary = _boundary(request)
            self._begins_with = f"--{boundary}".encode()
            self._begin = b""
            self._parser = _FormParser(
                boundary,
                max_header_size=HEADER_BYTES_MAX,
                max_header_count=HEADERS_MAX,
                max_segment_count=PARTS_MAX,
            )

    async def next(self) -> Part | None:
        """The next part; None behind the last. Raises HttpError 400, 408, 413, 422."""
        event = await self._event()
        return None if event is None else Part(self, event)

    async def read_chunk(self) -> bytes:
        """Some bytes of the part that was begun; none at its end."""
        return await self._event() or b""

    async def _event(self) -> Any:
        """A part's head, some of its bytes, or None at its end and at that of the body."""
        while not self._events:
            chunk = await self._source.read_chunk()
            if not chunk and self._parser.closed:
                return None
            self._bytes += len(chunk)
            self._parse(chunk)
        return self._events.popleft()

    def _parse(self, chunk: bytes) -> None:
        with _reading():
            if len(self._begin) < len(self._begins_with):
                self._require_begin(chunk)
            if not chunk:
                self._parser.require_nothing_behind()
                self._parser.close()
            elif not self._parser.closed:
                for event in self._parser.parse(chunk):
                    self._take(event)
        if self._bytes - self._file_bytes > FRAMING_BYTES_MAX:
            raise HttpError(
                413, "too_large", f"Around its file a form has at most {FRAMING_BYTES_MAX} bytes."
            )

    def _require_begin(self, chunk: bytes) -> None:
        """A line end may stand before the first boundary, nothing else."""
        self._begin = (self._begin + chunk[: len(self._begins_with) + 2]).lstrip(b"\r\n")
        size = min(len(self._begin), len(self._begins_with))
        if self._begin[:size] != self._begins_with[:size]:
            raise ParserError("it does not begin with its boundary")

    def _take(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._in_file = event.name == MODEL
        elif event is not None and self._in_file:
            self._file_bytes += len(event)
        self._events.append(bytes(event) if isinstance(event, bytearray) else event)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except MultipartError as error:
        reason = " ".join(str(error).split())[:200]
        raise HttpError(400, "malformed_multipart", f"The multipart body cannot be read: {reason}.") from None


def _boundary(request: web.Request) -> str:
    boundary = parse_mimetype(request.headers["Content-Type"]).parameters.get("boundary", "")
    if not boundary.isascii() or not 0 < len(boundary) <= BOUNDARY_LENGTH_MAX:
        raise HttpError(400, "malformed_multipart", "The Content-Type names no boundary, or one too long.")
    return boundary
