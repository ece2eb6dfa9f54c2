"""Calls that only commands on this machine may make, through the Unix socket in the data directory."""

from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from server.backups import back_up
from server.http.keys import DIRECTORY
from server.http.problems import HttpError
from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import ADMIN, Routes, is_local
from storage.errors import shortage_of


class BackupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`path`: where to write the file, absolute, on this machine."""

    path: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    at: str
    position: str
    orders: int


routes = Routes("maintenance")


@routes(
    "POST",
    "/v1/backups",
    "Write a backup file; through the local socket only",
    roles=ADMIN,
    body=BackupRequest,
    answers={201: BackupManifest},
    errors=(409, 503),
)
async def make_backup(call: Call) -> web.StreamResponse:
    target = Path((await call.body(BackupRequest)).path)
    if not is_local(call.request):
        raise HttpError(
            403, "local_only", "Backups are made by a command on the machine: ./facet backup FILE."
        )
    try:
        manifest: Any = await back_up(call.storage, call.request.app[DIRECTORY], target)
    except OSError as error:
        if (shortage := shortage_of(error)) is not None:
            raise shortage from None
        raise HttpError(409, "cannot_write", f"{target} cannot be written: {error.strerror}.") from None
    return json_response(manifest, 201)
