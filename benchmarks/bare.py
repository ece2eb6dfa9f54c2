"""The reference for reads: bare aiohttp and uvloop handlers that return ready bytes.

`python -m benchmarks.bare DIRECTORY`: `/NAME` answers the bytes of the file of that name.
"""

import sys
from pathlib import Path

import uvloop
from aiohttp import web

from benchmarks.commit_each import listen
from benchmarks.load import pin


async def serve(directory: Path) -> None:
    app = web.Application()
    for file in directory.iterdir():
        app.router.add_get(f"/{file.name}", _answering(file.read_bytes()))
    app.router.add_get("/unchanged", _unchanged)
    await listen(app)


def _answering(body: bytes):  # type: ignore[no-untyped-def]
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return answer


async def _unchanged(request: web.Request) -> web.Response:
    return web.Response(status=304)


if __name__ == "__main__":
    pin(0)
    uvloop.run(serve(Path(sys.argv[1])))
