"""Commands of the program, run as a user runs them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from storage.data_directory import DataDirectory
from tests.support.processes import POLL_S, ROOT, START_S


def facet(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs to its end; both outputs kept."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=60,
    )


@contextlib.contextmanager
def serving(
    directory: Path, *arguments: str, processes: int = 1, start_s: float = START_S
) -> Iterator["subprocess.Popen[str]"]:
    """A command that serves, once so many processes do; stopped at the end, its exit code then known."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env=_environment({}),
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


def _environment(given: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FACET_")}
    return {**inherited, "PYTHONPATH": str(ROOT), **given}
