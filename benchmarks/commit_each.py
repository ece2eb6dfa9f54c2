"""What the service is compared with: handlers as one would write them first.

`Changes` commits each status change to SQLite before it answers: one connection through aiosqlite, WAL,
synchronous=FULL, the update, the history row and the commit. `one_hop` sends all three to the connection's
thread at once: the fastest of the simple ways. `python -m benchmarks.commit_each FILE` serves it over HTTP.
"""

import asyncio
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import aiosqlite
import msgspec
import uvloop
from aiohttp import web

from benchmarks.load import pin

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, version INTEGER NOT NULL, status TEXT NOT NULL,
    customer TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS order_history (order_id TEXT NOT NULL, version INTEGER NOT NULL,
    to_status TEXT NOT NULL, actor TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (order_id, version));
"""
_UPDATE = (
    "UPDATE orders SET version = version + 1, status = ?, updated_at = ? WHERE id = ?"
    " RETURNING id, version, status, customer, updated_at"
)
_HISTORY = "INSERT INTO order_history VALUES (?, ?, ?, ?, ?)"
Row = tuple[str, int, str, str, str]


class Changes:
    """Each change is a transaction of its own."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._alone = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> "Changes":
        connection = await aiosqlite.connect(path, isolation_level=None)
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.executescript(SCHEMA)
        return cls(connection)

    async def add(self, ids: list[str]) -> None:
        rows = [(order_id, 1, "INITIATED", "Anna", "") for order_id in ids]
        await self._connection.execute("BEGIN")
        await self._connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", rows)
        await self._connection.execute("COMMIT")

    async def change(self, order_id: str, status: str, actor: str) -> Row:
        """Statement by statement, as a handler would."""
        at = datetime.now(UTC).isoformat()
        async with self._alone:
            await self._connection.execute("BEGIN IMMEDIATE")
            found = await self._connection.execute_fetchall(_UPDATE, (status, at, order_id))
            row: Row = next(iter(found))  # type: ignore[assignment]
            await self._connection.execute(_HISTORY, (order_id, row[1], status, actor, at))
            await self._connection.execute("COMMIT")
        return row

    async def change_in_one_hop(self, order_id: str, status: str, actor: str) -> Row:
        at = datetime.now(UTC).isoformat()
        raw = self._connection._conn

        def work() -> Row:
            raw.execute("BEGIN IMMEDIATE")
            row: Row = raw.execute(_UPDATE, (status, at, order_id)).fetchone()
            raw.execute(_HISTORY, (order_id, row[1], status, actor, at))
            raw.execute("COMMIT")
            return row

        return await self._connection._execute(work)  # type: ignore[no-untyped-call, no-any-return]

    async def close(self) -> None:
        await self._connection.close()


class StatusChange(msgspec.Struct):
    status: str


async def serve(path: Path, ids: list[str]) -> None:
    changes = await Changes.open(path)
    await changes.add(ids)
    decode = msgspec.json.Decoder(StatusChange).decode

    async def answer(request: web.Request, one_hop: bool) -> web.Response:
        change = decode(await request.read())
        order_id = request.match_info["id"]
        commit = changes.change_in_one_hop if one_hop else changes.change
        body = msgspec.json.encode(await commit(order_id, change.status, "admin"))
        return web.Response(body=body, content_type="application/json")

    async def statement_by_statement(request: web.Request) -> web.Response:
        return await answer(request, False)

    async def in_one_hop(request: web.Request) -> web.Response:
        return await answer(request, True)

    app = web.Application()
    app.router.add_put("/v1/orders/{id}/status", statement_by_statement)
    app.router.add_put("/one-hop/orders/{id}/status", in_one_hop)
    await listen(app)
    await changes.close()


async def listen(app: web.Application) -> None:
    """Serve on a free port, print it, end with the process."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    pin(0)
    database, ids_file = map(Path, sys.argv[1:])
    assert sqlite3.threadsafety
    uvloop.run(serve(database, ids_file.read_text().split()))
