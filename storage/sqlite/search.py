"""Tending the search index: an FTS5 table without content. To take a text out of it, it must be told the
text: the triggers have noted it."""

from typing import Any

import aiosqlite

from storage.database.schema import UNFOLDED
from storage.orders.search import stored_text_of, tokens_of

_SELECT_UNFOLDED = (
    "SELECT id, number, customer, reference, note, operator FROM orders"
    f" WHERE {UNFOLDED['sqlite']} ORDER BY number LIMIT ?"
)
_TAKE_OUT = "INSERT INTO order_texts (order_texts, rowid, tokens) VALUES ('delete', ?, ?)"
_PUT_IN = "INSERT INTO order_texts (rowid, tokens) VALUES (?, ?)"


async def tend(connection: aiosqlite.Connection, limit: int) -> int:
    followed = await _follow(connection, limit)
    if followed == limit:
        return followed  # older orders are taken in as they are now, with nothing left to follow
    return followed + await _build(connection, limit)


async def fold(connection: aiosqlite.Connection, limit: int) -> int:
    rows = await _fetch(connection, _SELECT_UNFOLDED, limit)
    texts = [(stored_text_of(*row[1:]), row[0]) for row in rows]
    await connection.executemany("UPDATE orders SET search = ? WHERE id = ?", texts)
    return len(rows)


async def _follow(connection: aiosqlite.Connection, limit: int) -> int:
    """Take in what has changed."""
    rows = await _fetch(
        connection, "SELECT id, number, was, now FROM search_pending ORDER BY id LIMIT ?", limit
    )
    built, until = await _extent(connection)
    first: dict[int, str | None] = {}
    last: dict[int, str | None] = {}
    for _, number, was, now in rows:
        if not built < number <= until:
            first.setdefault(number, was)
            last[number] = now
    await _execute_many(connection, _TAKE_OUT, first)
    await _execute_many(connection, _PUT_IN, last)
    await connection.executemany("DELETE FROM search_pending WHERE id = ?", [row[:1] for row in rows])
    return len(rows)


async def _build(connection: aiosqlite.Connection, limit: int) -> int:
    """Take in orders that were there before the index."""
    built, until = await _extent(connection)
    rows = await _fetch(
        connection,
        "SELECT number, search FROM orders WHERE number > ? AND number <= ? ORDER BY number LIMIT ?",
        *(built, until, limit),
    )
    await _execute_many(connection, _PUT_IN, dict(rows))
    if built < until:
        reached = rows[-1][0] if len(rows) == limit else until
        await connection.execute("UPDATE search_index SET built = ?", (reached,))
    return len(rows)


async def _extent(connection: aiosqlite.Connection) -> tuple[int, int]:
    ((built, until),) = await _fetch(connection, "SELECT built, until FROM search_index")
    return built, until


async def _execute_many(
    connection: aiosqlite.Connection, statement: str, texts: dict[int, str | None]
) -> None:
    rows = [(number, tokens_of(text)) for number, text in texts.items() if text is not None]
    await connection.executemany(statement, rows)


async def _fetch(connection: aiosqlite.Connection, sql: str, *parameters: Any) -> list[Any]:
    return list(await connection.execute_fetchall(sql, parameters))
