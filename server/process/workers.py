"""Several processes on one socket. The parent owns the socket and never serves; workers inherit it and accept
on it, so that a connection waits for whichever worker is there and is lost with none.

    parent --spawns--> python -m server worker --listener FD --link FD
           <--link---  "ready" once it serves; the link's end tells either side that the other is gone
           --SIGTERM-> finish and end      --SIGINT-> the same without waiting for anybody

What the parent and a worker say to each other stays as it is from release to release: in a rolling upgrade
the parent of the old one starts the workers of the new one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from server.config import ConfigError, Settings
from server.process import listening, serve
from storage.data_directory import DataDirectory

logger = logging.getLogger("facet.workers")

READY = b"ready"
START_DEADLINE_S = 300.0
"""From when a worker is begun until it serves."""
STEADY_S = 10.0
"""Who serves this long has not died at once."""
PAUSE_MIN_S, PAUSE_MAX_S = 0.2, 10.0
FAILURES_MAX = 5
"""Starts that fail one after the other, with no worker left, before the parent gives up."""
HURRIED_END_S = 5.0


def run(settings: Settings, started: Callable[[str], None] | None = None) -> int:
    """Serve with `settings.workers` processes until a signal comes. `started` is told the address once all
    serve. Raises ConfigError."""
    with (
        contextlib.closing(listening.bound_socket(settings.host, settings.port)) as listener,
        serve.directory_of_parent(settings),
    ):
        return asyncio.run(Parent(settings, listener).run(started))


def reload(settings: Settings) -> int:
    """Ask for a rolling restart; the process that was asked. Raises ConfigError."""
    if (parent := _parent_of(DataDirectory(settings.data_dir))) is None:
        raise ConfigError(f"no server with several workers (FACET_WORKERS) is running on {settings.data_dir}")
    return parent


def _parent_of(directory: DataDirectory) -> int | None:
    """The parent that was told to reload; None when there is none."""
    holder = directory.parent()
    if holder is not None and holder.is_here:
        return holder.pid if _told(holder.pid, lambda: directory.parent() == holder) else None
    for worker in directory.holders().values():  # a parent of a release that did not hold a lock
        parent = worker.parent if worker.is_here else None
        if parent is not None and _told(parent, lambda: _parent_now(worker.pid) == parent):  # noqa: B023
            return parent
    return None


def _told(pid: int, is_it: Callable[[], bool]) -> bool:
    """Send SIGHUP. The number may have been given to another process since it was written down: so it is
    sent through a descriptor, opened before it is looked whether this still is the one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_it():
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise ConfigError(f"process {pid} belongs to another user: only its owner may reload it") from None
    finally:
        os.close(descriptor)
    return True


def _parent_now(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def run_worker(settings: Settings, listener_descriptor: int, link_descriptor: int) -> int:
    """Serve until the parent says so, or is gone. Raises ConfigError."""
    with socket.socket(fileno=listener_descriptor) as listener, socket.socket(fileno=link_descriptor) as link:
        for inherited in (listener, link):
            inherited.set_inheritable(False)
            inherited.setblocking(False)
        serve.raise_file_limit()
        with serve.prepared_directory(settings) as directory:
            return uvloop.run(_work(settings, directory, listener, link))


async def _work(
    settings: Settings, directory: DataDirectory, listener: socket.socket, link: socket.socket
) -> int:
    stopping, loop = listening.Stopping(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.asked.set)
    loop.add_signal_handler(signal.SIGINT, stopping.hurry)

    def parent_is_gone() -> None:
        loop.remove_reader(link)
        stopping.asked.set()

    async def started(app: web.Application, url: str) -> None:
        with contextlib.suppress(OSError):
            link.send(READY)

    loop.add_reader(link, parent_is_gone)  # it never sends anything: readable is the end
    return await serve.serve(settings, directory, listener, stopping, started, os.getppid())


class Worker:
    """One serving process, as the parent sees it."""

    def __init__(self, process: asyncio.subprocess.Process, link: socket.socket) -> None:
        self.pid = process.pid
        self.ready_s = 0.0
        self.ended = asyncio.create_task(process.wait())
        self._process = process
        self._link = link
        self.ended.add_done_callback(lambda task: link.close())

    @classmethod
    async def spawn(cls, settings: Settings, listener: socket.socket) -> "Worker":
        """A fresh interpreter: it runs whatever code is installed now. In a session of its own, since Ctrl-C
        in a terminal is for the parent alone."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        descriptors = (listener.fileno(), theirs.fileno())
        words = ["-m", "server", "worker", f"--listener={descriptors[0]}", f"--link={descriptors[1]}"]
        words += [f"--host={settings.host}", f"--port={settings.port}", f"--data-dir={settings.data_dir}"]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *words, pass_fds=descriptors, start_new_session=True
            )
        return cls(process, ours)

    async def starts(self) -> bool:
        """Whether it comes to serve; False when it ends before, or takes too long."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                with contextlib.suppress(OSError):
                    if await loop.sock_recv(self._link, len(READY)) == READY:
                        self.ready_s = loop.time()
                        return True
                await asyncio.shield(self.ended)  # the link is gone first, then the process
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await asyncio.shield(self.ended)
        return False

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)


class Terminal:
    """The terminal that this process was started from. When it closes, it sends the signal that elsewhere
    asks for a reload."""

    def __init__(self) -> None:
        outlives_it = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup has it
        self._had_one = not outlives_it and self._is_there()

    def closed(self) -> bool:
        return self._had_one and not self._is_there()

    @staticmethod
    def _is_there() -> bool:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            return False
        return True


class Parent:
    """Starts workers, replaces those that die, and all of them one by one when asked to."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._places: list[Worker | None] = [None] * settings.workers
        self._locks = [asyncio.Lock() for _ in self._places]
        """A place is filled by one task at a time: that which replaces the dead, or that which reloads."""
        self._alive: set[Worker] = set()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._terminal = Terminal()
        self._signals = 0
        self._failures = 0
        self._code = 0

    async def run(self, started: Callable[[str], None] | None) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        task = asyncio.create_task(self._serve(started))
        await _first_of(task, self._stop.wait())
        codes = await self._end(list(self._alive))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # already stopping: further signals are ignored
        if any(code not in (0, -signal.SIGTERM) for code in codes):
            self._code = 1
        return task.result() if task.done() and not task.cancelled() else self._code

    async def _serve(self, started: Callable[[str], None] | None) -> int:
        """Returns, with an exit code, only when it cannot continue."""
        first = await self._spawn()
        if not await first.starts():  # it has said why, and the others would say the same
            return 2 if first.ended.result() == 2 else 1
        self._places[0] = first
        await asyncio.gather(*(self._fill(index, None) for index in range(1, len(self._places))))
        url = listening.url_of(self._listener)
        logger.info("serving on %s with %d workers", url, len(self._alive))
        if started is not None:
            started(url)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reload_when_asked())
            for index in range(len(self._places)):
                group.create_task(self._keep_filled(index))
        return self._code

    async def _spawn(self) -> Worker:
        worker = await Worker.spawn(self._settings, self._listener)
        self._alive.add(worker)
        worker.ended.add_done_callback(lambda task: self._alive.discard(worker))
        return worker

    async def _fill(self, index: int, gone: Worker | None) -> None:
        """Put a new worker in the place of one that is gone, unless that has happened."""
        async with self._locks[index]:
            if self._places[index] is not gone:
                return
            worker = await self._spawn()
            self._places[index] = worker if await worker.starts() else None
            self._failures = 0 if self._places[index] is not None else self._failures + 1
        if self._failures >= FAILURES_MAX and not any(self._places):
            logger.critical("no worker comes to serve: the service stops")
            self._code = 1
            self._stop.set()

    async def _keep_filled(self, index: int) -> None:
        deaths = 0
        while True:
            if (worker := self._places[index]) is not None:
                code = await asyncio.shield(worker.ended)  # the canceller waits for the process itself
                if worker is not self._places[index]:
                    continue  # it was replaced
                logger.error("worker %d ended with %d: another takes its place", worker.pid, code)
                if asyncio.get_running_loop().time() - worker.ready_s >= STEADY_S:
                    deaths = 0
            if deaths:
                await asyncio.sleep(min(PAUSE_MIN_S * 2 ** (deaths - 1), PAUSE_MAX_S))
            deaths += 1
            await self._fill(index, worker)

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            logger.info("replacing %d workers one by one", len(self._places))
            for index in range(len(self._places)):
                if not await self._replace(index):
                    logger.error("a new worker does not come to serve: the others stay as they are")
                    break
            else:
                logger.info("all workers are replaced")

    async def _replace(self, index: int) -> bool:
        """The new one serves before the old one goes."""
        async with self._locks[index]:
            new = await self._spawn()
            if not await new.starts():
                return False
            old, self._places[index] = self._places[index], new
        if old is not None:
            await self._end([old])
        return True

    def _hung_up(self) -> None:
        if self._terminal.closed():
            self._asked_to_stop()
        else:
            self._reload.set()

    def _asked_to_stop(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            for worker in self._alive:
                worker.signal(signal.SIGINT)
            asyncio.get_running_loop().call_later(HURRIED_END_S, self._kill, list(self._alive))

    async def _end(self, workers: list[Worker]) -> list[int]:
        """They finish what is under way; who does not in time is killed: the log has what it held. Returns
        their exit codes."""
        deadline_s = self._settings.drain_s + self._settings.grace_s + 3 * listening.SHUTDOWN_S
        timer = asyncio.get_running_loop().call_later(deadline_s, self._kill, workers)
        for worker in workers:
            worker.signal(signal.SIGTERM)
        codes = await asyncio.gather(*(asyncio.shield(worker.ended) for worker in workers))
        timer.cancel()
        return codes

    def _kill(self, workers: list[Worker]) -> None:
        for worker in self._alive.intersection(workers):
            logger.error("worker %d does not end: it is killed", worker.pid)
            worker.signal(signal.SIGKILL)


async def _first_of(task: "asyncio.Task[Any]", other: Coroutine[Any, Any, Any]) -> None:
    """Returns when one of them has ended; the other is cancelled and over."""
    tasks = (task, asyncio.create_task(other))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for pending in tasks:
        pending.cancel()
    await asyncio.wait(tasks)
