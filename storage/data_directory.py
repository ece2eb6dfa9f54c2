"""The data directory: what lies where, and locks that say which processes use it.

With the embedded engine one process at a time does. With Redis and PostgreSQL nothing in it belongs to one
process but the folder of uploads under way and the control socket: each process is an instance with its own,
and the directory is shared, also between machines over a volume that passes locks on.
"""

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from storage.errors import DataDirectoryInUse

LOCK_ATTEMPTS = 5
LOCK_PAUSE_S = 0.02
INSTANCES_MAX = 64
_LOCK_NAME = re.compile(r"facet(?:-([0-9]{1,2}))?\.lock")


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: written into it for the commands that want to talk to the server."""

    pid: int
    control: str | None = None
    url: str | None = None
    parent: int | None = None
    """The process that started it and restarts it, if there is one."""
    host: str = msgspec.field(default_factory=socket.gethostname)

    @property
    def is_here(self) -> bool:
        """On this machine: its control socket can be reached."""
        return self.host == socket.gethostname()


class DataDirectory:
    """Paths under one directory. As a context manager it holds a lock; the kernel lets go of it when the
    process ends, however it ends."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self.database = path / "facet.db"
        self.log = path / "log.db"
        self.models = path / "models"
        self.previews = path / "previews"
        self.admin_token = path / "admin-token"
        self.link_key = path / "link-key"
        self.instance = 1
        self.announced = Holder(os.getpid())
        self._shared = shared
        self._descriptor: int | None = None

    @property
    def lock(self) -> Path:
        return self.path / f"facet{self._suffix}.lock"

    @property
    def uploads(self) -> Path:
        return self.path / f"uploads{self._suffix}"

    @property
    def control(self) -> Path:
        return self.path / f"control{self._suffix}.sock"

    @property
    def _suffix(self) -> str:
        """The first instance's names have none: alone, it is the only one there is."""
        return "" if self.instance == 1 else f"-{self.instance}"

    def create(self) -> None:
        """Raises OSError when it cannot be made or written to."""
        for directory in (self.path, self.models, self.previews, self.uploads):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in (self.database, self.log, self.link_key, self.admin_token):
            for path in (file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))):
                _keep_private(path)

    def __enter__(self) -> Self:
        """Raises DataDirectoryInUse."""
        if self._shared:
            self._hold_any()
        else:
            self._hold_alone()
        self.announce(Holder(os.getpid()))
        self.uploads.mkdir(exist_ok=True, mode=0o700)
        for leftover in self.uploads.iterdir():
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def own_postgres(self) -> Path:
        """Where a demo has the data of a PostgreSQL of its own."""
        return self.path / "postgres"

    @property
    def parent_lock(self) -> Path:
        return self.path / "parent.lock"

    @contextlib.contextmanager
    def held_by_parent(self) -> Iterator[None]:
        """Say that this process starts workers here, for as long as it lives. (The kernel lets go of a lock
        when its process ends, so that nobody takes another process with the same number for it.)"""
        descriptor = os.open(self.parent_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _locked(descriptor, LOCK_ATTEMPTS):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, msgspec.json.encode(Holder(os.getpid())), 0)
            yield
        finally:
            os.close(descriptor)

    def parent(self) -> Holder | None:
        """The process that starts workers here; None when none does."""
        return _holder_of(self.parent_lock)

    def announce(self, holder: Holder) -> None:
        """Say in the lock who holds it and where it listens."""
        assert self._descriptor is not None
        self.announced = holder
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(holder), 0)

    def holder(self) -> Holder | None:
        """Who uses the directory now: of several, one that commands can talk to, if there is one. None when
        nobody does."""
        holders = self.holders()
        talking = [holder for holder in holders.values() if holder.is_here and holder.control is not None]
        return next(iter([*talking, *holders.values()]), None)

    def holders(self) -> dict[int, Holder]:
        """All who use the directory now, by the number of their instance."""
        found = ((number, _holder_of(path)) for number, path in sorted(self._locks()))
        return {number: holder for number, holder in found if holder is not None}

    def _hold_any(self) -> None:
        for self.instance in range(1, INSTANCES_MAX + 1):
            if self._hold(attempts=1):
                return
        raise DataDirectoryInUse(f"{self.path} is in use by {INSTANCES_MAX} processes: that is the most.")

    def _hold_alone(self) -> None:
        held = self._hold(LOCK_ATTEMPTS)
        others = {number: holder for number, holder in self.holders().items() if not held or number != 1}
        if not held or others:
            self.__exit__(None, None, None)
            by = f" by process {next(iter(others.values())).pid}" if others else ""
            raise DataDirectoryInUse(f"{self.path} is in use{by}: one process at a time.")

    def _hold(self, attempts: int) -> bool:
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locked(descriptor, attempts):
            self._descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def _locks(self) -> Iterator[tuple[int, Path]]:
        if not self.path.is_dir():
            return
        for path in self.path.iterdir():
            if (match := _LOCK_NAME.fullmatch(path.name)) is not None:
                yield int(match[1] or 1), path


def make_private(folder: Path) -> None:
    """Everything in the folder for its owner only."""
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _keep_private(path: Path) -> None:
    """A file that an earlier release, or a wide mask, has left open to others. What belongs to somebody else
    stays as it is."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _holder_of(lock: Path) -> Holder | None:
    """The holder of this lock; None when it is free."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(lock)
    finally:
        os.close(descriptor)
    return None


def _read_holder(lock: Path) -> Holder:
    try:
        return msgspec.json.decode(lock.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return Holder(0)


def _locked(descriptor: int, attempts: int) -> bool:
    """Tries a few times: a command that looks who holds the lock holds it for a moment itself."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(LOCK_PAUSE_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
