"""Three requests, and every file of ours that each passes: `python -m tests.support.trips [NAME]`.

    upload    a model that was never priced: POST /v1/prices
    change    a status change, to the log and to the database: PUT /v1/orders/{id}/status
    list      the newest orders: GET /v1/orders

Files are listed in the order in which they are entered first. Seen by Python's own profiler on a service in
this process, over SQLite: what runs in the tasks that serve the request, those of the log and the database
among them, and in the worker that reads the model.
"""

import asyncio
import contextlib
import itertools
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import web

from pricing import pool
from pricing.sample_ring import ring_stl
from server.app import build
from server.config import load
from server.process.listening import Runner, runner_of
from storage.data_directory import DataDirectory
from storage.database import search_upkeep

ROOT = Path(__file__).parents[2]
ADMIN_TOKEN = "an-admin-token-for-the-trips"
PACKAGES = ("server", "pricing", "storage")
CARRIERS = frozenset({"log", "write-behind", "sqlite writer"})
"""Tasks that carry a request's change on: to the log, and to the database."""
STATIONS = frozenset(
    {
        ("server/http/body.py", "read_chunk"),
        ("server/http/json_body.py", "convert"),
        ("pricing/pool.py", "analyse"),
        ("pricing/readers/stl.py", "read_binary"),
        ("pricing/mesh/measures.py", "measure"),
        ("pricing/mesh/topology.py", "weld"),
        ("pricing/mesh/columns.py", "measure_columns"),
        ("pricing/price/formula.py", "price"),
        ("storage/orders/rules.py", "advance"),
        ("storage/embedded/change_log.py", "append"),
        ("storage/sqlite/log.py", "append"),
        ("storage/cache/write_behind.py", "_apply_until_done"),
        ("storage/sqlite/apply.py", "apply_together"),
        ("storage/cache/view_cache.py", "peek_page"),
        ("storage/cache/view_cache.py", "page"),
        ("server/http/ready_response.py", "prepare"),
    }
)
"""Where the work is done: a body is read, facts are found, a price is made, a rule decides, an entry is
appended, rows are written, a list is shown, an answer is sent."""
NEVER_S = 3_600.0
POOL = "pricing/pool.py"
CONNECTIONS = "server/process/connections.py"


class Trip:
    """What is entered while it is followed. A file is passed when it is on the call stack at a station; the
    stack of a task begins with that of whoever created it. Other files are consulted: a clock, a counter, a
    lookup on the way."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._on_stacks: set[str] = set()
        self.calls: set[tuple[str, str]] = set()

    def enter(self, frame: FrameType, event: str, _: object) -> None:
        file = _file_of(frame) if event == "call" else None
        if file is None or not _carries(file):
            return
        if file not in self.entered:
            self.entered.append(file)
        if (file, frame.f_code.co_name) in STATIONS:
            stack = [*_creators(), *_stack(frame)]
            self._on_stacks.update(stack)
            self.calls.update(itertools.pairwise(stack))

    @property
    def passed(self) -> list[str]:
        """In the order in which they were entered first."""
        return [file for file in self.entered if file in self._on_stacks]

    @property
    def consulted(self) -> list[str]:
        return [file for file in self.entered if file not in self._on_stacks]

    @property
    def crossings(self) -> list[str]:
        """Where a file calls into another package."""
        calls = sorted(self.calls, key=lambda call: self.entered.index(call[1]))
        return [f"{a} -> {b}" for a, b in calls if a.partition("/")[0] != b.partition("/")[0]]

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        threading.setprofile(self.enter)
        sys.setprofile(self.enter)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


_serving: ContextVar[bool] = ContextVar("serving", default=False)
_reading: ContextVar[bool] = ContextVar("reading", default=False)
"""What a worker does is all done to the model."""


def _file_of(frame: FrameType) -> str | None:
    code = frame.f_code
    path = Path(code.co_filename)
    if code.co_name == "<module>" or not path.is_relative_to(ROOT):
        return None
    file = str(path.relative_to(ROOT))
    return file if file.startswith(PACKAGES) else None


def _stack(frame: FrameType | None) -> list[str]:
    """The files of ours on a call stack, outermost first."""
    files: list[str] = []
    while frame is not None:
        file = _file_of(frame)
        if file is not None and files[-1:] != [file]:
            files.append(file)
        frame = frame.f_back
    return files[::-1]


_created_by: "WeakKeyDictionary[asyncio.Task[Any], list[str]]" = WeakKeyDictionary()


def _creators() -> list[str]:
    """The stack on which the task that runs now was created."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return []
    return [] if task is None else _created_by.get(task, [])


def _create_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if _serving.get():
        _created_by[task] = [*_creators(), *_stack(sys._getframe(1))]
    return task


def _carries(file: str) -> bool:
    """Whether what runs now runs for the request."""
    if (
        _serving.get()
        or _reading.get()
        or file == CONNECTIONS
        or threading.current_thread() is not threading.main_thread()
    ):
        return True
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True  # between the tasks of the event loop, or in a worker
    return task is not None and task.get_name() in CARRIERS


@web.middleware
async def _serve(request: web.Request, handler: Any) -> web.StreamResponse:
    _serving.set(True)
    response: web.StreamResponse = await handler(request)
    return response


@contextlib.asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[str]:
    usual_s, search_upkeep.INTERVAL_S = search_upkeep.INTERVAL_S, NEVER_S  # its own work is nobody's trip
    settings = load({"FACET_DATA_DIR": str(directory), "FACET_ADMIN_TOKEN": ADMIN_TOKEN})
    data = DataDirectory(settings.data_dir)
    data.create()
    app = build(settings, data, lambda name, error: None)
    app.middlewares.append(_serve)
    runner: Runner = runner_of(app, settings)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
        search_upkeep.INTERVAL_S = usual_s


async def _travel(directory: Path) -> dict[str, Trip]:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    upload, change, listing, reading = Trip(), Trip(), Trip(), Trip()
    body = ring_stl(9.0, 2.0, 5, 0.4)
    asyncio.get_running_loop().set_task_factory(_create_task)
    async with _service(directory) as url, aiohttp.ClientSession(url, headers=headers) as client:

        async def ask(method: str, path: str, **options: Any) -> Any:
            async with client.request(method, path, **options) as response:
                response.raise_for_status()
                return await response.json()

        with upload.followed():
            await ask("POST", "/v1/prices?material=gold-585-yellow", data=body)
        order = await ask("POST", "/v1/orders", json={"customer": "a customer"})
        path = f"/v1/orders/{order['id']}/status"
        with change.followed():
            wait = {"Prefer": "durability=database"}
            await ask("PUT", path, json={"status": "FILE_UPLOADED"}, headers=wait)
        with listing.followed():
            await ask("GET", "/v1/orders")
    model = directory / "model.stl"
    model.write_bytes(body)
    pool._facts(
        pool._mapped(str(model)), None, None, ()
    )  # compiled code is loaded once, as the fork server does
    _reading.set(True)
    with reading.followed():
        pool._facts(pool._mapped(str(model)), None, None)
    at = upload.entered.index(POOL) + 1
    upload.entered[at:at] = [file for file in reading.entered if file not in upload.entered]
    upload._on_stacks |= reading._on_stacks
    upload.calls |= reading.calls
    return {"upload": upload, "change": change, "list": listing}


def travel() -> dict[str, Trip]:
    with tempfile.TemporaryDirectory(prefix="facet-trips-") as directory:
        return asyncio.run(_travel(Path(directory)))


def main(arguments: list[str]) -> int:
    for name, trip in travel().items():
        if arguments and name not in arguments:
            continue
        print(f"{name}: {len(trip.passed)} files, {len(trip.crossings)} calls into another package")
        print("\n".join(f"{place:4}. {file}" for place, file in enumerate(trip.passed, 1)))
        print("\n".join(f"      {call}" for call in trip.crossings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
