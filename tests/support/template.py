"""Servers and commands as forks of one process that has imported the program: two thirds of what a start
costs are imports, and hundreds are started.

A fork runs the same `main` with its own words, environment, folder and files, and is a child of whoever asked
for it. What is started with another checkout, another interpreter's settings, or on another system than Linux
starts from nothing, as do the workers that a server starts itself.
"""

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]
PREFIXES = ("FACET_", "TEST_")
"""Settings of the program: read when it runs. All others may have been read before the fork."""
REQUEST_BYTES = 1 << 17
PR_SET_CHILD_SUBREAPER = 36
IMPORTED = (
    "server.commands.cli",
    "server.commands.doctor",
    "server.commands.move",
    "server.open_servers",
    "server.process.serve",
    "server.process.workers",
    "storage.postgresql.database",
    "storage.redis.change_log",
)


class Process(Protocol):
    """What `subprocess.Popen` and a fork have in common."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...


class Fork:
    """A child that somebody else has made for this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = os.pidfd_open(pid)
        self._looking = threading.Lock()

    def poll(self) -> int | None:
        with self._looking:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                    os.close(self._ended)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)


def start(
    module: str,
    words: Sequence[str],
    environment: Mapping[str, str],
    output: int,
    errors: int,
    root: Path = ROOT,
    given: int | None = None,
) -> Process:
    """`python -m module words`, its input (`given`; None: nothing) and outputs from and to these
    descriptors."""
    if given is None:
        with open(os.devnull) as nothing:
            return start(module, words, environment, output, errors, root, nothing.fileno())
    if root == ROOT and sys.platform == "linux" and _same_interpreter(environment):
        with Template.turn:
            return Template.here().fork(module, words, environment, (given, output, errors))
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd=root,
        env=dict(environment),
        stdin=given,
        stdout=output,
        stderr=errors,
    )


def environment_of(given: Mapping[str, str], root: Path = ROOT) -> dict[str, str]:
    """Without the settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FACET_")}
    return {**inherited, "PYTHONPATH": str(root), **given}


def _same_interpreter(environment: Mapping[str, str]) -> bool:
    expected = environment_of({})
    names = environment.keys() | expected.keys()
    return all(environment.get(name) == expected.get(name) for name in names if not name.startswith(PREFIXES))


class Template:
    """One per test process, whose threads take turns: what is adopted meanwhile must be of the right one."""

    turn = threading.Lock()

    @staticmethod
    @functools.cache
    def here() -> "Template":
        return Template()

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                env=environment_of({}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], standard: Sequence[int]
    ) -> Fork:
        """`standard`: its three descriptors."""
        mask = os.umask(0)
        os.umask(mask)
        asked = json.dumps([module, list(words), dict(environment), mask]).encode()
        with _adopting():
            socket.send_fds(self._socket, [asked], standard)
            return Fork(int(self._socket.recv(64)))


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Meanwhile what descends from this process and loses its parent is a child of this process."""
    control = ctypes.CDLL(None, use_errno=True).prctl
    control(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        control(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def main(descriptor: int) -> int:
    """Forks until nobody asks any more; in a fork, the exit code of what was asked for."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # else the first collection of each fork copies all of this process's pages
    with socket.socket(fileno=descriptor) as connection:
        while True:
            asked, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 3)
            if not asked:
                return 0
            pid = _fork_away()
            if pid == 0:
                break
            for each in descriptors:
                os.close(each)
            connection.send(str(pid).encode())
    for target, each in enumerate(descriptors):
        os.dup2(each, target)
        os.close(each)
    module, words, environment, mask = json.loads(asked)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _fork_away() -> int:
    """0 in the fork, which has no parent here; its process id in this process."""
    reading, writing = os.pipe()
    between = os.fork()
    if between:
        os.close(writing)
        os.waitpid(between, 0)
        with os.fdopen(reading) as told:
            return int(told.read())
    between = os.getpid()
    if pid := os.fork():
        os.write(writing, str(pid).encode())
        os._exit(0)
    while os.getppid() == between:  # until it has the parent that it will keep
        os.sched_yield()
    os.close(reading)
    os.close(writing)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
