"""The reference for uploads: a bare aiohttp and uvloop handler that receives and hashes a body, and no more.

`python -m benchmarks.bare_upload` prints its port.
"""

import hashlib

import uvloop
from aiohttp import web

from benchmarks.commit_each import listen
from benchmarks.load import pin


async def _hashed(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    while chunk := await request.content.readany():
        digest.update(chunk)
    return web.Response(text=digest.hexdigest())


async def serve() -> None:
    app = web.Application()
    app.router.add_post("/upload", _hashed)
    await listen(app)


if __name__ == "__main__":
    pin(0)
    uvloop.run(serve())
