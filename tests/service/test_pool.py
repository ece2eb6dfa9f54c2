"""The worker pool: right answers, and every way a file can harm a worker costs that file alone."""

import asyncio
import functools
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pricing import pool as pool_module
from pricing.errors import Refused
from pricing.facts import Facts
from pricing.mesh.analysis import analyse
from pricing.pool import FactsPool, Limits, PoolBusy, PoolClosed
from tests.support import meshes

RING = meshes.binary_stl(meshes.torus())


@asynccontextmanager
async def running(limits: Limits) -> AsyncIterator[FactsPool]:
    pool = FactsPool(limits)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


class Process(NamedTuple):
    """A process by the handle the kernel keeps for it, so that a number used again is never mistaken for
    it.
    """

    pid: int
    handle: int

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end of the process."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def processor_s(self) -> float:
        return (int(stat(self.pid)[11]) + int(stat(self.pid)[12])) / os.sysconf("SC_CLK_TCK")


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ... (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended while we looked
                state, parent, *_ = stat(int(entry.name))
                if int(parent) == pid and state != "Z":  # the dead ones wait for the fork server
                    found.append(int(entry.name))
    return found


def fork_servers(pid: int) -> list[int]:
    """Those of its children that are fork servers: the tests beside may have started other programs."""
    return [child for child in children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()]


def workers(server_pid: int) -> list[Process]:
    """What the fork server of a process started; it is itself a child of that process."""
    pids = [worker for child in fork_servers(server_pid) for worker in children(child)]
    return [Process(pid, os.pidfd_open(pid)) for pid in pids]


@functools.cache
def slow() -> bytes:
    """Six pairs of rings that overlap and have to be united: seconds of work for a worker."""
    ring = meshes.torus(around=300, across=160)
    return meshes.binary_stl(
        np.concatenate([ring + at for pair in range(0, 240, 40) for at in (pair, pair + 1)])
    )


async def refused(answer: Awaitable[Facts]) -> str:
    with pytest.raises(Refused) as caught:
        await answer
    return caught.value.code


@pytest.mark.asyncio
async def test_answers_are_those_of_the_analyser(tmp_path: Path) -> None:
    path = tmp_path / "ring.stl"
    path.write_bytes(RING)
    (tmp_path / "empty").write_bytes(b"")
    async with running(Limits(workers=2)) as pool:
        expected = analyse(RING)
        in_memory, on_disk = await asyncio.gather(pool.analyse(RING), pool.analyse(path))
        assert in_memory == on_disk == expected
        for format_ in meshes.ALL_FORMATS.values():
            assert (await pool.analyse(format_(meshes.torus()))).closed
        assert await refused(pool.analyse(b"hello")) == "not_a_mesh"
        assert await refused(pool.analyse(tmp_path / "empty")) == "empty_file"
        assert await refused(pool.analyse(RING, "model/obj")) == "content_type_mismatch"
        assert pool.ended == {"read": 2 + len(meshes.ALL_FORMATS), "refused": 3}


@pytest.mark.asyncio
async def test_slow_files_hit_the_clock_and_the_next_file_is_answered() -> None:
    async with running(Limits(workers=1, wall_s=0.3)) as pool:
        assert await refused(pool.analyse(slow())) == "time_limit"
        assert (await pool.analyse(RING)).closed
        assert pool.ended == {"stopped": 1, "read": 1}


@pytest.mark.asyncio
async def test_a_full_queue_says_so_and_recovers() -> None:
    async with running(Limits(workers=1, waiting=1)) as pool:
        first, second = (asyncio.create_task(pool.analyse(RING)) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(PoolBusy):
            await pool.analyse(RING)
        assert (await first).closed
        assert (await second).closed
        assert pool.outstanding == 0
        assert (await pool.analyse(RING)).closed
        assert pool.ended == {"busy": 1, "read": 3}


@pytest.mark.asyncio
async def test_too_much_memory_is_refused_and_the_next_file_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "large.stl"
    path.write_bytes(meshes.binary_stl(meshes.torus(around=500, across=400)))
    async with running(Limits(workers=1, memory_bytes=26 << 20)) as pool:
        assert await refused(pool.analyse(path)) == "out_of_memory"
        assert (await pool.analyse(RING)).closed


@pytest.mark.asyncio
async def test_a_killed_worker_fails_its_own_file_only() -> None:
    async with running(Limits(workers=1)) as pool:
        (worker,) = workers(os.getpid())
        answer = asyncio.create_task(pool.analyse(slow()))
        before_s = worker.processor_s()
        await until(lambda: worker.processor_s() > before_s + 0.5)
        os.kill(worker.pid, signal.SIGKILL)
        assert await refused(answer) == "worker_died"
        assert (await pool.analyse(RING)).closed


@pytest.mark.asyncio
async def test_idle_workers_that_are_killed_are_replaced() -> None:
    async with running(Limits(workers=2)) as pool:
        idle = workers(os.getpid())
        for worker in idle:
            os.kill(worker.pid, signal.SIGKILL)
        assert all(worker.ended(10) for worker in idle)
        answers = await asyncio.gather(*(pool.analyse(RING) for _ in range(6)))
        assert all(facts.closed for facts in answers)


@pytest.mark.asyncio
async def test_closing_tells_those_who_wait() -> None:
    async with running(Limits(workers=1)) as pool:
        waiting = [asyncio.create_task(pool.analyse(slow())) for _ in range(3)]
        await asyncio.sleep(0)
        await pool.close()
        for answer in waiting:
            with pytest.raises(PoolClosed):
                await answer


@pytest.mark.asyncio
async def test_processor_time_is_limited() -> None:
    async with running(Limits(workers=1, cpu_s=0)) as pool:
        assert await refused(pool.analyse(slow())) == "time_limit"


@pytest.mark.asyncio
async def test_workers_ignore_an_interrupt_from_the_terminal() -> None:
    async with running(Limits(workers=1)) as pool:
        (worker,) = workers(os.getpid())
        os.kill(worker.pid, signal.SIGINT)
        assert (await pool.analyse(RING)).closed
        assert not worker.ended(0)


@pytest.mark.asyncio
async def test_workers_give_way_to_the_server() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    async with running(Limits(workers=2)):
        started = [os.getpriority(os.PRIO_PROCESS, worker.pid) for worker in workers(os.getpid())]
    assert started == [min(own + 10, 19)] * 2


@pytest.mark.asyncio
async def test_a_pool_that_is_closed_says_so() -> None:
    pool = FactsPool(Limits(workers=1))
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.analyse(RING)


@pytest.mark.asyncio
async def test_a_pool_that_is_closed_while_it_starts_says_so_and_leaves_none_behind() -> None:
    pool = FactsPool(Limits(workers=1))
    waiting = asyncio.create_task(pool.analyse(RING))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    with pytest.raises(PoolClosed):
        await waiting
    await closing
    assert workers(os.getpid()) == []


@pytest.mark.asyncio
async def test_a_model_starts_the_workers_and_whoever_goes_away_meanwhile_leaves_none_behind() -> None:
    pool = FactsPool(Limits(workers=1))
    gone = asyncio.create_task(pool.analyse(RING))
    await asyncio.sleep(0)
    gone.cancel()
    facts = await pool.analyse(RING)
    started = workers(os.getpid())
    assert len(started) == 1
    await pool.close()
    assert facts.closed
    assert all(worker.ended(10) for worker in started)


@pytest.mark.asyncio
async def test_close_leaves_no_worker_behind() -> None:
    async with running(Limits(workers=2)):
        started = workers(os.getpid())
        assert len(started) == 2
    assert all(worker.ended(10) for worker in started)


def test_workers_end_when_the_server_is_killed() -> None:
    code = (
        "import asyncio\n"
        "from pricing.pool import FactsPool, Limits\n"
        "async def main():\n"
        "    await FactsPool(Limits(workers=2)).start()\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = Path(pool_module.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        family = workers(server.pid)
        assert len(family) == 2
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert all(worker.ended(10) for worker in family)


async def until(condition: Callable[[], bool]) -> None:
    """Give way to the loop until something outside of this process has happened."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.to_thread(os.sched_yield)


async def test_a_pool_without_workers_refuses_at_once() -> None:
    pool = FactsPool(Limits(workers=0))
    async with asyncio.timeout(5):
        with pytest.raises(PoolClosed):
            await pool.analyse(b"solid nothing")
    await pool.close()


def test_a_worker_understands_the_jobs_of_releases_before(tmp_path: Path) -> None:
    """A server that is replaced on disk serves on, and starts workers of the release that is there now."""
    path = tmp_path / "ring.stl"
    path.write_bytes(RING)
    jobs = [(kind, str(path), None, *digest, 60) for kind in ("facts", "preview") for digest in ((), (None,))]
    program = (
        "import sys\n"
        "from pricing import pool\n"
        "pool._prepare_worker(1 << 30)\n"
        f"print([pool._work(*job)[0] for job in {jobs!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{['done'] * 4}\n"


async def test_workers_of_the_release_before_are_told_nothing_new_where_it_is_not_needed() -> None:
    jobs: list[object] = []
    pool = FactsPool(Limits(workers=1))

    async def answered(job: tuple[object, ...]) -> bytes:
        jobs.append(job[:1] + job[2:])
        raise Refused("x", "x", "x")

    pool._answered = answered  # type: ignore[method-assign]
    for asked in (pool.analyse(RING), pool.preview(RING), pool.analyse(RING, leave_out=(2,))):
        with pytest.raises(Refused):
            await asked
    assert jobs == [
        ("facts", None, None, 60),
        ("preview", None, None, 60),
        ("facts", None, None, 60, (2,)),
    ]
