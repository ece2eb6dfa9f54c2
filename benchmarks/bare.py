"""The reference: bare aiohttp and uvloop handlers that return ready bytes, or receive and hash a body.

`python -m benchmarks.bare [DIRECTORY]` prints its port. `/NAME` answers the bytes of the file of that name,
`/upload` the hash of what it is sent.
"""

import hashlib
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from benchmarks.commit_each import listen
from benchmarks.load import pin


async def serve(files: list[Path]) -> None:
    app = web.Application()
    for file in files:
        app.router.add_get(f"/{file.name}", _answering(file.read_bytes()))
    app.router.add_get("/unchanged", _unchanged)
    app.router.add_post("/upload", _hashed)
    await listen(app)


def _answering(body: bytes):  # type: ignore[no-untyped-def]
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return answer


async def _unchanged(request: web.Request) -> web.Response:
    return web.Response(status=304)


async def _hashed(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    while chunk := await request.content.readany():
        digest.update(chunk)
    return web.Response(text=digest.hexdigest())


if __name__ == "__main__":
    pin(0)
    uvloop.run(serve([file for directory in sys.argv[1:] for file in Path(directory).iterdir()]))
