"""The data directory: what lies where, and a lock that lets one process use it at a time."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from storage.errors import DataDirectoryInUse

LOCK_ATTEMPTS = 5
LOCK_PAUSE_S = 0.02


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lock: written into it for the commands that want to talk to the server."""

    pid: int
    control: str | None = None
    url: str | None = None


class DataDirectory:
    """Paths under one directory. As a context manager it holds the lock; the kernel lets go of it when
    the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "facet.db"
        self.log = path / "log.db"
        self.models = path / "models"
        self.uploads = path / "uploads"
        self.lock = path / "facet.lock"
        self.admin_token = path / "admin-token"
        self.link_key = path / "link-key"
        self._descriptor: int | None = None

    def create(self) -> None:
        """Raises OSError when it cannot be made or written to."""
        for directory in (self.path, self.models, self.uploads):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __enter__(self) -> Self:
        """Raises DataDirectoryInUse."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locked(descriptor):
            os.close(descriptor)
            holder = self.holder()
            by = f" by process {holder.pid}" if holder is not None else ""
            raise DataDirectoryInUse(f"{self.path} is in use{by}: one process at a time.")
        self._descriptor = descriptor
        self.announce(Holder(os.getpid()))
        for leftover in self.uploads.iterdir():
            leftover.unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def announce(self, holder: Holder) -> None:
        """Say in the lock who holds it and where it listens."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(holder), 0)

    def holder(self) -> Holder | None:
        """Who holds the lock now; None when nobody does."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read_holder()
        finally:
            os.close(descriptor)
        return None

    def _read_holder(self) -> Holder | None:
        try:
            return msgspec.json.decode(self.lock.read_bytes(), type=Holder)
        except (OSError, msgspec.DecodeError):
            return Holder(0)


def _locked(descriptor: int) -> bool:
    """Tries a few times: a command that looks who holds the lock holds it for a moment itself."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False
