"""One request as handlers see it: who asks, what was sent, and how to answer."""

import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import HttpVersion11, web
from multidict import MultiDict

from server.http.body import BODIES, RawBody, read_whole
from server.http.headers import (
    Preferences,
    announces_digest,
    echoed_position,
    if_match,
    if_none_match,
    preferences,
)
from server.http.json_body import convert, parse_json
from server.http.keys import STORAGE
from server.http.problems import HttpError
from server.http.query import Record, convert_query
from storage.errors import Invalid
from storage.log.entries import Position
from storage.orders.actors import Actor
from storage.services.idempotency import IdempotencyKey
from storage.services.orders import ChangeRequest
from storage.services.stack import Storage

JSON_BYTES_MAX = 64 << 10
"""A JSON body; an order with the longest texts has a quarter of it."""

LIST_BYTES_MAX = 256 << 10
"""A JSON body that is a list of 200, or a price list."""

CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
"""Of JSON. What is said to be in another one is not read as if it were in this."""

SMALL_BYTES = 4 << 10
"""A larger JSON body takes its turn."""

NO_FIELDS: Mapping[str, str] = {}

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")

_PROCESS = os.urandom(4).hex().encode()

_count = itertools.count(1)


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's own id when it is a plain one, else a new one."""
    given = request.headers.get("X-Request-Id")
    if given is not None and _REQUEST_ID.match(given):
        return given
    return new_request_id().decode()


def new_request_id() -> bytes:
    return b"%b-%d" % (_PROCESS, next(_count))


async def invite_body(request: web.Request) -> None:
    """Tell a caller that waits with its body (`Expect: 100-continue`) to send it."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # nothing of the answer itself was sent yet


class Call:
    """A request with its actor. `raw`: the body once it has been read. `as_of`: how far this process had
    followed the log when the handler began. `disconnected`: it cannot say whether that is the newest."""

    __slots__ = (
        "actor",
        "as_of",
        "body_bytes_max",
        "disconnected",
        "raw",
        "request",
        "request_id",
        "storage",
    )

    def __init__(
        self, request: web.Request, actor: Actor, request_id: str, body_bytes_max: int = JSON_BYTES_MAX
    ) -> None:
        self.request = request
        self.actor = actor
        self.request_id = request_id
        self.body_bytes_max = body_bytes_max
        self.storage: Storage = request.app[STORAGE]
        self.raw = b""
        self.disconnected = False
        self.as_of = (0, 0)

    async def document(self) -> Any:
        """Any JSON body. Raises HttpError 413, 415, 408 or MalformedJson."""
        self.raw = await self._read()
        content_type = self.request.content_type
        charset = (self.request.charset or "utf-8").lower()
        if charset not in CHARSETS or (
            content_type != "application/json" and not content_type.endswith("+json")
        ):
            raise HttpError(
                415,
                "unsupported_media_type",
                f"Send JSON in UTF-8 with Content-Type: application/json, not {content_type}.",
            )
        return parse_json(self.raw)

    async def body(self, record: type[Record], *, optional: bool = False) -> Record:
        """The JSON body as a record. Raises HttpError 413, 415, 408, MalformedJson or Invalid."""
        if optional and not self.request.body_exists:
            return convert({}, record)
        return convert(await self.document(), record)

    def query(
        self,
        record: type[Record],
        fields: Mapping[str, str] = NO_FIELDS,
        leave_out: tuple[str, ...] = (),
    ) -> Record:
        """The query parameters, and the fields of a form, as a record. `leave_out`: what names of parameters
        begin with that are ignored. Raises Invalid with every error."""
        asked = self.request.query.items()
        given = MultiDict([*(item for item in asked if not item[0].startswith(leave_out)), *fields.items()])
        counts = Counter(name for name, _ in given.items())
        if len(counts) < len(given):
            raise Invalid(*((f"/{name}", "given twice") for name, count in counts.items() if count > 1))
        # Neither engine can hold or find this character in a text.
        if nul := [(f"/{name}", "contains the character U+0000") for name in given if "\0" in given[name]]:
            raise Invalid(*nul)
        return convert_query(given, record)

    def change(self, *, success: int = 200) -> ChangeRequest:
        """The conditions under which this request changes an order. After the body was read."""
        return ChangeRequest(
            actor=self.actor,
            if_match=if_match(self.request),
            if_none_match=if_none_match(self.request),
            keyed=self.keyed(self.raw),
            wait_for_database=self.preferences.wait_for_database,
            success=success,
        )

    def keyed(self, body: bytes) -> IdempotencyKey | None:
        """The request's Idempotency-Key; `body` is what tells it from another with the same key."""
        if (key := self.request.headers.get("Idempotency-Key")) is None:
            return None
        if not _KEY.match(key) or len(self.request.headers.getall("Idempotency-Key")) > 1:
            raise HttpError(
                400, "invalid_idempotency_key", "One Idempotency-Key, of 1 to 255 visible characters."
            )
        request = self.request
        scope = "\n".join((self.actor.token_id, request.method, request.path, key))
        digest = hashlib.sha256(request.query_string.encode() + b"\n" + body)
        return IdempotencyKey(
            scope=hashlib.sha256(scope.encode("utf-8", "surrogateescape")).hexdigest(),
            key=key,
            body_hash=digest.hexdigest(),
        )

    @property
    def preferences(self) -> Preferences:
        return preferences(self.request)

    @property
    def order_id(self) -> str:
        return self.named("id")

    def named(self, variable: str) -> str:
        """The id or hash in the path. Capitals in it mean the same (RFC 9562)."""
        return self.request.match_info[variable].lower()

    @property
    def flushed(self) -> Position:
        return Position(self.storage.change_log.epoch, self.storage.tail.flushed)

    def begins_at_once(self) -> bool:
        """Whether there is nothing to wait for, most often; else see `begin`."""
        if "Facet-Position" in self.request.headers or not self.storage.reads.fresh:
            return False
        tail = self.storage.tail
        self.as_of = (tail.epoch, tail.head)
        return True

    async def begin(self) -> None:
        """Waits a moment when the caller, or the log, is ahead of this process: nothing is decided or shown
        on an older state than the caller has seen. Raises Behind, HttpError 400."""
        reads = self.storage.reads
        # The header is looked for here: most requests have none, and this is on the way of all.
        if "Facet-Position" in self.request.headers and (echoed := echoed_position(self.request)) is not None:
            await reads.require_position(echoed)
        if not reads.fresh:
            self.disconnected = not await reads.in_step()
        self.as_of = (self.storage.tail.epoch, self.storage.tail.head)

    @property
    def position(self) -> str:
        """What `Facet-Position` says of an answer that the handler has not said it for."""
        return f"{self.as_of[0]}-{self.as_of[1]}"

    async def _read(self) -> bytes:
        request, bytes_max = self.request, self.body_bytes_max
        if (request.content_length or 0) > bytes_max:
            raise HttpError(413, "too_large", f"A body here may have at most {bytes_max} bytes.")
        if not request.body_exists and not announces_digest(request):
            return b""
        content, bodies = request.content, request.app[BODIES]
        if content.is_eof() and content.total_bytes <= SMALL_BYTES and not announces_digest(request):
            return content.read_nowait()  # all of it came with the head: there is nothing to wait for
        raw = await read_whole(RawBody(request, bodies), bytes_max, bodies)
        if len(raw) > SMALL_BYTES:
            await bodies.json_rounds.turn(len(raw))
        return raw
