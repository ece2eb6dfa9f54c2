"""Kept files: whole or not at all, bounded, the least asked for first."""

import os
import threading
import time
from pathlib import Path

import pytest

from storage.models.files import PARTIAL, PARTIAL_S_MAX, ModelFiles
from tests.support.gates import until

DAY_S = 86_400.0


def name_of(number: int) -> str:
    return f"{number:064x}"


def age(files: ModelFiles, name: str, seconds: float) -> None:
    """As if nobody had asked for it for so long."""
    path = files.path(name)
    assert path is not None
    os.utime(path, (time.time() - seconds,) * 2)


def held(files: ModelFiles, numbers: range) -> list[int]:
    return [number for number in numbers if files._place(name_of(number)).exists()]


def test_a_kept_file_is_found_under_its_name(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path / "kept", 1000)
    source = tmp_path / "source"
    source.write_bytes(b"on disk")
    files.keep(name_of(1), b"in memory")
    files.keep(name_of(2), source)
    found = [files.path(name_of(number)) for number in (1, 2, 3)]
    assert [path and path.read_bytes() for path in found] == [b"in memory", b"on disk", None]
    files.discard(name_of(1))
    files.discard(name_of(3))
    assert files.path(name_of(1)) is None


def test_asking_for_a_file_leaves_its_content_as_old_as_it_is(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 1000)
    files.keep(name_of(1), b"x")
    age(files, name_of(1), DAY_S)
    path = files.path(name_of(1))
    assert path is not None
    status = path.stat()
    assert status.st_atime - status.st_mtime == pytest.approx(DAY_S, abs=60)


def test_past_the_bound_the_least_asked_for_go(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 1000)
    for number in range(10):
        files.keep(name_of(number), b"x" * 100)
        age(files, name_of(number), DAY_S - number)
    assert held(files, range(10)) == list(range(10))
    files.path(name_of(0))
    files.keep(name_of(10), b"x" * 100)
    assert held(files, range(11)) == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert files.tidy() == 900


def test_what_nobody_asks_for_is_not_kept_for_ever(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 1000, 30 * DAY_S)
    for number in range(3):
        files.keep(name_of(number), b"x")
        age(files, name_of(number), (29 + number) * DAY_S)
    assert files.tidy() == 1
    assert held(files, range(3)) == [0]


def test_what_another_process_keeps_counts_as_well(tmp_path: Path) -> None:
    here, there = ModelFiles(tmp_path, 1000), ModelFiles(tmp_path, 1000)
    here.keep(name_of(1), b"x" * 400)
    there.keep(name_of(2), b"x" * 400)
    age(there, name_of(2), DAY_S)
    there.keep(name_of(3), b"x" * 400)
    assert here.tidy() <= 1000


def test_a_file_kept_by_many_at_once_is_whole(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 10**9)
    body = os.urandom(1 << 20)
    threads = [threading.Thread(target=files.keep, args=(name_of(1), body)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = files.path(name_of(1))
    assert path is not None
    assert path.read_bytes() == body
    assert [file.name for file in path.parent.iterdir()] == [name_of(1)]


def test_what_a_killed_process_left_unfinished_goes(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 1000)
    files.keep(name_of(1), b"x")
    folder = files._place(name_of(1)).parent
    old, new = folder / f"old{PARTIAL}", folder / f"new{PARTIAL}"
    for partial in (old, new):
        partial.write_bytes(b"half")
    os.utime(old, (time.time() - PARTIAL_S_MAX - 1,) * 2)
    assert files.tidy() == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, 1000)
    with pytest.raises(FileNotFoundError):
        files.keep(name_of(1), tmp_path / "nowhere")
    assert files.path(name_of(1)) is None
    assert list(files._place(name_of(1)).parent.iterdir()) == []


async def test_a_file_that_is_still_being_written_is_not_there_yet(tmp_path: Path) -> None:
    files, source = ModelFiles(tmp_path / "kept", 1000), tmp_path / "source"
    os.mkfifo(source)
    keeping = threading.Thread(target=files.keep, args=(name_of(1), source))
    keeping.start()
    folder = files._place(name_of(1)).parent
    await until(lambda: folder.is_dir() and list(folder.iterdir()))
    assert [file.suffix for file in folder.iterdir()] == [PARTIAL]
    assert (files.path(name_of(1)), files.tidy()) == (None, 0)
    source.write_bytes(b"x")
    keeping.join()
    assert [file.name for file in folder.iterdir()] == [name_of(1)]


async def test_a_finished_file_is_kept_under_another_name_without_a_copy(tmp_path: Path) -> None:
    files, source = ModelFiles(tmp_path / "kept", 1000), tmp_path / "source"
    source.write_bytes(b"body")
    files.keep(name_of(1), source)
    kept = files.path(name_of(1))
    assert kept is not None
    assert kept.samefile(source)
    source.unlink()
    assert kept.read_bytes() == b"body"
