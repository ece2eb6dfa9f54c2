"""What the HTTP benchmarks share: servers and the load generator as processes, and their processor time."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from storage.data_directory import DataDirectory

ROOT = Path(__file__).parent.parent
ADMIN_TOKEN = "an-admin-token-for-benchmarks"
CALLERS = 32
SERVER_CORE, GENERATOR_CORE = 0, 1
START_S = 60.0
POLL_S = 0.02
ATTEMPTS, ATTEMPT_PAUSE_S = 10, 0.5


class Answered(NamedTuple):
    """What one round of load brought. `cpu_us`: processor time of the server per request."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    statuses: dict[str, int]


class Subject:
    """A server process under load from a generator process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, directory: Path) -> None:
        self.port = port
        self.process = process
        self._directory = directory
        self._generator = popen(
            ["-m", "benchmarks.load", str(port), str(CALLERS), str(GENERATOR_CORE)], stdin=subprocess.PIPE
        )

    def load(
        self, requests: Iterable[bytes], seconds: float, *, repeat: bool = True, callers: int = CALLERS
    ) -> Answered:
        """Send these for so long, all over again or (`repeat` False) each once at most."""
        file = self._directory / f"requests-{self.port}"
        file.write_text("".join(json.dumps(request.decode()) + "\n" for request in requests))
        assert self._generator.stdin is not None
        assert self._generator.stdout is not None
        began_s = cpu_s(self.process.pid)
        command = {"file": str(file), "seconds": seconds, "repeat": repeat, "callers": callers}
        self._generator.stdin.write(json.dumps(command) + "\n")
        self._generator.stdin.flush()
        answer = json.loads(self._generator.stdout.readline())
        spent_s = cpu_s(self.process.pid) - began_s
        count = answer["count"]
        return Answered(
            per_s=count / answer["seconds"],
            p50_ms=answer["p50_ms"],
            p99_ms=answer["p99_ms"],
            cpu_us=spent_s / count * 1e6,
            statuses=answer["statuses"],
        )

    def close(self) -> None:
        for process in (self._generator, self.process):
            process.terminate()
            process.wait()


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        shown = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True)
        parts = [float(part) for part in shown.stdout.strip().replace("-", ":").split(":")]
        return sum(part * 60.0**place for place, part in enumerate(reversed(parts)))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def popen(
    words: list[str], settings: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """Python with these words; of this process's settings it sees none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACET_")}
    environment |= {"PYTHONPATH": str(ROOT), "FACET_ADMIN_TOKEN": ADMIN_TOKEN, **(settings or {})}
    command = [sys.executable, *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


@contextlib.contextmanager
def facet(directory: Path, name: str = "facet", root: Path = ROOT, /, **settings: str) -> Iterator[Subject]:
    """The service itself, `facet serve`, over a data directory of this name, on one core. `root`: the
    checkout whose code runs."""
    data_dir = directory / name
    start = "import sys; from benchmarks.load import pin; pin(0); from server.commands.cli import main"
    words = ["-c", f"{start}; sys.exit(main(['serve', '--port', '0', '--data-dir', {str(data_dir)!r}]))"]
    log_file = directory / f"{name}.log"
    with log_file.open("w") as log:
        process = popen(words, {"PYTHONPATH": str(root), **settings}, stderr=log, cwd=root)
    deadline_s = time.monotonic() + START_S
    while (holder := _holder(data_dir)) is None or holder[0] != process.pid:
        if time.monotonic() > deadline_s or process.poll() is not None:
            raise RuntimeError(f"the service did not start: {log_file.read_text()[-2000:]}")
        time.sleep(POLL_S)
    subject = Subject(process, holder[1], directory)
    try:
        yield subject
    finally:
        subject.close()


def _holder(data_dir: Path) -> tuple[int, int] | None:
    holder = DataDirectory(data_dir).holder()
    if holder is None or holder.url is None:
        return None
    return holder.pid, int(holder.url.rpartition(":")[2])


@contextlib.contextmanager
def baseline(module: str, directory: Path, *words: str) -> Iterator[Subject]:
    """A server to compare with, in a process of its own on the same core; it prints its port."""
    process = popen(["-m", module, *words])
    assert process.stdout is not None
    subject = Subject(process, int(process.stdout.readline()), directory)
    try:
        yield subject
    finally:
        subject.close()


def fetch(port: int, method: str, path: str, body: Any = None) -> Any:
    """One plain request to the service; the JSON of its answer. Asked again when it is told to come back:
    a busy machine's disk may keep Redis from answering in time."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"},
    )
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == ATTEMPTS - 1:
                raise
            time.sleep(ATTEMPT_PAUSE_S)
    raise AssertionError


def median(answers: list[Answered], field: str) -> float:
    values: list[float] = [getattr(answered, field) for answered in answers]
    return statistics.median(values)


def figures(rounds: dict[str, list[Answered]]) -> dict[str, float]:
    """Medians of every field of every subject."""
    return {
        f"{name}_{field}": round(median(answers, field), 2)
        for name, answers in rounds.items()
        for field in Answered._fields[:4]
    }


def ratio(over: list[Answered], under: list[Answered], field: str) -> float:
    """The median of the rounds' own ratios: neighbours in time have the machine in the same mood."""
    pairs = zip(over, under, strict=True)
    ratios: list[float] = [getattr(a, field) / getattr(b, field) for a, b in pairs]
    return round(statistics.median(ratios), 2)


def machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.system()}
