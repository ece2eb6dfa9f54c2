"""Files named after the SHA-256 of a model: the models themselves, and what is made from them for screens.

Each kind has a folder and a bound. What has not been asked for the longest goes first: when all take more
than the bound, and when nobody has asked for a file for as long as files are kept. Several processes, on
several machines, may share a folder: none takes what it sees there for the whole truth.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

TIDY_S = 3_600.0
"""How often a process that keeps new files looks at all of them."""
FILLED_TO = 0.9
"""Share of the bound that is left after a removal, so that not every new file pays for one."""
PARTIAL = ".partial"
PARTIAL_S_MAX = 3_600.0
"""An unfinished file this old is of a process that did not live to finish it."""


class KeptFiles(Protocol):
    """Where files are kept. Blocking: call it in a thread. An object store would bring a file onto this
    machine when its path is asked for, and do the rest by rules of its own."""

    def path(self, name: str) -> Path | None:
        """Where a kept file can be read for a while; asked for, it is kept longer. None: it is not kept."""

    def keep(self, name: str, body: bytes | Path) -> None:
        """Keep a file. It appears whole or not at all; one that is kept already stays."""

    def discard(self, name: str) -> None: ...

    def tidy(self) -> int:
        """Remove what is kept too long or too much; returns the bytes that are left."""


class _Seen(NamedTuple):
    asked_at_s: float
    byte_count: int
    path: Path


class ModelFiles:
    """In a folder. When a file was last asked for is its access time, set here; its modification time stays
    that of its content."""

    def __init__(self, directory: Path, bytes_max: int, age_s_max: float | None = None) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._age_s_max = age_s_max
        self._byte_count = 0
        self._tidied_at_s: float | None = None

    def path(self, name: str) -> Path | None:
        path = self._place(name)
        try:
            kept_at_ns = path.stat().st_mtime_ns
            os.utime(path, ns=(time.time_ns(), kept_at_ns))
        except FileNotFoundError:
            return None
        return path

    def keep(self, name: str, body: bytes | Path) -> None:
        path = self._place(name)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._linked(body, path):
            self._copy(body, path)
        if self._is_time_to_tidy():
            self.tidy()

    def _linked(self, body: bytes | Path, path: Path) -> bool:
        """A file that no longer changes needs no copy, only another name."""
        if not isinstance(body, Path) or not body.is_file():
            return False
        try:
            os.link(body, path)
        except FileExistsError:  # kept by another process meanwhile
            return True
        except OSError:  # on another file system, or one without links
            return False
        self._byte_count += path.stat().st_size
        return True

    def _copy(self, body: bytes | Path, path: Path) -> None:
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=PARTIAL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if isinstance(body, Path):
                    with body.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(body)
                self._byte_count += file.tell()
            os.rename(partial, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise

    def discard(self, name: str) -> None:
        self._place(name).unlink(missing_ok=True)

    def tidy(self) -> int:
        self._tidied_at_s = time.monotonic()
        seen = sorted(self._all())
        left = sum(each.byte_count for each in seen)
        too_much = left > self._bytes_max
        forgotten_s = 0.0 if self._age_s_max is None else time.time() - self._age_s_max
        for asked_at_s, byte_count, path in seen:
            if asked_at_s >= forgotten_s and not (too_much and left > self._bytes_max * FILLED_TO):
                break
            path.unlink(missing_ok=True)
            left -= byte_count
        self._byte_count = left
        return left

    def _is_time_to_tidy(self) -> bool:
        since_s = self._tidied_at_s
        if since_s is None or self._byte_count > self._bytes_max:
            return True
        return time.monotonic() - since_s > TIDY_S

    def _all(self) -> Iterator[_Seen]:
        for path in self._directory.glob("??/*"):
            with suppress(FileNotFoundError):  # another process tidies as well
                status = path.stat()
                if not path.name.endswith(PARTIAL):
                    yield _Seen(status.st_atime, status.st_size, path)
                elif time.time() - status.st_mtime > PARTIAL_S_MAX:
                    path.unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        return self._directory / name[:2] / name
