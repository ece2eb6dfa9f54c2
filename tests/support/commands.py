"""Commands of the program, run as a user runs them."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from storage.data_directory import DataDirectory
from tests.support.processes import POLL_S, START_S
from tests.support.template import ROOT, environment_of, start

END_S = 60.0


def facet(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs to its end; both outputs kept."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = start("server", arguments, environment_of(environment), output.fileno(), errors.fileno())
        try:
            code = process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        told = [_text(output), _text(errors)]
    return subprocess.CompletedProcess(arguments, code, *told)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@contextlib.contextmanager
def serving(
    directory: Path, *arguments: str, processes: int = 1, start_s: float = START_S
) -> Iterator["subprocess.Popen[str]"]:
    """A command that serves, once so many processes do; stopped at the end, its exit code then known."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env=environment_of({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait(directory, process, processes, start_s)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _wait(directory: Path, process: "subprocess.Popen[str]", processes: int, start_s: float) -> None:
    deadline_s = time.monotonic() + start_s
    while time.monotonic() < deadline_s and process.poll() is None:
        holders = DataDirectory(directory).holders().values()
        serve = [each for each in holders if process.pid in (each.pid, each.parent) and each.url is not None]
        if len(serve) >= processes:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
    process.kill()
    raise RuntimeError(f"it did not start serving: {process.communicate()[0]}")
