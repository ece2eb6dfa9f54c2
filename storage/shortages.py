"""What a machine can run out of: room on its disk, and descriptors. Neither is the caller's fault, and both
pass: so they are refused as unavailable, wherever they are met.
"""

import errno
import os
import sqlite3
import tempfile
from pathlib import Path

from storage.errors import DiskFailed, DiskFull, NoDescriptors, Unavailable

RETRY_AFTER_S = 10
_KINDS: dict[int, type[Unavailable]] = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EFBIG: DiskFull,
    errno.EROFS: DiskFailed,
    errno.EIO: DiskFailed,
    errno.EMFILE: NoDescriptors,
    errno.ENFILE: NoDescriptors,
}
PROBE_BYTES = 64 * 1024


def shortage_of(error: BaseException) -> Unavailable | None:
    """What the machine has run out of when this was raised; None when that is not the reason."""
    kind = None
    if isinstance(error, OSError) and error.errno is not None:
        kind = _KINDS.get(error.errno)
    elif isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        kind = DiskFull if name == "SQLITE_FULL" else DiskFailed if name.startswith("SQLITE_IOERR") else None
    return None if kind is None else kind(retry_after_s=RETRY_AFTER_S)


def probe(directory: Path) -> None:
    """Write a file there that has no name, so that none is left whenever this ends. Blocking. Raises
    OSError."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(PROBE_BYTES))
        os.fsync(file.fileno())
