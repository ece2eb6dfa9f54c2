"""The demonstration and its tour, as a newcomer starts them."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.demo.private_servers.process import poll_until, processes
from storage.data_directory import DataDirectory
from tests.support.commands import facet, serving
from tests.support.template import ROOT

START_S = 240.0


@pytest.mark.slow
def test_the_demo_fills_itself_serves_and_keeps_every_promise_of_the_tour(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    words = ("demo", "--embedded", "--port", "0", "--data-dir", str(directory))
    with serving(directory, *words, start_s=START_S) as demo:
        tour = facet("tour", "--data-dir", str(directory))
        assert tour.returncode == 0, tour.stdout + tour.stderr
        assert "12 promises kept" in tour.stdout
    assert demo.returncode == 0
    assert not (directory / "valkey").exists()


@pytest.mark.slow
def test_the_full_demo_shows_two_processes_and_redis_killed_and_keeps_its_data(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    words = ("demo", "--port", "0", "--data-dir", str(directory))
    with in_a_terminal(*words) as (demo, terminal):
        said = b""
        while b"Stop with Ctrl-C" not in said:
            said += os.read(terminal, 65_536)
        tour = facet("tour", "--data-dir", str(directory))
        assert tour.returncode == 0, tour.stdout + tour.stderr
        assert "14 promises kept" in tour.stdout
        assert "Redis is killed and comes back" in tour.stdout
        own = descendants(demo.pid)
        assert {"valkey-server", "redis-server"} & set(own.values())
        assert "postgres" in own.values()
        examined = facet("doctor", "--data-dir", str(directory))
        assert examined.returncode == 0, examined.stdout
        assert "postgresql" in examined.stdout
    assert demo.wait(60) == 0
    assert b"asyncio" not in said
    poll_until(lambda: not still_there(own), "the end of all that the demo started", START_S)
    refused = facet(*words, "--embedded")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    for command in ("migrate", "token list", "serve --port 0"):
        answered = facet(*command.split(), "--data-dir", str(directory))
        assert (answered.returncode, answered.stderr.count("\n")) == (2, 1), command
        assert "./facet demo" in answered.stderr
    examined = facet("doctor", "--data-dir", str(directory))
    assert examined.returncode == 0, examined.stdout
    assert not (directory / "facet.db").exists()
    with serving(directory, *words, processes=2, start_s=START_S) as demo_again:
        token = json.loads((directory / "demo.json").read_text())["admin admin"]
        holder = DataDirectory(directory).holder()
        assert holder is not None
        counts = read(f"{holder.url}/v1/orders/counts", token)["counts"]
        assert sum(counts.values()) > 600
        own = descendants(demo_again.pid)
        demo_again.kill()
        demo_again.wait()
        poll_until(lambda: not still_there(own), "the end of all that the demo started", START_S)


@contextlib.contextmanager
def in_a_terminal(*words: str) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """A command as a person starts it, in a terminal that closes at the end."""
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    try:
        yield process, terminal
    finally:
        os.close(terminal)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, with nohup say


def read(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def descendants(pid: int) -> dict[int, str]:
    """Process -> its name, of all that a process started, directly or not."""
    found = {pid}
    for _ in range(5):
        found |= {each.pid for each in processes() if each.parent in found}
    return {each: Path(f"/proc/{each}/comm").read_text().strip() for each in found - {pid}}


def still_there(pids: dict[int, str]) -> list[int]:
    """Not those that ended, and whose number somebody else has now."""
    alive = {each.pid for each in processes() if each.state != "Z"}
    return [pid for pid, name in pids.items() if pid in alive and name_of(pid) == name]


def name_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


@pytest.mark.slow
def test_a_demo_that_was_interrupted_while_it_filled_itself_starts_again(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "demo.unfinished").touch()
    (directory / "facet.db").write_bytes(b"half of something")
    words = ("demo", "--embedded", "--port", "0", "--data-dir", str(directory))
    with serving(directory, *words, start_s=START_S):
        assert len(json.loads((directory / "demo.json").read_text())) == 8


def test_a_demo_refuses_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    refused = facet("demo", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "not a demo" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_tour_without_a_demo_says_how_to_start_one(tmp_path: Path) -> None:
    refused = facet("tour", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "./facet demo" in refused.stderr
    assert DataDirectory(tmp_path).holder() is None
