"""Files as answers: whole or a range of bytes, under a strong ETag that is the hash of the content."""

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from server.http.headers import matches_etag
from server.http.problems import HttpError
from server.http.ready_response import ReadyResponse
from server.http.request import Call
from storage.cache.read_through import CacheStatus

CHUNK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class Span(NamedTuple):
    """Bytes from `first` up to, not including, `end`."""

    first: int
    end: int


def span_of(text: str | None, size: int) -> Span | None:
    """What a Range header (RFC 9110) asks for; None for all, also when it cannot be understood or names
    several. Raises HttpError 416 when there is no such byte."""
    match = _RANGE.fullmatch(text.strip()) if text is not None else None
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        first, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < first:
            return None
    else:
        first, end = max(0, size - int(match[2])), size
    if first >= end:
        raise HttpError(
            416, "range_not_satisfiable", f"There are {size} bytes.", {"Content-Range": f"bytes */{size}"}
        )
    return Span(first, end)


async def send_file(call: Call, path: Path, etag: str, headers: Mapping[str, str]) -> web.StreamResponse:
    """Raises HttpError 404 when the file has just been removed, 416."""
    request = call.request
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "X-Request-Id": call.request_id,
        "Facet-Position": call.position,
        **({"Cache-Status": CacheStatus.STALE} if call.disconnected else {}),
        **headers,
    }
    if matches_etag(request, etag):
        return ReadyResponse(status=304, headers=headers)
    try:
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    except FileNotFoundError:
        raise HttpError(404, "file_gone", "The file is no longer kept. Upload it again.") from None
    try:
        size = os.fstat(descriptor).st_size
        ranged = request.method == "GET"  # RFC 9110: with no other
        asked = (
            request.headers.get("Range") if ranged and request.headers.get("If-Range", etag) == etag else None
        )
        span = span_of(asked, size)
        response = web.StreamResponse(status=200 if span is None else 206, headers=headers)
        if span is not None:
            response.headers["Content-Range"] = f"bytes {span.first}-{span.end - 1}/{size}"
        await _send(request, response, descriptor, span or Span(0, size))
        return response
    finally:
        os.close(descriptor)


async def _send(request: web.Request, response: web.StreamResponse, descriptor: int, span: Span) -> None:
    at, end = span
    response.content_length = end - at
    await response.prepare(request)
    while at < end and request.method != "HEAD":
        chunk = await asyncio.to_thread(os.pread, descriptor, min(CHUNK_BYTES, end - at), at)
        if not chunk:
            raise ConnectionResetError("The file is shorter than it was.")
        await response.write(chunk)
        at += len(chunk)
    await response.write_eof()
