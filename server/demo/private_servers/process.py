"""A server process of our own: started, stopped, killed, paused; it never outlives who started it."""

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

START_S = 60.0
STOP_S = 30.0
POLL_S = 0.01
PORTS = range(20_000, 30_000)
"""Below the ports that outgoing connections get: one of these stays free while the server on it is down."""
PORT_TRIES = 3

# The guard reads a pipe that only we hold: its end, however we ended, is the end of the server.
# A parent-death signal would come too early: it follows the thread that started the process.
GUARD = 'read -r _; for name in $2; do kill -s "$name" "$1" 2>/dev/null; done'


class ServerUnavailable(Exception):
    """A private server is not available; the message is one line that says why."""


_given_out: set[int] = set()


def free_port() -> int:
    """A port that is not in use and that this process was not given before."""
    for port in random.SystemRandom().sample(PORTS, 500):
        if port not in _given_out and port_is_free(port):
            _given_out.add(port)
            return port
    raise ServerUnavailable(f"no free port from {PORTS.start} to {PORTS.stop - 1}")


def port_is_free(port: int) -> bool:
    with socket.socket() as listener, contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return True
    return False


def poll_until(reached: Callable[[], bool], what: str, deadline_s: float = START_S) -> None:
    """Raises ServerUnavailable when `what` was not reached in time."""
    end_s = time.monotonic() + deadline_s
    while not reached():
        if time.monotonic() > end_s:
            raise ServerUnavailable(f"{what} took more than {deadline_s:g} s")
        time.sleep(POLL_S)


class ProcessState(NamedTuple):
    pid: int
    parent: int
    state: str
    """One letter: R running, S sleeping, T stopped, Z ended."""


def processes() -> Iterator[ProcessState]:
    """All processes of the machine."""
    if not Path("/proc/self/stat").exists():
        table = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, check=True, text=True
        )
        for line in table.stdout.splitlines():
            pid, parent, state = line.split()[:3]
            yield ProcessState(int(pid), int(parent), state[:1])
        return
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # it may end while we look
            if entry.isdecimal():
                state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
                yield ProcessState(int(entry), int(parent), state)


def states_of(pids: list[int]) -> list[str]:
    """Of those that have not ended."""
    return [each.state for each in processes() if each.pid in pids and each.state != "Z"]


class PrivateProcess:
    """One server on a loopback port of its own, which it keeps over restarts as it keeps its data."""

    NAME = "server"
    STOP_SIGNAL = signal.SIGTERM
    GUARD_SIGNALS = "KILL"

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()  # a server has a working directory of its own
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._log_bytes = 0
        self._ran = False

    # What a kind of server fills in

    def _prepare(self) -> None:
        """Make what the server needs before it starts; called before every start."""

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _is_ready(self) -> bool:
        raise NotImplementedError

    def pids(self) -> list[int]:
        return [self.pid]

    def _wipe(self) -> None:
        raise NotImplementedError

    @property
    def _user(self) -> int | None:
        """Whom the processes run as; None: as we do."""
        return None

    # Life

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerUnavailable(f"{self.NAME} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll() if self._process is not None else None

    @property
    def log_file(self) -> Path:
        return self.directory / "log.txt"

    def start(self) -> None:
        """Returns once it answers. Raises ServerUnavailable with the last line of its log."""
        if self.running:
            return
        for _ in range(PORT_TRIES):
            try:
                self._launch()
                return
            except ServerUnavailable:
                self.kill()
                if self._ran or port_is_free(self.port):
                    raise
                self.port = free_port()  # it was taken between our look and the server's
        raise ServerUnavailable(f"{self.NAME} found no free port")

    def _launch(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare()
        with self.log_file.open("ab") as log:
            self._log_bytes = log.tell()
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        self._watch(self._process.pid)
        self._wait_until_ready(self._process)
        self._ran = True

    def _watch(self, pid: int) -> None:
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(pid), self.GUARD_SIGNALS],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._owner = os.getpid()
        atexit.register(self._stop_at_exit)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        end_s = time.monotonic() + START_S
        while not self._is_ready():
            if process.poll() is not None:
                raise ServerUnavailable(f"{self.NAME} ended at its start: {self._last_words()}")
            if time.monotonic() > end_s:
                raise ServerUnavailable(f"{self.NAME} is not ready after {START_S:g} s: {self._last_words()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)

    def _last_words(self) -> str:
        """The line of the log that matters: the last fatal one, or the last."""
        text = self.log_file.read_bytes()[self._log_bytes :].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        fatal = [line for line in lines if "FATAL: " in line]
        return (fatal or lines or ["it said nothing"])[-1]

    def stop(self) -> None:
        """An orderly end, paused or not."""
        process = self._process
        if process is not None and process.poll() is None:
            self.resume()
            process.send_signal(self.STOP_SIGNAL)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._release_guard()

    def kill(self) -> None:
        """SIGKILL to every process of it: no chance to finish anything. Returns when all are gone."""
        process = self._process
        if process is not None and process.poll() is None:
            pids = self._halted()
            self._signal(pids, signal.SIGKILL)
            process.wait()
            poll_until(lambda: not states_of(pids), f"the end of {self.NAME}")
        self._release_guard()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as on a machine that hangs."""
        self._halted()

    def resume(self) -> None:
        self._signal(self.pids(), signal.SIGCONT)

    def restart_empty(self) -> None:
        """As a machine that was replaced: on the same port, without its data."""
        self.kill()
        self._wipe()
        self.start()

    def _halted(self) -> list[int]:
        """Its processes, all stopped; the parent first, so that it starts no more."""
        self._halt([self.pid])
        pids = self.pids()
        self._halt(pids)
        return pids

    def _halt(self, pids: list[int]) -> None:
        self._signal(pids, signal.SIGSTOP)
        poll_until(lambda: set(states_of(pids)) <= {"T", "t"}, f"pausing {self.NAME}")

    def _signal(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _release_guard(self) -> None:
        atexit.unregister(self._stop_at_exit)
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            if guard.stdin is not None:
                guard.stdin.close()

    def _stop_at_exit(self) -> None:
        if os.getpid() == self._owner:  # not in a fork of us
            self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
