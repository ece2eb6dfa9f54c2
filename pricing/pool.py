"""Facts computed in worker processes, away from the event loop and within limits.

Parsing files from strangers may crash, hang or eat memory; here that costs one worker and fails one
request. Workers come from a fork server that has the analyser loaded already, so a replacement is ready in
milliseconds. Paths and answers cross the process boundary as bytes and tuples of strings.
"""

import asyncio
import mmap
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import TimeoutError as WallClockExpired
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from pebble import ProcessExpired, ProcessPool

from pricing.errors import Refused
from pricing.facts import Facts, Opinion

_Kind = Literal["facts", "preview", "opinion"]
_More = bytes | tuple[int, ...]
_Job = tuple[_Kind, str, str | None, str | None, int, *tuple[_More, ...]]
"""Path, content type, SHA-256 where it is known, seconds of processor time, and what else the kind of work
needs. A server that serves on while it is replaced on disk starts workers of another release: what a job
began with stays as it is, and what came later stands behind, where it is needed."""
_Answer = tuple[Literal["done"], bytes] | tuple[Literal["refused"], str, str, str]

_ATTEMPTS = 2
_STOPPED = frozenset({"time_limit", "out_of_memory", "worker_died"})
_SMALLER = "Export the model with a coarser tolerance, or as binary STL."


class PoolBusy(Exception):
    """All workers are busy and the queue is full: try again later."""


class PoolClosed(Exception):
    """The pool has no workers, or has been closed."""


NICENESS = 10


class Limits(NamedTuple):
    """What one pool and one analysis may use.

    `memory_bytes` is address space beyond what an idle worker has, the mapped file included; `cpu_s` is
    processor time and `wall_s` time on the clock from the moment a worker takes the file;
    `tasks_per_worker` bounds what leaks may add up to.

    `niceness`: workers give way to the server, which has a thousand times less to do for each of its answers.
    Next to it on a busy core they get about a tenth of the time at 10, and all of what it leaves.
    """

    workers: int = 2
    waiting: int = 64
    memory_bytes: int = 2 << 30
    cpu_s: int = 60
    wall_s: float = 90.0
    tasks_per_worker: int = 500
    niceness: int = NICENESS


OPINIONS = Limits(workers=1, wall_s=300.0, tasks_per_worker=100, niceness=19)
"""Of the pool that asks another program about models: behind everything else, and so in no hurry."""


class FactsPool:
    """`analyse` for an event loop, from any number of tasks; then `close`. Whatever needs the workers first
    starts them."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._closed = not self._limits.workers
        # A task: who waits for it may go away, and the workers would be nobody's.
        self._started: asyncio.Task[ProcessPool] | None = None
        # Files wait here and not within pebble: its pipe then never fills, and a full pipe whose readers were
        # stopped would block the closing of the pool for ever.
        self._free_workers = asyncio.Semaphore(self._limits.workers)
        self._outstanding = 0
        self.ended: Counter[str] = Counter()
        """Files by what came of them: `read`, `refused`, `stopped` at a limit of its worker, `busy` when too
        many waited already."""

    async def start(self) -> None:
        """Start the workers, if they are not, and wait until they answer: a second, most of it imports.
        Raises PoolClosed."""
        await self._working_pool()

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosed("The pool is not running.")

    async def _working_pool(self) -> ProcessPool:
        self._require_open()
        started = self._started
        if started is None or (started.done() and (started.exception() or not started.result().active)):
            started = asyncio.create_task(self._start(started), name="start model workers")
            self._started = started
        pool = await asyncio.shield(started)
        self._require_open()  # closed meanwhile, it takes no work
        return pool

    async def _start(self, before: asyncio.Task[ProcessPool] | None) -> ProcessPool:
        pool = await asyncio.to_thread(self._new_pool)
        if before is not None and not before.exception():
            await asyncio.to_thread(_stop, before.result())
        return pool

    def _new_pool(self) -> ProcessPool:
        limits = self._limits
        pool = ProcessPool(
            max_workers=limits.workers,
            max_tasks=limits.tasks_per_worker,
            initializer=_prepare_worker,
            # Workers may be of another release: they are told what is not as ever, no more.
            initargs=(limits.memory_bytes, *([limits.niceness] if limits.niceness != NICENESS else [])),
            context=_context(),
        )
        for answer in [pool.schedule(os.getpid) for _ in range(limits.workers)]:
            answer.result()
        return pool

    async def close(self) -> None:
        """Stop the workers at once; analyses under way fail with PoolClosed."""
        self._closed = True
        started, self._started = self._started, None
        if started is not None:
            with suppress(Exception):  # said to those who waited for the start
                await asyncio.to_thread(_stop, await started)

    @property
    def outstanding(self) -> int:
        """Analyses waiting or under way."""
        return self._outstanding

    async def analyse(
        self,
        body: bytes | Path,
        content_type: str | None = None,
        sha256: str | None = None,
        leave_out: tuple[int, ...] = (),
    ) -> Facts:
        """Facts of a file in memory or on disk. A path is mapped by the worker, so nothing is copied; bytes
        are written to a temporary file first.

        Raises Refused as `pricing.mesh.analysis.analyse` does, and with `time_limit`, `out_of_memory` or
        `worker_died`; PoolBusy when `Limits.waiting` files wait already; PoolClosed. Cancelling the task
        stops its worker.
        """
        more = (leave_out,) if leave_out else ()
        answer = await self._done("facts", body, content_type, sha256, *more)
        return msgspec.msgpack.decode(answer, type=Facts)

    async def preview(self, body: bytes | Path) -> bytes:
        """`pricing.mesh.preview.preview` of a file, in the same way and with the same refusals."""
        return await self._done("preview", body, None, None)

    async def opinion(self, body: bytes | Path, facts: Facts) -> Opinion:
        """`pricing.second_opinion.second_opinion` of a file, in the same way and with the same refusals."""
        answer = await self._done("opinion", body, None, None, msgspec.msgpack.encode(facts))
        return msgspec.msgpack.decode(answer, type=Opinion)

    async def _done(
        self, kind: _Kind, body: bytes | Path, content_type: str | None, sha256: str | None, *more: _More
    ) -> bytes:
        if self._outstanding >= self._limits.workers + self._limits.waiting:
            self.ended["busy"] += 1
            raise PoolBusy(f"{self._outstanding} analyses are waiting or under way.")
        self._outstanding += 1
        try:
            answer = await self._read(kind, body, content_type, sha256, *more)
        except Refused as refused:
            self.ended["stopped" if refused.code in _STOPPED else "refused"] += 1
            raise
        finally:
            self._outstanding -= 1
        self.ended["read"] += 1
        return answer

    async def _read(
        self, kind: _Kind, body: bytes | Path, content_type: str | None, sha256: str | None, *more: _More
    ) -> bytes:
        cpu_s = self._limits.cpu_s
        self._require_open()
        async with self._free_workers:
            if isinstance(body, Path):
                return await self._answered((kind, str(body), content_type, sha256, cpu_s, *more))
            with tempfile.NamedTemporaryFile(prefix="facet-model-") as spool:
                # Bytes would go through the pipe, and block it while they do.
                await asyncio.to_thread(_fill, spool.name, body)
                return await self._answered((kind, spool.name, content_type, sha256, cpu_s, *more))

    async def _answered(self, job: _Job) -> bytes:
        """What comes of one file, tried a second time when the pool broke down around it.

        pebble gives up a whole pool when a worker ends that had not yet said what it works on, be it idle and
        killed from outside. Files that wait then are innocent.
        """
        for _ in range(_ATTEMPTS):
            pool = await self._working_pool()
            with suppress(BrokenProcessPool):
                return await self._answer(pool, job)
        raise _worker_died("more than once")

    async def _answer(self, pool: ProcessPool, job: _Job) -> bytes:
        try:
            future = pool.schedule(_work, job, timeout=self._limits.wall_s)
            return _unpacked(await asyncio.wrap_future(future))
        except WallClockExpired:
            raise _time_limit(f"{self._limits.wall_s:g} s on the clock") from None
        except ProcessExpired as died:
            if died.exitcode == -signal.SIGXCPU:
                raise _time_limit(f"{self._limits.cpu_s} s of processor time") from died
            raise _worker_died(f"with code {died.exitcode}") from died
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise PoolClosed("The pool was closed.") from None
            raise


def _fill(path: str, body: bytes) -> None:
    Path(path).write_bytes(body)


def _worker_died(how: str) -> Refused:
    return Refused(
        "worker_died",
        f"The process reading the file ended {how}.",
        "Check the file in another program; export it again as binary STL.",
    )


def _stop(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _time_limit(spent: str) -> Refused:
    return Refused("time_limit", f"Reading the file took more than {spent}.", _SMALLER)


def _context() -> BaseContext:
    """Fork server: workers inherit the loaded modules, and none of the server's threads, sockets or files."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pricing.pool", "pricing.mesh.warmed"])
    return context


def _prepare_worker(memory_bytes: int, niceness: int = NICENESS) -> None:
    """Run once in every worker, before its first file."""
    if niceness > NICENESS:
        niceness -= _prepare_opinions()
    os.nice(niceness)
    # Ctrl-C in the terminal goes to the whole group; the server ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A killed server cannot do that. The fork server is the parent of this process, and lives as long as it
    # does, so its death signal would never come; the sentinel of the process that asked for the worker
    # tells.
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    limit = _address_space_bytes() + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _prepare_opinions() -> int:
    """Behind everything else what is imported once would take minutes on a busy machine, while orders wait
    for what takes milliseconds. Returns by how much this gives way already."""
    os.nice(NICENESS // 2)
    from pricing.second_opinion import import_trimesh

    import_trimesh()
    return NICENESS // 2


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _address_space_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except FileNotFoundError:  # not Linux
        return 0
    return pages * resource.getpagesize()


def _limit_processor_time(cpu_s: int) -> None:
    """Let this task use `cpu_s` more seconds; the kernel then sends SIGXCPU, which ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


def _work(kind: _Kind, path: str, content_type: str | None, *rest: Any) -> _Answer:
    """Read one file in a worker; the answer is made of plain bytes and strings."""
    # A release before has no digest in its jobs: the seconds come next.
    sha256, cpu_s, *more = rest if len(rest) > 1 else (None, *rest)
    _limit_processor_time(cpu_s)
    try:
        return ("done", _KINDS[kind](_mapped(path), content_type, sha256, *more))
    except Refused as refused:
        return ("refused", refused.code, refused.detail, refused.remedy)
    except MemoryError:
        return ("refused", "out_of_memory", "Reading the file needs more memory than is allowed.", _SMALLER)


def _mapped(path: str) -> bytes | memoryview:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""  # an empty file cannot be mapped
        # Closing the mapping would raise while numpy still refers to it; it ends with the last reference.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _facts(
    body: bytes | memoryview, content_type: str | None, sha256: str | None, leave_out: tuple[int, ...] = ()
) -> bytes:
    # Only workers need the analyser, which takes a second to import; they are forked with it.
    from pricing.mesh.analysis import analyse

    return msgspec.msgpack.encode(analyse(body, content_type, sha256, leave_out))


def _preview(body: bytes | memoryview, content_type: str | None, sha256: str | None) -> bytes:
    from pricing.mesh.preview import preview

    return preview(body)


def _opinion(body: bytes | memoryview, content_type: str | None, sha256: str | None, facts: bytes) -> bytes:
    from pricing.second_opinion import second_opinion

    return msgspec.msgpack.encode(second_opinion(body, msgspec.msgpack.decode(facts, type=Facts)))


_KINDS: dict[_Kind, Callable[..., bytes]] = {"facts": _facts, "preview": _preview, "opinion": _opinion}


def _unpacked(answer: _Answer) -> bytes:
    if answer[0] == "refused":
        _, code, detail, remedy = answer
        raise Refused(code, detail, remedy)
    return answer[1]
