"""What may be asked of the files themselves, without the service: for backups and the doctor."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from storage.clock import from_micros, to_text
from storage.database.schema import ORDERS_POSITION
from storage.errors import Incompatible
from storage.log.entries import Position

RESTORED_EPOCHS = 1_000
"""How far a restored database jumps: further than the life that is abandoned can have gone."""

_POSITION = "SELECT epoch, position FROM log_positions WHERE name = ?"


class Examined(NamedTuple):
    """`check`: SQLite's own words, `ok` when nothing is wrong. `rows`: orders, or entries of the log."""

    check: str
    epoch: int
    rows: int


def examine_database(path: Path) -> Examined:
    """Raises Incompatible when the file is no database of Facet."""
    with _reading(path) as connection:
        return Examined(
            _check(connection),
            connection.execute(_POSITION, (ORDERS_POSITION,)).fetchone()[0],
            connection.execute("SELECT count(*) FROM orders").fetchone()[0],
        )


def examine_log(path: Path) -> Examined:
    """Raises Incompatible when the file is no log of Facet."""
    with _reading(path) as connection:
        return Examined(
            _check(connection),
            connection.execute("SELECT epoch FROM epoch").fetchone()[0],
            connection.execute("SELECT count(*) FROM entries").fetchone()[0],
        )


def position_of(path: Path) -> Position:
    """How far a database that is not in use has read the log."""
    with _reading(path) as connection:
        return Position(*connection.execute(_POSITION, (ORDERS_POSITION,)).fetchone())


def begin_epoch(path: Path) -> None:
    """In a restored database that is not in use: positions of its old life mean nothing any more, and what an
    epoch of that life still holds elsewhere must not come in. Leases and processes were those of the
    old life as well."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "UPDATE log_positions SET epoch = epoch + ?1, lineage = epoch + ?1, position = 0 WHERE name = ?2",
            (RESTORED_EPOCHS, ORDERS_POSITION),
        )
        connection.execute("DELETE FROM leases")
        connection.execute("DELETE FROM processes")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def keep_answers(database: Path, log: Path) -> None:
    """In a database that is not in use: keep the answers to keyed requests that so far only its log knows."""
    with _reading(log) as source:
        epoch = source.execute("SELECT epoch FROM epoch").fetchone()[0]
        keyed = source.execute("SELECT scope, position, payload, at FROM entries WHERE scope IS NOT NULL")
        rows = [(scope, epoch, n, payload, to_text(from_micros(at))) for scope, n, payload, at in keyed]
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT OR REPLACE INTO answers (scope, epoch, position, payload, at) VALUES (?, ?, ?, ?, ?)",
            rows,
        )


def _check(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA quick_check").fetchone()[0])


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Read-only: a running service is not disturbed."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            yield connection
        finally:
            connection.close()
    except (sqlite3.Error, TypeError) as error:
        raise Incompatible(f"{path.name}: {error}") from None
