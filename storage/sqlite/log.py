"""The log in a SQLite file of its own, so that a stalled database never stalls an acknowledgement."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import aiosqlite

from storage.clock import to_micros
from storage.errors import Incompatible, LogUnavailable
from storage.log.entries import AnyEntry, LogRecord, Position, encode_entry, logged_of, require_known
from storage.sqlite.connection import SqliteReaders, open_writer

_SCHEMA_VERSION = 1
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE entries (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    scope TEXT,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_by_scope ON entries (scope) WHERE scope IS NOT NULL;
CREATE INDEX entries_keyed_at ON entries (at) WHERE scope IS NOT NULL;
CREATE TABLE epoch (only INTEGER PRIMARY KEY CHECK (only = 1), epoch INTEGER NOT NULL);
INSERT INTO epoch VALUES (1, 0);
PRAGMA user_version = 1;
COMMIT;
"""
_READ = "SELECT position, payload FROM entries WHERE position > ? ORDER BY position LIMIT ?"
_ROW = "(?, ?, ?, ?)"
_INSERT = "INSERT INTO entries (position, at, scope, payload) VALUES "


class SqliteLog:
    """Implements `storage.log.log.Log`. An append is one INSERT, its own transaction: one hop to the
    connection's thread, one fsync, and nothing left open whatever is cancelled."""

    def __init__(self, path: Path, busy_timeout_s: float, read_deadline_s: float) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._readers = SqliteReaders(path, 1, read_deadline_s)
        self._epoch = 0
        self._head = 0
        self._trimmed = 0
        self._writer: aiosqlite.Connection

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def head(self) -> int:
        return self._head

    async def open(self) -> None:
        self._writer = await open_writer(self._path, self._busy_timeout_s)
        version = (await self._one("PRAGMA user_version"))[0]
        if version == 0:
            await self._writer.executescript(_SCHEMA)
        elif version != _SCHEMA_VERSION:
            await self._writer.close()
            raise Incompatible(f"The log has schema {version}, newer than this release knows: upgrade Facet.")
        self._epoch = (await self._one("SELECT epoch FROM epoch"))[0]
        await self._readers.open()
        await self._find_head()

    async def append(self, entries: Sequence[AnyEntry]) -> list[LogRecord]:
        logged: list[LogRecord] = []
        parameters: list[object] = []
        for n, entry in enumerate(entries, self._head + 1):
            payload = encode_entry(entry)
            scope = entry.remembered.scope if entry.remembered is not None else None
            parameters += (n, to_micros(entry.at), scope, payload)
            logged.append(LogRecord(n, entry, len(payload)))
        try:
            await self._writer.execute_insert(_INSERT + ",".join([_ROW] * len(logged)), parameters)
        except sqlite3.Error as error:
            raise LogUnavailable(f"The log did not accept the change: {error}.") from error
        self._head = logged[-1].n
        return logged

    async def recover(self) -> list[LogRecord]:
        if found := await self._fetch_logged(self._writer, self._head, -1):
            self._head = found[-1].n
        return found

    async def probe(self) -> None:
        try:
            await self._writer.execute("UPDATE epoch SET epoch = epoch")
        except sqlite3.Error as error:
            raise LogUnavailable(f"The log does not write: {error}.") from error

    async def read(self, after: int, limit: int) -> list[LogRecord]:
        return _decoded(await self._readers.fetch(_READ, (after, limit)))

    async def find_remembered(self, scope: str) -> tuple[Position, AnyEntry] | None:
        rows = await self._readers.fetch("SELECT position, payload FROM entries WHERE scope = ?", (scope,))
        if not rows:
            return None
        found = require_known(_decoded(rows)[0])
        return Position(self._epoch, found.n), found.entry

    async def scopes(self, after: int, limit: int) -> list[tuple[int, str]]:
        return await self._readers.fetch(
            "SELECT position, scope FROM entries WHERE position > ? AND scope IS NOT NULL"
            " ORDER BY position LIMIT ?",
            (after, limit),
        )

    async def trim(self, flushed: int, keyed_before: datetime, limit: int) -> int:
        """Entries without a key go in ranges, each looked at once; keyed ones by their time."""
        upto = min(flushed, self._trimmed + limit)
        removed = 0
        try:
            if upto > self._trimmed:
                cursor = await self._writer.execute(
                    "DELETE FROM entries WHERE position > ? AND position <= ? AND scope IS NULL",
                    (self._trimmed, upto),
                )
                removed += cursor.rowcount
                self._trimmed = upto
            cursor = await self._writer.execute(
                "DELETE FROM entries WHERE position IN (SELECT position FROM entries"
                " WHERE scope IS NOT NULL AND at < ? AND position <= ? ORDER BY at LIMIT ?)",
                (to_micros(keyed_before), flushed, limit),
            )
        except sqlite3.Error as error:
            raise LogUnavailable(f"The log could not be trimmed: {error}.") from error
        return removed + cursor.rowcount

    async def begin_epoch(self, epoch: int) -> None:
        # The sequence restarts with the epoch: positions are compared within one epoch only.
        await self._writer.executescript(
            "BEGIN IMMEDIATE; DELETE FROM entries;"
            " DELETE FROM sqlite_sequence WHERE name = 'entries';"
            f" UPDATE epoch SET epoch = {int(epoch)}; COMMIT;"
        )
        self._epoch, self._head, self._trimmed = epoch, 0, 0

    async def close(self) -> None:
        """Readers first: the last connection to close checkpoints, and only the writer may."""
        await self._readers.close()
        await self._writer.close()

    async def _find_head(self) -> None:
        row = await self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entries'")
        self._head = row[0]
        row = await self._one(
            "SELECT coalesce(min(position), ?) FROM entries WHERE scope IS NULL", self._head
        )
        self._trimmed = max(0, row[0] - 1)

    async def _one(self, sql: str, *parameters: object) -> sqlite3.Row:
        return next(iter(await self._writer.execute_fetchall(sql, parameters)))

    async def _fetch_logged(
        self, connection: aiosqlite.Connection, after: int, limit: int
    ) -> list[LogRecord]:
        try:
            return _decoded(await connection.execute_fetchall(_READ, (after, limit)))
        except sqlite3.Error as error:
            raise LogUnavailable(f"The log cannot be read: {error}.") from error


def _decoded(rows: object) -> list[LogRecord]:
    return [logged_of(n, payload) for n, payload in rows]  # type: ignore[attr-defined]
