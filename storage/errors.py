"""What can go wrong in storage, as the domain sees it.

Every error has a stable `code` that callers may rely on; the docstring is the default message. Which
HTTP status each becomes is decided in one table in the server, not here.
"""

import errno
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any


class StorageError(Exception):
    """Something went wrong in storage."""

    code = "storage_error"

    def __init__(self, detail: str | None = None, **members: Any) -> None:
        self.detail = detail or (self.__doc__ or "").strip().splitlines()[0]
        self.members = members
        super().__init__(self.detail)


class NotFound(StorageError):
    """It does not exist, or belongs to another tenant."""

    code = "not_found"


class Forbidden(StorageError):
    """The role of this token does not allow this."""

    code = "forbidden"


class Invalid(StorageError):
    """A value does not fit; `errors` lists (JSON pointer, message) pairs."""

    code = "invalid"

    def __init__(self, *errors: tuple[str, str], code: str | None = None) -> None:
        super().__init__("; ".join(f"{pointer or '/'}: {message}" for pointer, message in errors))
        self.errors = errors
        if code is not None:
            self.code = code


class Conflict(StorageError):
    """The order's present state does not allow this."""

    code = "conflict"


class IllegalTransition(Conflict):
    """An order cannot go from its present status to that one; `legal` names the ones it can go to."""

    code = "illegal_transition"


class AlreadyTaken(Conflict):
    """Another operator has taken this order; `operator` and `since` say who and when."""

    code = "already_taken"


class NotEditable(Conflict):
    """An order can be edited only before its manufacturing is approved."""

    code = "not_editable"


class NotPriceable(Conflict):
    """A person must set this order's price."""

    code = "not_priceable"


class AlreadyPriced(Conflict):
    """The order has another price already; `price` is it."""

    code = "already_priced"


class NothingToUndo(Conflict):
    """Only one's own last step can be undone, and only for a short time."""

    code = "nothing_to_undo"


class DuplicateReference(Conflict):
    """This token has already used this reference for another order."""

    code = "duplicate_reference"


class PreconditionFailed(StorageError):
    """If-Match names a version that the order no longer has; `current` is its present state."""

    code = "version_mismatch"


class KeyReused(StorageError):
    """This Idempotency-Key was used before with another body."""

    code = "idempotency_key_reused"


class Unavailable(StorageError):
    """The service cannot do this now; `retry_after_s` says when to try again."""

    code = "unavailable"

    def __init__(self, detail: str | None = None, *, retry_after_s: int = 1, **members: Any) -> None:
        super().__init__(detail, **members)
        self.retry_after_s = retry_after_s


class BacklogFull(Unavailable):
    """The database is too far behind to accept more changes; reads continue."""

    code = "backlog_full"


class OrderParked(Unavailable):
    """A change of this order could not be stored; new changes wait for its repair."""

    code = "order_parked"


class OutcomeUnknown(Unavailable):
    """The change may or may not have happened: retry with the same Idempotency-Key, or read the order."""

    code = "outcome_unknown"


class LogUnavailable(OutcomeUnknown):
    """The log did not accept the change in time."""

    code = "log_unavailable"


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    code = "database_unavailable"
    unforeseen: BaseException | None = None
    """The cause, when it was unexpected."""


class Upgrading(Unavailable):
    """Two releases are running side by side, and this must wait until one has replaced the other."""

    code = "upgrading"


class DiskFull(Unavailable):
    """The disk of this server is full."""

    code = "disk_full"


class DiskFailed(Unavailable):
    """The disk of this server cannot be written to."""

    code = "disk_failed"


class NoDescriptors(Unavailable):
    """This server has no file descriptors left."""

    code = "no_descriptors"


class Behind(Unavailable):
    """This process has not yet seen the position or version that the request names."""

    code = "behind"


class Superseded(StorageError):
    """The order changed between reading it and writing it: decide again on its present state."""

    code = "superseded"


class Claimed(Conflict):
    """Another owner has reserved something unique in the meantime; `claim` and `owner` say what and who."""

    code = "claimed"

    def __init__(self, claim: str, owner: str) -> None:
        super().__init__(f"{claim} belongs to {owner}.")
        self.claim = claim
        self.owner = owner


class AlreadyAnswered(LogUnavailable):
    """An equal request was accepted in the meantime: asked again, it is answered."""

    code = "already_answered"


class DataDirectoryInUse(StorageError):
    """Another process is using this data directory."""

    code = "data_directory_in_use"


class Incompatible(StorageError):
    """The stored data does not fit this release."""

    code = "incompatible"


class Fenced(StorageError):
    """Another process has moved the database's position: this one must not write any more."""

    code = "fenced"


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
