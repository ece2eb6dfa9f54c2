"""Answers: a record or ready bytes as JSON, and the headers that say how new they are."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from server.http.headers import matches_etag
from server.http.ready_response import ReadyResponse
from server.http.request import Call
from storage.log.entries import Position


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A record or ready bytes."""
    if not isinstance(body, bytes):
        body = msgspec.json.encode(body)
    response = ReadyResponse(
        body=body,
        status=status,
        headers={"Content-Type": "application/json", "Cache-Control": "private, no-cache", **(headers or {})},
    )
    response.text_bytes = len(body)
    return response


NOTHING_APPLIED: Mapping[str, str] = {}


def read_headers(call: Call, source: str, as_of: Position | None = None) -> dict[str, str]:
    """`as_of` None: what is answered is complete to where this process stands now."""
    tail = call.storage.tail
    return {"Cache-Status": source, "Facet-Position": str(as_of) if as_of else f"{tail.epoch}-{tail.head}"}


def read_answer(
    call: Call,
    body: bytes,
    etag: str,
    source: str,
    applied: Mapping[str, str] = NOTHING_APPLIED,
    as_of: Position | None = None,
) -> web.Response:
    headers = read_headers(call, source, as_of)
    headers["ETag"] = etag
    if applied:
        headers.update(applied)
    if matches_etag(call.request, etag):
        response = ReadyResponse(status=304, headers={**headers, "Cache-Control": "private, no-cache"})
        response.text_bytes = len(body)
        return response
    return json_response(body, headers=headers)
