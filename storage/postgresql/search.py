"""Tending the search index: a table of tokens, with an inverted index over them."""

from storage.database.schema import UNFOLDED
from storage.orders.search import stored_text_of, tokens_of
from storage.postgresql.connection import Connection
from storage.postgresql.rows import columns_of

_SELECT_UNFOLDED = (
    "SELECT id, number, customer, reference, note, operator FROM orders"
    f" WHERE {UNFOLDED['postgresql']} ORDER BY number LIMIT $1"
)
_FOLD = (
    "UPDATE orders SET search = folded.search FROM unnest($1::text[], $2::text[]) AS folded (id, search)"
    " WHERE orders.id = folded.id"
)
_PUT_IN = (
    "INSERT INTO order_texts (number, tokens) SELECT * FROM unnest($1::bigint[], $2::text[])"
    " ON CONFLICT (number) DO UPDATE SET tokens = excluded.tokens"
)


async def tend(connection: Connection, limit: int) -> int:
    """While nobody else changes orders."""
    return await _follow(connection, limit) + await _build(connection, limit)


async def fold(connection: Connection, limit: int) -> int:
    rows = await connection.fetch(_SELECT_UNFOLDED, limit)
    if rows:
        texts = [(row[0], stored_text_of(*tuple(row)[1:])) for row in rows]
        await connection.execute(_FOLD, *columns_of(texts))
    return len(rows)


async def _follow(connection: Connection, limit: int) -> int:
    """Take in what has changed."""
    rows = await connection.fetch("SELECT id, number FROM search_pending ORDER BY id LIMIT $1", limit)
    if not rows:
        return 0
    numbers = {row[1] for row in rows}
    found = await connection.fetch(
        "SELECT number, search FROM orders WHERE number = ANY ($1::bigint[])", numbers
    )
    texts = {row[0]: row[1] for row in found}
    await _put_in(connection, texts)
    if gone := numbers - texts.keys():
        await connection.execute("DELETE FROM order_texts WHERE number = ANY ($1::bigint[])", gone)
    ids = [row[0] for row in rows]
    await connection.execute("DELETE FROM search_pending WHERE id = ANY ($1::bigint[])", ids)
    return len(rows)


async def _build(connection: Connection, limit: int) -> int:
    """Take in orders that were there before the index."""
    built, until = tuple(await connection.fetchrow("SELECT built, until FROM search_index") or (0, 0))
    if built >= until:
        return 0
    rows = await connection.fetch(
        "SELECT number, search FROM orders WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3",
        *(built, until, limit),
    )
    await _put_in(connection, {row[0]: row[1] for row in rows})
    reached = rows[-1][0] if len(rows) == limit else until
    await connection.execute("UPDATE search_index SET built = $1", reached)
    return len(rows)


async def _put_in(connection: Connection, texts: dict[int, str]) -> None:
    if texts:
        rows = [(number, tokens_of(text)) for number, text in texts.items()]
        await connection.execute(_PUT_IN, *columns_of(rows))
