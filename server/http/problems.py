"""Errors as problem+json (RFC 9457): one table from what can go wrong to what is answered."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from pricing.errors import Refused
from pricing.pool import PoolBusy
from pricing.price.price_list import InvalidData
from server.http.json_body import ERRORS_MAX, MalformedJson
from server.http.ready_response import ReadyResponse
from storage.errors import (
    Behind,
    Conflict,
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    PreconditionFailed,
    StorageError,
    Unavailable,
    shortage_of,
)
from storage.orders.order import Order

logger = logging.getLogger("facet.http")


class FieldError(msgspec.Struct, frozen=True):
    """`pointer`: JSON pointer into the body, or `/name` of a query parameter."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457. `code` is stable; members beyond these depend on the code. `errors_cut`: there are more
    errors than are named."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] = []
    errors_cut: bool = False


class HttpError(Exception):
    """Refused by the HTTP layer itself."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.members = members


TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    408: "Request timeout",
    409: "Conflict",
    411: "Length required",
    412: "Precondition failed",
    413: "Content too large",
    414: "Address too long",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    417: "Expectation failed",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Header fields too large",
    500: "Internal error",
    503: "Not available",
}

STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (MalformedJson, 400),
    (NotFound, 404),
    (Forbidden, 403),
    (KeyReused, 422),
    (Invalid, 422),
    (InvalidData, 422),
    (PreconditionFailed, 412),
    (Conflict, 409),
    (Behind, 503),
    (Unavailable, 503),
    (PoolBusy, 503),
    (Refused, 422),
)
"""The first that fits decides. What is not here is a 500, and logged."""

TOO_LARGE = frozenset({"too_many_facets", "archive_limit", "too_large", "file_too_large"})
CONTRADICTED = frozenset({"media_type_mismatch", "content_type_mismatch"})


def problem_response(error: BaseException, request_id: str) -> web.Response:
    status, code, detail, members, headers = _describe(error)
    if status == 500:
        logger.error("request %s failed", request_id, exc_info=error)
    body = {
        "type": f"/docs#problem-{code}",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **members,
    }
    return ReadyResponse(
        body=msgspec.json.encode(body),
        status=status,
        headers={"Content-Type": "application/problem+json", "Cache-Control": "no-store", **headers},
    )


def _describe(error: BaseException) -> tuple[int, str, str, dict[str, Any], dict[str, str]]:
    error = shortage_of(error) or error
    if isinstance(error, HttpError):
        return error.status, error.code, error.detail, error.members, error.headers
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        return 500, "internal", "The service failed; the request id finds this in its log.", {}, {}
    if isinstance(error, Refused):
        return _refused(error)
    if isinstance(error, Invalid):
        return status, error.code, *_named("The request does not fit.", error.errors), {}
    if isinstance(error, InvalidData):
        return status, "invalid", *_named("The document does not fit.", error.errors), {}
    if isinstance(error, StorageError):
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else {}
        return status, error.code, error.detail, _members(error), headers
    if isinstance(error, PoolBusy):
        return status, "busy", str(error) or "All workers are busy.", {}, {"Retry-After": "2"}
    return status, "malformed_json", str(error), {}, {}


def _refused(error: Refused) -> tuple[int, str, str, dict[str, Any], dict[str, str]]:
    status = 413 if error.code in TOO_LARGE else 415 if error.code in CONTRADICTED else 422
    return status, error.code, error.detail, {"remedy": error.remedy}, {}


def _named(detail: str, errors: Sequence[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
    """The detail and the members that name the errors, as many as are named."""
    members: dict[str, Any] = {
        "errors": [FieldError(pointer, message) for pointer, message in errors[:ERRORS_MAX]]
    }
    if len(errors) > ERRORS_MAX:
        detail = f"{detail} There are more errors than the {ERRORS_MAX} that are named here."
        members["errors_cut"] = True
    return detail, members


def _members(error: StorageError) -> dict[str, Any]:
    """An order in an error is shown as orders are."""
    return {
        name: msgspec.to_builtins(value, str_keys=True) if isinstance(value, Order) else value
        for name, value in error.members.items()
    }
