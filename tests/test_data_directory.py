"""The data directory: one process at a time, private, and clean of what a crash left behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.data_directory import DataDirectory, Holder
from storage.errors import DataDirectoryInUse
from tests.processes import ROOT

HOLD = """
import sys
from pathlib import Path
from storage.data_directory import DataDirectory
with DataDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    return directory


def test_nobody_else_may_look_into_it(directory: DataDirectory) -> None:
    for path in (directory.path, directory.models, directory.uploads):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_one_at_a_time_and_the_next_when_the_first_has_left(directory: DataDirectory) -> None:
    assert directory.holder() is None
    with directory:
        assert directory.holder() == Holder(os.getpid())
        with pytest.raises(DataDirectoryInUse, match=str(os.getpid())), DataDirectory(directory.path):
            pass
    assert directory.holder() is None
    with directory:
        pass


def test_the_holder_says_where_it_listens(directory: DataDirectory) -> None:
    with directory:
        directory.announce(Holder(os.getpid(), control="/a/long/path/to/a/socket", url="http://localhost:1"))
        directory.announce(Holder(os.getpid(), url="http://localhost:2"))
        assert DataDirectory(directory.path).holder() == Holder(os.getpid(), url="http://localhost:2")


def test_a_process_that_is_killed_leaves_no_lock(directory: DataDirectory) -> None:
    command = [sys.executable, "-c", HOLD, str(directory.path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert directory.holder() == Holder(process.pid)
        with pytest.raises(DataDirectoryInUse, match=str(process.pid)), directory:
            pass
        process.kill()
    assert directory.holder() is None
    with directory:
        pass


def test_what_an_interrupted_upload_left_is_removed(directory: DataDirectory) -> None:
    leftover = directory.uploads / "half a ring"
    leftover.write_bytes(b"solid")
    with directory:
        assert not leftover.exists()


def test_looking_who_holds_it_does_not_take_it(directory: DataDirectory) -> None:
    for _ in range(3):
        assert DataDirectory(directory.path).holder() is None
    with directory:
        assert directory.holder() is not None
