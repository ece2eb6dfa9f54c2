"""Leases and attendance in a SQLite file. One process uses it, so all of this is granted; the tables are kept
as they are where several do. Times are those of the database's clock, which counts milliseconds."""

from datetime import datetime

import aiosqlite

from storage.clock import to_text
from storage.database.records import Member

_NOW = "strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z'"
_MOVED = "strftime('%Y-%m-%dT%H:%M:%f', 'now', printf('%+.3f seconds', {})) || '000Z'"
_HOLD = (
    f"INSERT INTO leases (name, holder, expires_at) VALUES (?1, ?2, {_MOVED.format('?3')})"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at"
    f" WHERE leases.holder = excluded.holder OR leases.expires_at <= {_NOW} RETURNING holder"
)
_ATTEND = (
    f"INSERT INTO processes (id, united, level, seen_at) VALUES (?, ?, ?, {_NOW})"
    " ON CONFLICT (id) DO UPDATE"
    " SET united = excluded.united, level = excluded.level, seen_at = excluded.seen_at"
)
_RAISE_LEVEL = (
    "UPDATE installation SET level = max(level, ?, coalesce((SELECT min(level) FROM processes"
    f" WHERE seen_at >= {_MOVED.format('-?')}), 0)) RETURNING level"
)
_PRESENT = (
    "SELECT id, united, max(0.0, (julianday('now') - julianday(seen_at)) * 86400.0), level"
    " FROM processes ORDER BY id"
)


async def hold_lease(connection: aiosqlite.Connection, name: str, holder: str, ttl_s: float) -> bool:
    return bool(await connection.execute_fetchall(_HOLD, (name, holder, ttl_s)))


async def give_lease(connection: aiosqlite.Connection, name: str, holder: str) -> None:
    await connection.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (name, holder))


async def keep_secret(connection: aiosqlite.Connection, name: str, proposed: bytes) -> None:
    await connection.execute(
        "INSERT INTO secrets (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", (name, proposed)
    )


async def heartbeat(connection: aiosqlite.Connection, process: str, united: int, level: int) -> None:
    await connection.execute(_ATTEND, (process, united, level))


async def raise_level(connection: aiosqlite.Connection, within_s: float, least: int) -> int:
    rows = await connection.execute_fetchall(_RAISE_LEVEL, (least, within_s))
    return int(next(iter(rows))[0])


async def members(connection: aiosqlite.Connection, within_s: float) -> list[Member]:
    await connection.execute(f"DELETE FROM processes WHERE seen_at < {_MOVED.format('-?')}", (within_s,))
    return [Member(*row) for row in await connection.execute_fetchall(_PRESENT)]


async def leave(connection: aiosqlite.Connection, process: str) -> None:
    await connection.execute("DELETE FROM processes WHERE id = ?", (process,))


async def prune_answers(connection: aiosqlite.Connection, before: datetime, limit: int) -> int:
    cursor = await connection.execute(
        "DELETE FROM answers WHERE scope IN (SELECT scope FROM answers WHERE at < ? ORDER BY at LIMIT ?)",
        (to_text(before), limit),
    )
    return cursor.rowcount
