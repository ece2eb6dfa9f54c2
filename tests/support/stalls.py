"""A database whose writer is blocked, as by another program that holds a write transaction."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def stalled(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """Nobody else can write the database inside. Yields the connection that holds it up."""
    connection = sqlite3.connect(data_dir / "facet.db", isolation_level=None, timeout=10)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.close()


def query(data_dir: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the database says, asked by another program."""
    with contextlib.closing(sqlite3.connect(data_dir / "facet.db", timeout=10)) as connection, connection:
        return connection.execute(sql, parameters).fetchall()
