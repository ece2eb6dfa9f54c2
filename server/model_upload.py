"""The model in a request: the raw body, or the field `model` of a multipart body."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import BodyPartReader, web

from server.calls import Call, PartBody, RawBody, invite_body, reading_multipart
from server.keys import UPLOADS
from server.problems import HttpError
from server.uploads import Upload

FIELD = "model"


@contextlib.asynccontextmanager
async def received(call: Call) -> AsyncIterator[tuple[Upload, str | None]]:
    """The upload and the content type it was sent with. Raises HttpError 400, 408, 413 or 422."""
    request, uploads = call.request, call.request.app[UPLOADS]
    uploads.require_fits(request.content_length)
    await invite_body(request)
    if request.content_type == "multipart/form-data":
        part = await _model_part(request)
        content_type = part.headers.get("Content-Type")
        async with uploads.receive(PartBody(part), request.content_length) as upload:
            yield upload, content_type
    else:
        async with uploads.receive(RawBody(request), request.content_length) as upload:
            yield upload, request.headers.get("Content-Type")


async def _model_part(request: web.Request) -> BodyPartReader:
    with reading_multipart():
        reader = await request.multipart()
        part = await reader.next()
    if not isinstance(part, BodyPartReader) or part.name != FIELD:
        raise HttpError(
            422, "no_model", f"The first field of the body must be the file, named {FIELD!r}.", errors=[]
        )
    if part.headers.get("Content-Encoding") or part.headers.get(
        "Content-Transfer-Encoding", "binary"
    ) not in (
        "binary",
        "8bit",
        "7bit",
    ):
        raise HttpError(415, "content_encoding_unsupported", "Send the file as it is, without an encoding.")
    return part
