"""Answers from memory to requests that have been understood before, ahead of aiohttp's parser.

Two thirds of what a cached answer costs are aiohttp's request, routing and response. A request whose bytes
the normal path has parsed, allowed and answered before means the same again: its header block says who asks,
its first line says what for. Both are learned from the normal path, never guessed, and what they refer to is
read anew each time. Who is in doubt goes the normal way: `answer` returns None, and nothing has happened.

Three headers may differ from one request to the next, when their values are plain: the request's id, what its
sender has already, and how new the answer must be.

Relies on the pinned aiohttp: a server refuses to start on another one, unless this is switched off.
`tests/service/test_hot_path.py` holds its answers against those of the normal path.
"""

import logging
import math
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy

from server.http.coding import CODED_BYTES_MAX, CODED_BYTES_MIN, CODINGS, CodedBodies, Coding, chosen
from server.http.request import new_request_id
from storage.cache.read_through import CacheStatus
from storage.orders.actors import Actor
from storage.services.stack import Storage

logger = logging.getLogger("facet.http")

AIOHTTP_VERSION = "3.14.5"
"""Tested against this one."""
BLOCKS_MAX = 2_000
"""Header blocks that are known, and as many ways in which their varying headers were filled in."""
BLOCK_BYTES_MAX = 2_048
LENGTHS_MAX = 16
"""Different lengths of what comes before the first value that varies: shapes are looked for by each."""
SHAPES_MAX = 8
"""Of one beginning; the oldest goes."""
LINES_MAX = 10_000
"""First lines that are known, of all callers together."""
LINE_BYTES_MAX = 1_024
SEEN_MAX = 8_192
"""What was seen once is learned at its second time: most of what comes once never comes again."""

HEAD_END = b"\r\n\r\n"

VARYING_NAMES = ("x-request-id", "if-none-match", "facet-position")
_VARYING = re.compile(rb"\r\n(%b): ([^\r\n]*)(?=\r\n)" % "|".join(VARYING_NAMES).encode(), re.IGNORECASE)
_PLAIN_VALUES = (
    re.compile(rb"[A-Za-z0-9._:-]{1,64}"),
    re.compile(rb'(?:W/)?"[A-Za-z0-9_.+/=]{0,64}(?:-(?:%b))?"' % "|".join(c.name for c in CODINGS).encode()),
    re.compile(rb"[0-9]{1,18}-[0-9]{1,18}"),
)
"""Values that need no second look."""

MEANINGFUL = frozenset(
    {
        "content-digest",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "if-match",
        "if-modified-since",
        "if-range",
        "if-unmodified-since",
        "prefer",
        "range",
        "repr-digest",
        "sec-websocket-key",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that change what a request means, or how it is framed: such a request is never learned."""
MEANINGFUL_NAMES = frozenset(name.encode() for name in MEANINGFUL)

Ready = tuple[bytes, bytes, bytes]
"""Body, entity tag (or nothing) and further header lines of an answer."""
Peek = Callable[[], Ready | None]
"""The present answer from memory; None when the normal path has to find it."""
Observe = Callable[[int, float], None]


@runtime_checkable
class Sender(Protocol):
    """A connection that knows the bytes of a request."""

    def plain_bytes(self, message: RawRequestMessage) -> bytes | None:
        """Those of the request, when they are exactly one request without a body, of a connection that stood
        at the beginning of one."""


class KnownLine(NamedTuple):
    """What a first line asks for. `heads`: without the body."""

    peek: Peek
    observe: Observe
    heads: bool


class KnownLines(dict[bytes, KnownLine]):
    """What has been asked for by a caller, who takes answers in this coding."""

    def __init__(self, coding: Coding | None) -> None:
        super().__init__()
        self.coding = coding
        self.head = b"" if coding is None else b"%b\r\nContent-Encoding: %b" % (_VARY, coding.name.encode())


class KnownBlock(NamedTuple):
    """What a header block says: who asks (by what they have asked for before), and what varies."""

    lines: KnownLines
    request_id: bytes | None
    tag: bytes | None
    position: bytes | None


class Varying(NamedTuple):
    """A value that varies in a header block, and what stands behind it. `which`: of VARYING_NAMES."""

    which: int
    is_value: Callable[[bytes], object]
    behind: bytes


class BlockShape(NamedTuple):
    """A header block but for the values that vary."""

    first: bytes
    varying: tuple[Varying, ...]

    def values_of(self, block: bytes) -> list[bytes | None] | None:
        """The values of a block that begins as this one does, in the order of VARYING_NAMES; None when it
        goes on otherwise."""
        values: list[bytes | None] = [None, None, None]
        at = len(self.first)
        for which, is_value, behind in self.varying:
            end = block.find(b"\r", at)
            value = block[at:end]
            if not block.startswith(behind, end) or not is_value(value):
                return None
            values[which] = value
            at = end + len(behind)
        return values if at == len(block) else None


def is_plain(message: RawRequestMessage) -> bool:
    """Whether nothing in a request asks for more than a cached answer: one token, no body, no condition or
    preference but those that are looked at here, no header twice, the connection kept."""
    headers = message.headers
    names = [name.lower() for name, _ in message.raw_headers]  # all of them, as often as they were sent
    return (
        message.method in ("GET", "HEAD")
        and message.version == HttpVersion11
        and not message.should_close
        and not message.upgrade
        and not message.chunked
        and len(names) == len(set(names))
        and MEANINGFUL_NAMES.isdisjoint(names)
        and headers.get(hdrs.CONNECTION, "keep-alive").lower() == "keep-alive"
        and headers.get(hdrs.AUTHORIZATION, "").startswith("Bearer ")
    )


def shape_of(block: bytes) -> tuple[BlockShape, list[bytes | None]]:
    """The shape of a header block, and its values."""
    values: list[bytes | None] = [None, None, None]
    found, pieces, at = [], [], 0
    for match in _VARYING.finditer(block):
        which = VARYING_NAMES.index(match[1].decode().lower())
        if _PLAIN_VALUES[which].fullmatch(match[2]):
            found.append(which)
            values[which] = match[2]
            pieces.append(block[at : match.start(2)])
            at = match.end(2)
    first, *others = (*pieces, block[at:])
    varying = [
        Varying(which, _PLAIN_VALUES[which].fullmatch, behind)
        for which, behind in zip(found, others, strict=True)
    ]
    return BlockShape(first, tuple(varying)), values


class HotPath:
    def __init__(self, storage: Storage, bodies: CodedBodies) -> None:
        """Of an application whose handlers read from this storage, and encode with these bodies."""
        self._bodies = bodies
        self._tokens = storage.tokens
        self._tail = storage.tail
        self._freshness = storage.change_log.freshness
        self._monotonic_s = storage.clock.monotonic_s
        self._blocks: dict[bytes, KnownBlock] = {}
        """By all of their bytes: those in which nothing varies."""
        self._filled: dict[bytes, KnownBlock] = {}
        """By all of their bytes: of a known shape, with values that come again."""
        self._shapes: dict[bytes, dict[BlockShape, KnownLines]] = {}
        """By what comes before the first value that varies, which has one of these lengths."""
        self._lengths: dict[int, None] = {}
        self._by_caller: dict[tuple[Actor, Coding | None], KnownLines] = {}
        self._lines = 0
        self._seen: set[int] = set()
        self._revocations = self._tokens.revocations
        self._epoch = self._head = -1
        self._untagged = self._tagged = self._unchanged = b""
        self._second = 0
        self._date = b""
        self.answered = 0

    def answer(self, line: bytes, block: bytes) -> bytes | None:
        """The whole answer to a request of this first line and these headers (from the line end before them
        to their end), or None."""
        began_s = time.perf_counter()
        known = self._blocks.get(block) or self._filled.get(block) or self._fill(block)
        if known is None:
            return None
        lines, request_id, tag, position = known
        asked = lines.get(line)
        if asked is None or self._tokens.revocations != self._revocations:
            return None
        until_s = self._freshness.until_s
        if until_s != math.inf and self._monotonic_s() > until_s:
            return None
        tail = self._tail
        if tail.head != self._head or tail.epoch != self._epoch:
            self._stand_at(tail.epoch, tail.head)
        if position is not None and not self._has_seen(position):
            return None
        if (found := asked.peek()) is None:
            return None
        body, etag, more = found
        unchanged = tag is not None and etag != b"" and (tag == etag or _compared(tag, etag))
        if unchanged is None:
            return None
        coding_lines = b""
        if CODED_BYTES_MIN <= len(body) <= CODED_BYTES_MAX:
            coding_lines = _VARY
            if unchanged:
                etag = etag if tag == etag else _told(tag, etag)
            elif lines.coding is not None and (coded := self._bodies.find(body, lines.coding)) is not None:
                body, etag, coding_lines = coded, lines.coding.tag_of_bytes(etag), lines.head
        if (second := int(time.time())) != self._second:
            self._second = second
            self._date = b"\r\nDate: %b\r\n\r\n" % rfc822_formatted_time().encode()
        request_id = request_id or new_request_id()
        more += coding_lines + _REQUEST_ID + request_id
        if unchanged:
            answer = b"".join((self._unchanged, etag, _PRIVATE, more, self._date))
        else:
            ok = self._tagged if etag else self._untagged
            shown = b"" if asked.heads else body
            length = b"%d" % len(body)
            answer = b"".join((ok, etag, more, _CONTENT_LENGTH, length, self._date, shown))
        self.answered += 1
        asked.observe(304 if unchanged else 200, time.perf_counter() - began_s)
        return answer

    def _stand_at(self, epoch: int, head: int) -> None:
        """What the heads of answers begin with, header for header as the normal path writes them."""
        self._epoch, self._head = epoch, head
        self._untagged = b"%b%d-%d" % (_OK, epoch, head)
        self._tagged = self._untagged + _ETAG
        self._unchanged = b"%b%d-%d%b" % (_UNCHANGED, epoch, head, _ETAG)

    def _fill(self, block: bytes) -> KnownBlock | None:
        if len(block) > BLOCK_BYTES_MAX:
            return None
        for length in self._lengths:
            for shape, lines in self._shapes.get(block[:length], _NONE).items():
                if (values := shape.values_of(block)) is not None:
                    request_id, tag, position = values
                    filled = KnownBlock(lines, request_id, tag, position)
                    if request_id is None and position is None:  # these are new each time
                        if len(self._filled) >= BLOCKS_MAX:
                            self._filled.clear()
                        self._filled[block] = filled
                    return filled
        return None

    def _has_seen(self, position: bytes) -> bool:
        epoch, _, n = position.partition(b"-")
        theirs = int(epoch)
        return theirs < self._epoch or (theirs == self._epoch and int(n) <= self._head)

    def learn(
        self, request: web.Request, actor: Actor, make_peek: Callable[[], Peek | None], observe: Observe
    ) -> None:
        """The normal path has answered this request from what it is allowed to see. `make_peek`: None when
        there is nothing to be read from memory again and again."""
        sender, message = request._protocol, request._message
        if not isinstance(sender, Sender) or (raw := sender.plain_bytes(message)) is None:
            return
        at = raw.index(b"\r\n")
        line, block = raw[:at], raw[at:]
        if not raw[:1].isalpha() or raw.count(b"\n") != raw.count(b"\r\n"):
            return
        if len(line) > LINE_BYTES_MAX or len(block) > BLOCK_BYTES_MAX:
            return
        shape, values = shape_of(block)
        if not self._seen_before(hash((shape, line))) or not is_plain(message):
            return
        if values != [_given(message.headers, name) for name in VARYING_NAMES]:
            return  # one of them is not written as it is here
        if self._tokens.revocations != self._revocations:
            self.forget()
        if self._tokens.authenticate(message.headers[hdrs.AUTHORIZATION][7:]) is not actor:
            return  # not allowed by this token, or not any more
        if (peek := make_peek()) is None:
            return
        choice = chosen(message.headers.get(hdrs.ACCEPT_ENCODING))
        if choice.never_plain:
            return
        lines = self._by_caller.setdefault((actor, choice.coding), KnownLines(choice.coding))
        if line not in lines:
            self._make_room_for_line()
            self._lines += 1
        lines[line] = KnownLine(peek, observe, message.method == "HEAD")
        if shape.varying:
            self._learn_shape(shape, lines)
        else:
            if block not in self._blocks and len(self._blocks) >= BLOCKS_MAX:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = KnownBlock(lines, None, None, None)

    def _make_room_for_line(self) -> None:
        """Whoever has most of them loses his: nobody can fill this with his own."""
        if self._lines >= LINES_MAX:
            most = max(self._by_caller.values(), key=len)
            self._lines -= len(most)
            most.clear()

    def _learn_shape(self, shape: BlockShape, lines: KnownLines) -> None:
        """The oldest of them goes where there are too many."""
        first, length = shape.first, len(shape.first)
        if length not in self._lengths and len(self._lengths) >= LENGTHS_MAX:
            oldest = next(iter(self._lengths))
            del self._lengths[oldest]
            self._shapes = {known: shapes for known, shapes in self._shapes.items() if len(known) != oldest}
        if first not in self._shapes and len(self._shapes) >= BLOCKS_MAX:
            del self._shapes[next(iter(self._shapes))]
        shapes = self._shapes.setdefault(first, {})
        if shape not in shapes and len(shapes) >= SHAPES_MAX:
            del shapes[next(iter(shapes))]
        shapes[shape] = lines
        self._lengths[length] = None

    def drop(self, line: bytes) -> None:
        """It is answered by the normal path from now on, until it is learned anew."""
        for lines in self._by_caller.values():
            self._lines -= lines.pop(line, None) is not None

    def forget(self) -> None:
        """Everything that was learned."""
        self._blocks.clear()
        self._filled.clear()
        self._shapes.clear()
        self._lengths.clear()
        self._by_caller.clear()
        self._lines = 0
        self._revocations = self._tokens.revocations

    def _seen_before(self, what: int) -> bool:
        if what in self._seen:
            return True
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen.add(what)
        return False


def _compared(tag: bytes, etag: bytes) -> bool | None:
    """Whether a tag that is not the same text means the same, compared weakly; None when it may be of a newer
    version than is held here."""
    theirs, ours = tag.removeprefix(b"W/"), etag.removeprefix(b"W/")
    if theirs == ours or any(theirs == coding.tag_of_bytes(ours) for coding in CODINGS):
        return True
    version = theirs[1:-1]
    if version.isdigit() and not (ours[1:-1].isdigit() and int(version) < int(ours[1:-1])):
        return None
    return False


def _told(tag: bytes | None, etag: bytes) -> bytes:
    """As `told_tag` in `server/http/coding.py`."""
    for coding in CODINGS:
        if tag is not None and (coded := coding.tag_of_bytes(etag)) in tag:
            return coded
    return etag


def _given(headers: CIMultiDictProxy[str], name: str) -> bytes | None:
    value = headers.get(name)
    return None if value is None else value.encode("utf-8", "surrogateescape")


_NONE: dict[BlockShape, KnownLines] = {}
_OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: private, no-cache\r\n"
    b"Cache-Status: %b\r\nFacet-Position: " % CacheStatus.LOCAL.encode()
)
_UNCHANGED = b"HTTP/1.1 304 Not Modified\r\nCache-Status: %b\r\nFacet-Position: " % CacheStatus.LOCAL.encode()
_ETAG = b"\r\nETag: "
_PRIVATE = b"\r\nCache-Control: private, no-cache"
_REQUEST_ID = b"\r\nX-Request-Id: "
_VARY = b"\r\nVary: Accept-Encoding"
_CONTENT_LENGTH = b"\r\nContent-Length: "


def is_tested() -> bool:
    """Whether this is the aiohttp whose internals are relied on."""
    return aiohttp.__version__ == AIOHTTP_VERSION


HOT_PATH: web.AppKey[HotPath | None] = web.AppKey("hot_path")
