"""Conditional requests, preferences and positions: the headers that change what an answer means."""

import base64
import re
from collections.abc import Container
from typing import NamedTuple

from aiohttp import web

from server.http.problems import HttpError
from storage.errors import Invalid
from storage.log.entries import Position, parse_position

_TAG = re.compile(r'[\s,]*(?:W/)?"([^"]*)"\s*(?:,|$)')
_SUFFIX = r"[-;][A-Za-z0-9_.-]+"
"""What a proxy adds to a tag when it encodes the content."""
_VERSION = re.compile(rf"(0|[1-9][0-9]{{0,17}})(?:{_SUFFIX})?\Z")
_ONLY_SUFFIX = re.compile(_SUFFIX)

DIGESTS = ("Repr-Digest", "Content-Digest")
"""Requests here have no content coding and no ranges: both digests are of the same bytes."""
_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):(?:;.*)?")

WAIT_S_MAX = 60


class Anything:
    """The tag list `*`: whatever there is. (A quoted `"*"` is a tag like others.)"""

    def __contains__(self, version: object) -> bool:
        return True


ANYTHING = Anything()


def if_match(request: web.Request) -> frozenset[int] | None:
    """Versions that the caller would change; None when any will do."""
    tags = _tags(request, "If-Match")
    if tags is None or isinstance(tags, Anything):
        return None
    return frozenset(version for tag in tags if (version := version_of(tag)) is not None)


def if_none_match(request: web.Request) -> Container[int]:
    """Versions that a change must not meet (`If-None-Match` of a change)."""
    tags = _tags(request, "If-None-Match") or []
    if isinstance(tags, Anything):
        return tags
    return frozenset(version for tag in tags if (version := version_of(tag)) is not None)


def matches_etag(request: web.Request, etag: str) -> bool:
    """Whether the caller has this already. `etag` as sent; compared weakly, as RFC 9110 asks for GET."""
    if (given := request.headers.get("If-None-Match")) is None:
        return False
    if given == etag:
        return True
    tags = _tags(request, "If-None-Match") or []
    if isinstance(tags, Anything):
        return True
    opaque = etag.removeprefix("W/").strip('"')
    return any(tag == opaque or _is_encoded(tag, opaque) for tag in tags)


def echoed_version(request: web.Request) -> int:
    """The newest version that the caller says it has seen; 0 when it does not say."""
    if "If-None-Match" not in request.headers:
        return 0
    tags = _tags(request, "If-None-Match") or []
    if isinstance(tags, Anything):
        return 0
    return max((version_of(tag) or 0 for tag in tags), default=0)


def version_of(tag: str) -> int | None:
    match = _VERSION.match(tag)
    return int(match[1]) if match else None


def echoed_position(request: web.Request) -> Position | None:
    if (given := request.headers.get("Facet-Position")) is None:
        return None
    try:
        return parse_position(given)
    except Invalid:
        raise HttpError(400, "invalid_position", "Facet-Position is not one this service gave.") from None


class Preferences(NamedTuple):
    """`Prefer` (RFC 7240): what the caller would like. Unknown ones are ignored."""

    wait_for_database: bool = False
    wait_s: int | None = None
    respond_async: bool = False


NO_PREFERENCES = Preferences()


def preferences(request: web.Request) -> Preferences:
    if not (headers := request.headers.getall("Prefer", ())):
        return NO_PREFERENCES
    given: dict[str, str] = {}
    for item in ",".join(headers).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        given.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = given.get("wait", "")
    return Preferences(
        wait_for_database=given.get("durability", "").lower() == "database",
        wait_s=min(int(wait), WAIT_S_MAX) if wait.isascii() and wait.isdigit() and len(wait) < 9 else None,
        respond_async="respond-async" in given,
    )


def announced_sha256(request: web.Request) -> str | None:
    """The hash of a body that its sender holds back (`Expect: 100-continue` with `Repr-Digest`, RFC 9530),
    in hex. One that cannot be read is refused when the body comes."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return None
    try:
        announced = announced_digest(request)
    except HttpError:
        return None
    return None if announced is None else announced.hex()


def announces_digest(request: web.Request) -> bool:
    return any(name in request.headers for name in DIGESTS)


def announced_digest(request: web.BaseRequest) -> bytes | None:
    """The SHA-256 that the body has, as its sender says (RFC 9530). Other algorithms are passed over. Raises
    HttpError 400 for what is not a digest, and for two of them."""
    announced: set[bytes] = set()
    for header in DIGESTS:
        for item in ",".join(request.headers.getall(header, ())).split(","):
            if item.partition("=")[0].strip() == "sha-256":
                if (match := _SHA256.fullmatch(item.strip())) is None:
                    raise HttpError(400, "invalid_digest", f"{header} has no SHA-256 in base64.")
                announced.add(base64.b64decode(match[1]))
    if len(announced) > 1:
        raise HttpError(400, "invalid_digest", "The headers name two digests of one body.")
    return announced.pop() if announced else None


def _tags(request: web.Request, header: str) -> list[str] | Anything | None:
    """None without the header. Raises HttpError 400, also for an empty list."""
    if not (values := request.headers.getall(header, ())):
        return None
    given = ",".join(values)
    if given.strip() == "*":
        return ANYTHING
    given = given.rstrip(", \t")  # empty elements are passed over (RFC 9110)
    tags, at = [], 0
    while at < len(given):
        if (match := _TAG.match(given, at)) is None:
            break
        tags.append(match[1])
        at = match.end()
    if at < len(given) or not tags:
        raise HttpError(400, "invalid_etag", f"{header} is not a list of entity tags.")
    return tags


def _is_encoded(tag: str, opaque: str) -> bool:
    """Whether this is the tag with the suffix of a content coding."""
    return tag.startswith(opaque) and _ONLY_SUFFIX.fullmatch(tag, len(opaque)) is not None
