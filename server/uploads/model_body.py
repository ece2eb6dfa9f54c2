"""A model as it is sent: the raw body, or the field `model` of a form with other fields beside it."""

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from typing import NamedTuple

from aiohttp import web

from server.http.body import BODIES, RawBody
from server.http.problems import HttpError
from server.http.request import Call, invite_body
from server.uploads.multipart import MODEL, FormParts, Part
from server.uploads.receiving import UPLOADS, Upload
from storage.errors import Invalid


class Received(NamedTuple):
    """A model as it was sent, the content type it was given, and the other fields of its form."""

    upload: Upload
    content_type: str | None
    fields: Mapping[str, str]

    @property
    def identity(self) -> bytes:
        """What tells this body from another with the same Idempotency-Key."""
        fields = (f"{name}={self.fields[name]}" for name in sorted(self.fields))
        return "\0".join((self.upload.sha256, *fields)).encode()


def is_form(request: web.Request) -> bool:
    return request.content_type == "multipart/form-data"


@contextlib.asynccontextmanager
async def received(call: Call, known: Collection[str]) -> AsyncIterator[Received]:
    """The model in a request: the raw body, or the field `model` of a form, which may have the fields `known`
    beside it, in any order. Raises HttpError 400, 408, 413, 415, 422 or 503, Invalid."""
    request, uploads = call.request, call.request.app[UPLOADS]
    uploads.require_fits(request.content_length)
    if is_form(request):
        async with received_form(call, known) as form:
            yield form
        return
    await invite_body(request)
    async with uploads.receive(RawBody(request, request.app[BODIES]), request.content_length) as upload:
        yield Received(upload, request.headers.get("Content-Type"), {})


@contextlib.asynccontextmanager
async def received_form(call: Call, known: Collection[str]) -> AsyncIterator[Received]:
    request, uploads = call.request, call.request.app[UPLOADS]
    parts = FormParts(request, request.app[BODIES])
    await invite_body(request)
    fields: dict[str, str] = {}
    file: tuple[Part, Upload] | None = None
    async with contextlib.AsyncExitStack() as stack:
        while (part := await parts.next()) is not None:
            if part.name in fields or (part.name == MODEL and file is not None):
                raise Invalid((f"/{part.name}", "given twice"))
            part.require_plain()
            if part.name == MODEL:
                file = part, await stack.enter_async_context(uploads.receive(part, request.content_length))
            elif part.name in known:
                fields[part.name] = await part.text()
            else:
                raise unknown_field(part.name, (MODEL, *known))
        if file is None or file[0].is_missing_file:
            raise HttpError(422, "no_model", f"The form has no file in a field named {MODEL!r}.", errors=[])
        yield Received(file[1], file[0].content_type, fields)


def unknown_field(name: str, known: Collection[str]) -> HttpError:
    shown = name[:100]
    return HttpError(
        422,
        "unknown_field",
        f"/{shown}: unknown field; this form has {', '.join(known)}.",
        errors=[{"pointer": f"/{shown}", "detail": "unknown field"}],
    )
