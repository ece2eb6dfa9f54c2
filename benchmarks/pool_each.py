"""What Redis with PostgreSQL is compared with: each change committed to PostgreSQL through a pool.

The same decision (`storage.orders.rules.advance`), the same rows in the same tables, the same JSON in the
answer.
`change`: as one would write it first, a transaction of a read, an update guarded by the version, and a row of
history. `change_lean`: as few round trips as there can be with one order read before it is decided on, a read
and one statement that does both writes, and no reset when a connection goes back to the pool.
`python -m benchmarks.pool_each URL` serves both over HTTP.
"""

import sys
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import uvloop
from aiohttp import web

from benchmarks.commit_each import listen
from benchmarks.harness import CALLERS
from benchmarks.load import pin
from storage.database.order_rows import ORDER_NAMES
from storage.database.rows import HISTORY_NAMES
from storage.database.schema import order_history
from storage.ids import new_id
from storage.log.entries import LogRecord, OrderChanged
from storage.orders.actors import Actor, Role
from storage.orders.order import Change, Order, encode_order
from storage.orders.rules import StatusRequest, advance
from storage.orders.workflow import Status
from storage.postgresql.rows import ROWS, array_type

_SELECT_ORDER = f"SELECT {ORDER_NAMES} FROM orders WHERE id = $1"
ADMIN = Actor(token_id="bench", name="admin", role=Role.ADMIN)
_UPDATE = (
    "UPDATE orders SET version = $3, status = $4, status_since = $5, status_version = $6, updated_at = $7"
    " WHERE id = $1 AND version = $2 RETURNING id"
)
_COUNT = len(HISTORY_NAMES.split(", "))
_HISTORY = (
    f"INSERT INTO order_history ({HISTORY_NAMES}) VALUES"
    f" ({', '.join(f'${place}' for place in range(1, _COUNT + 1))})"
)


class Superseded(Exception):
    pass


class PoolChanges:
    """Each change is a transaction of its own."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", lean: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self._lean = lean

    @classmethod
    async def open(cls, url: str) -> "PoolChanges":
        """Both pools are opened in full, so that no round pays for it."""
        pool = await asyncpg.create_pool(url, min_size=CALLERS, max_size=CALLERS)
        lean = await asyncpg.create_pool(url, min_size=CALLERS, max_size=CALLERS, reset=_leave)
        return cls(pool, lean)

    async def change(self, order_id: str, status: Status) -> Order:
        async with self._pool.acquire() as connection, connection.transaction():
            order = _order(await connection.fetchrow(_SELECT_ORDER, order_id))
            change = advance(order, StatusRequest(status=status), ADMIN, datetime.now(UTC))
            if change is None:
                return order
            if await connection.fetchval(_UPDATE, *_update(change)) is None:
                raise Superseded(order_id)
            await connection.execute(_HISTORY, *_history(change))
        return change.order

    async def change_lean(self, order_id: str, status: Status) -> Order:
        async with self._lean.acquire() as connection:
            order = _order(await connection.fetchrow(_SELECT_ORDER, order_id))
            change = advance(order, StatusRequest(status=status), ADMIN, datetime.now(UTC))
            if change is None:
                return order
            if await connection.fetchval(_BOTH, *_update(change), *_history(change)[2:]) is None:
                raise Superseded(order_id)
        return change.order

    async def close(self) -> None:
        await self._pool.close()
        await self._lean.close()


async def copy_orders(source_url: str, url: str) -> None:
    """The same orders, as they are, in an empty database of the same schema."""
    source, target = await asyncpg.connect(source_url), await asyncpg.connect(url)
    rows = await source.fetch(f"SELECT {ORDER_NAMES}, search FROM orders")
    names = [*ORDER_NAMES.split(", "), "search"]
    await target.copy_records_to_table("orders", records=[tuple(row) for row in rows], columns=names)
    await source.close()
    await target.close()


async def _leave(connection: Any) -> None:
    """The pool's own reset is a round trip; nothing here sets anything on a connection."""


def _order(row: Any) -> Order:
    if row is None:
        raise KeyError("no such order")
    return ROWS.order_of(row)


def _update(change: Change) -> tuple[Any, ...]:
    order = change.order
    return (
        order.id,
        order.version - 1,
        order.version,
        order.status.value,
        order.status_since,
        order.status_version,
        order.updated_at,
    )


def _history(change: Change) -> tuple[Any, ...]:
    entry = OrderChanged(id=new_id(change.at), at=change.at, change=change)
    return ROWS.history_row(LogRecord(0, entry, 0), 1)


def _both() -> str:
    """The update; and the history row, its order and version taken from what was updated."""
    types = [array_type(order_history.c[name]).removesuffix("[]") for name in HISTORY_NAMES.split(", ")]
    casts = [f"${place}::{kind}" for place, kind in enumerate(types[2:], 8)]
    return (
        f"WITH changed AS ({_UPDATE}, version) INSERT INTO order_history ({HISTORY_NAMES})"
        f" SELECT id, version, {', '.join(casts)} FROM changed RETURNING version"
    )


_BOTH = _both()


class StatusChange(msgspec.Struct):
    status: Status


async def serve(url: str) -> None:
    changes = await PoolChanges.open(url)
    decode = msgspec.json.Decoder(StatusChange).decode

    def answering(change: Any) -> Any:
        async def answer(request: web.Request) -> web.Response:
            wanted = decode(await request.read()).status
            try:
                order = await change(request.match_info["id"], wanted)
            except Superseded:
                return web.Response(status=409)
            return web.Response(
                body=encode_order(order),
                content_type="application/json",
                headers={"ETag": f'"{order.version}"'},
            )

        return answer

    app = web.Application()
    app.router.add_put("/v1/orders/{id}/status", answering(changes.change))
    app.router.add_put("/lean/orders/{id}/status", answering(changes.change_lean))
    await listen(app)
    await changes.close()


if __name__ == "__main__":
    pin(0)
    uvloop.run(serve(sys.argv[1]))
