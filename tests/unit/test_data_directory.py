"""The data directory: one process at a time, private, and clean of what a crash left behind."""

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from storage.data_directory import INSTANCES_MAX, DataDirectory, Holder
from storage.errors import DataDirectoryInUse
from tests.support.template import ROOT

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


# --- Shared by several processes


def shared(directory: DataDirectory) -> DataDirectory:
    """Another process's view of it."""
    return DataDirectory(directory.path, shared=True)


def test_several_share_it_each_with_a_lock_an_uploads_folder_and_a_socket_of_its_own(
    directory: DataDirectory,
) -> None:
    with shared(directory) as one, shared(directory) as two, shared(directory) as three:
        assert [one.instance, two.instance, three.instance] == [1, 2, 3]
        for paths in zip(
            *((each.lock, each.uploads, each.control) for each in (one, two, three)), strict=True
        ):
            assert len(set(paths)) == 3
        assert one.lock == directory.lock
        assert stat.S_IMODE(two.uploads.stat().st_mode) == 0o700
        assert list(directory.holders()) == [1, 2, 3]
    assert directory.holders() == {}


def test_the_place_of_one_that_has_left_is_taken_by_the_next(directory: DataDirectory) -> None:
    with shared(directory), shared(directory) as two:
        with shared(directory):
            pass
        with shared(directory) as three:
            assert three.instance == 3
    with shared(directory) as one:
        assert (one.instance, two.instance) == (1, 2)


def test_only_its_own_interrupted_uploads_are_removed(directory: DataDirectory) -> None:
    with shared(directory) as one:
        under_way = one.uploads / "half a ring"
        under_way.write_bytes(b"solid")
        with shared(directory):
            assert under_way.exists()


def test_one_that_needs_it_for_itself_is_refused_while_any_of_several_is_there(
    directory: DataDirectory,
) -> None:
    with shared(directory):
        second = shared(directory).__enter__()
    with pytest.raises(DataDirectoryInUse, match=str(os.getpid())), DataDirectory(directory.path):
        pass
    assert list(directory.holders()) == [2]
    second.__exit__(None, None, None)
    with directory:
        assert list(directory.holders()) == [1]


def test_there_is_a_most_that_can_share_it(directory: DataDirectory) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(INSTANCES_MAX):
            stack.enter_context(shared(directory))
        with pytest.raises(DataDirectoryInUse, match=f"{INSTANCES_MAX} processes"), shared(directory):
            pass


def test_commands_are_sent_to_one_that_serves_on_this_machine(directory: DataDirectory) -> None:
    with shared(directory) as one, shared(directory) as two, shared(directory) as three:
        assert directory.holder() == Holder(os.getpid())
        three.announce(Holder(3, control="/three.sock"))
        assert directory.holder() == Holder(3, control="/three.sock")
        two.announce(Holder(2, control="/two.sock", host="elsewhere"))
        assert directory.holder() == Holder(3, control="/three.sock")
        one.announce(Holder(1, control="/one.sock"))
        assert directory.holder() == Holder(1, control="/one.sock")
