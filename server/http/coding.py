"""Content codings (RFC 9110, section 12.5.3): which one a caller wants, and bodies in it.

A body of less than 1 KiB is sent as it is, and so is one that is not a text. What is answered from memory is
encoded once, at its second serving: under many changes most of it is never served a second time. An entity
tag says in which coding its representation is.
"""

import gzip
import re
from collections.abc import Callable
from typing import NamedTuple

import zstandard
from aiohttp import hdrs, web

from server.http.problems import HttpError
from server.http.ready_response import ReadyResponse
from storage.memory.lru import Lru, Sentinel

CODED_BYTES_MIN = 1024
CODED_BYTES_MAX = 256 * 1024
"""Above that, encoding would hold the event loop for milliseconds: only who takes nothing else gets it."""
HELD_MAX = 1_000
HELD_BYTES_MAX = 16 * 2**20
"""Bodies that were served lately, and what was made of them."""
HEADER_CHARS_MAX = 1_000
"""A longer one is read anew each time."""
CHOICES_MAX = 1_000
TEXTS = ("application/json", "application/problem+json", "text/", "image/svg+xml", "application/javascript")

_compressor = zstandard.ZstdCompressor(level=3)


class Coding(NamedTuple):
    name: str
    encode: Callable[[bytes], bytes]

    def tag_of(self, etag: str) -> str:
        """The entity tag of a representation in this coding."""
        return f'{etag[:-1]}-{self.name}"'

    def tag_of_bytes(self, etag: bytes) -> bytes:
        return b'%b-%b"' % (etag[:-1], self.name.encode()) if etag else etag


CODINGS = (
    Coding("zstd", _compressor.compress),
    Coding("gzip", lambda body: gzip.compress(body, 1, mtime=0)),
)
"""The one that is preferred first."""
_NAMES = {"x-gzip": "gzip"}


class Accepted(NamedTuple):
    """What a caller wants: a coding or none, and whether none is out of the question."""

    coding: Coding | None
    never_plain: bool = False


PLAIN = Accepted(None)


def chosen(header: str | None) -> Accepted:
    """Of `Accept-Encoding`. Raises HttpError 406 for a caller who takes neither ours nor none."""
    if header is None:
        return PLAIN
    known = _choices.get(header)
    if isinstance(known, Sentinel):
        known = _chosen(header)
        if len(header) <= HEADER_CHARS_MAX:
            _choices.put(header, known, len(header))
    if known.never_plain and known.coding is None:
        names = ", ".join(coding.name for coding in CODINGS)
        raise HttpError(406, "not_acceptable", f"An answer here is plain or encoded with {names}.")
    return known


_choices: Lru[str, Accepted] = Lru(CHOICES_MAX, CHOICES_MAX * HEADER_CHARS_MAX)


def _chosen(header: str) -> Accepted:
    weights = _weights(header)
    anything = weights.get("*")
    plain = weights.get("identity", anything if anything == 0 else None)
    best, best_weight = None, 0.0
    for coding in CODINGS:
        weight = weights.get(coding.name, 0.0)
        if weight > best_weight:
            best, best_weight = coding, weight
    if best is None and anything:
        best, best_weight = _unless_refused(weights), anything
    if plain is not None and plain > best_weight:
        return PLAIN
    return Accepted(best, plain == 0)


def _unless_refused(weights: dict[str, float]) -> Coding | None:
    """For who takes anything: what everybody reads, before what is newer."""
    return next((coding for coding in reversed(CODINGS) if coding.name not in weights), None)


def _weights(header: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = _weight(value.strip())
        if name:
            weights[_NAMES.get(name, name)] = weight
    return weights


def _weight(text: str) -> float:
    """Of what is no weight: none, as of a coding that is not named."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


class CodedBodies:
    """Bodies that are held elsewhere and served again and again, in their codings. A body is known by being
    the same object: to look at its bytes each time would cost as much as to send them."""

    def __init__(self) -> None:
        self._held: Lru[int, tuple[bytes, dict[str, bytes]]] = Lru(HELD_MAX, HELD_BYTES_MAX)

    def find(self, body: bytes, coding: Coding) -> bytes | None:
        """None at its first serving."""
        held = self._held.get(id(body))
        if isinstance(held, Sentinel) or held[0] is not body:
            self._held.put(id(body), (body, {}), len(body))
            return None
        if (coded := held[1].get(coding.name)) is None:
            coded = held[1][coding.name] = coding.encode(body)
            self._held.put(id(body), held, len(body) + sum(map(len, held[1].values())))
        return coded


CODED_BODIES: web.AppKey[CodedBodies] = web.AppKey("coded_bodies", CodedBodies)


def encode(request: web.Request, response: web.StreamResponse, *, held: bool) -> None:
    """Give an answer to GET the coding that its caller wants. `held`: it is answered from memory, perhaps
    with the same bytes again. Raises HttpError 406."""
    size = response.text_bytes if type(response) is ReadyResponse else _size_of(response)
    if size < CODED_BYTES_MIN and not (size and _REFUSES_PLAIN.search(_accepted(request) or "")):
        return  # most answers
    headers = response.headers
    if response.status not in (200, 304) or hdrs.CONTENT_ENCODING in headers:
        return
    accepted = chosen(_accepted(request))
    if size < CODED_BYTES_MIN and not accepted.never_plain:
        return
    if size > CODED_BYTES_MAX and not accepted.never_plain:
        return
    headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    if response.status == 304:
        headers["ETag"] = told_tag(request.headers[hdrs.IF_NONE_MATCH], headers["ETag"])
    elif accepted.coding is not None and isinstance(response, web.Response):
        body, coding = response.body, accepted.coding
        assert isinstance(body, bytes)
        once = accepted.never_plain or not held
        coded = coding.encode(body) if once else request.app[CODED_BODIES].find(body, coding)
        if coded is not None:
            response.body = coded
            headers[hdrs.CONTENT_ENCODING] = coding.name
            if "ETag" in headers:
                headers["ETag"] = coding.tag_of(headers["ETag"])


_REFUSES_PLAIN = re.compile(r"identity|\*", re.IGNORECASE)
"""May stand in a header that allows no answer without a coding."""


def _size_of(response: web.StreamResponse) -> int:
    """Of a text; 0 for anything else."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return 0
    return len(response.body) if response.headers.get(hdrs.CONTENT_TYPE, "").startswith(TEXTS) else 0


def _accepted(request: web.Request) -> str | None:
    headers = request.headers
    if hdrs.ACCEPT_ENCODING not in headers:
        return None
    return ",".join(headers.getall(hdrs.ACCEPT_ENCODING))


def told_tag(given: str, etag: str) -> str:
    """The tag of what a caller has already, as he told it."""
    for coding in CODINGS:
        if (tag := coding.tag_of(etag)) in given:
            return tag
    return etag
