"""Conditional requests, preferences and positions: the headers that change what an answer means."""

import base64
import re
from typing import NamedTuple

from aiohttp import web

from server.problems import HttpError
from storage.errors import Invalid
from storage.log import Position, parse_position

_TAG = re.compile(r'\s*(?:(W/)?"([^"]*)"|(\*))\s*(?:,|$)')
_VERSION = re.compile(r"([0-9]{1,18})(?:[-;][A-Za-z0-9_.-]+)?\Z")
"""A version, perhaps with the suffix of a content coding that a proxy has added."""

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")

WAIT_S_MAX = 60


def if_match(request: web.Request) -> frozenset[int] | None:
    """Versions that the caller would change; None when any will do."""
    tags = _tags(request, "If-Match")
    if tags is None or tags == ["*"]:
        return None
    return frozenset(version for tag in tags if (version := version_of(tag)) is not None)


def if_none_match(request: web.Request, etag: str) -> bool:
    """Whether the caller has this already. `etag` as sent; compared weakly, as RFC 9110 asks for GET."""
    given = request.headers.get("If-None-Match")
    if given is None:
        return False
    if given == etag:
        return True
    tags = _tags(request, "If-None-Match") or []
    return tags == ["*"] or _opaque(etag) in map(_without_suffix, tags)


def echoed_version(request: web.Request) -> int:
    """The newest version that the caller says it has seen; 0 when it does not say."""
    if "If-None-Match" not in request.headers:
        return 0
    return max((version_of(tag) or 0 for tag in _tags(request, "If-None-Match") or ()), default=0)


def version_of(tag: str) -> int | None:
    match = _VERSION.match(tag)
    return int(match[1]) if match else None


def echoed_position(request: web.Request) -> Position | None:
    given = request.headers.get("Facet-Position")
    if given is None:
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
    headers = request.headers.getall("Prefer", ())
    if not headers:
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
    in hex."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        return None
    match = _SHA256.search(",".join(request.headers.getall("Repr-Digest", ())))
    return base64.b64decode(match[1]).hex() if match else None


def _tags(request: web.Request, header: str) -> list[str] | None:
    given = ",".join(request.headers.getall(header, ()))
    if not given:
        return None
    tags, at = [], 0
    while at < len(given):
        match = _TAG.match(given, at)
        if match is None:
            raise HttpError(400, "invalid_etag", f"{header} is not a list of entity tags.")
        tags.append(match[3] or match[2])
        at = match.end()
    return tags


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _without_suffix(tag: str) -> str:
    match = _VERSION.match(tag)
    return match[1] if match else tag
