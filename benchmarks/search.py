"""A million orders in each engine: searches and lists by due date over connections that are new, and what the
search index costs.

The orders are brought in as write-behind does it, in batches. A search is timed from the question to the
rows that a maintained list is made of; the reference is the same search without the index.
"""

import asyncio
import contextlib
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from server.demo.private_servers.servers import PostgresServer
from storage.bounds import Bounds
from storage.database.contract import Database
from storage.ids import new_id
from storage.log.entries import LogRecord, OrderChanged, Position
from storage.orders.actors import Actor, Role
from storage.orders.filters import ALL, ListQuery, OrderFilter, Sort, SortField
from storage.orders.order import Order
from storage.orders.rules import create
from storage.orders.search import fold
from storage.orders.workflow import Status
from storage.postgresql.connection import connect
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from storage.sqlite.connection import open_writer
from storage.sqlite.database import SqliteDatabase
from storage.sqlite.migrate import migrate_sqlite

ORDERS = 1_000_000
BATCH = 1_000
TOGETHER = 500
ROUNDS = 3
DEADLINE_S = 120.0
LOCK_MS = "60000"
ADMIN = Actor(token_id="bench", name="admin", role=Role.ADMIN)
WORDS = [
    "engraving",
    "inside",
    "ring",
    "gold",
    "white",
    "size",
    "please",
    "check",
    "gift",
    "wrapping",
    "call",
    "before",
    "shipping",
    "urgent",
    "polish",
    "stone",
    "setting",
    "diamond",
    "sapphire",
    "bezel",
    "гравировка",
    "внутри",
    "кольца",
    "срочно",
    "бриллиант",
    "огранка",
    "ёлочка",
]
START = datetime(2024, 1, 1, tzinfo=UTC)
RARE = "sapphire-needle"
"""Of one order in fifty thousand."""
SEARCHES = {
    "rare": RARE,
    "common": "diamond",
    "absent": "no such text",
    "two_letters": "xq",
    "two_digits": "77",
    "number": str(1001 + ORDERS // 3),
    "folded": "елочка бриллиант",
}
Seconds = dict[str, float]


def run(orders: int = ORDERS, rounds: int = ROUNDS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="facet-bench-") as name:
        figures = asyncio.run(_both(Path(name), orders, rounds))
    ratios = {
        f"{engine}_{search}_of_scan": round(figures[f"{engine}_{search}_ms"] / scan, 3)
        for engine in ("sqlite", "postgresql")
        for scan in [figures[f"{engine}_without_index_ms"]]
        for search in SEARCHES
    }
    return {
        "name": "search",
        "rounds": rounds,
        "ratios": ratios,
        "figures": {"orders": orders, **figures},
        "machine": machine(),
    }


async def _both(folder: Path, orders: int, rounds: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    path = folder / "facet.db"
    migrate_sqlite(path)
    open_sqlite = partial(SqliteDatabase, path, 5.0, 2, DEADLINE_S)
    sqlite = Sqlite(path)
    figures |= {
        f"sqlite_{name}": value
        for name, value in (await _measure(open_sqlite, sqlite, orders, rounds)).items()
    }
    with PostgresServer(folder / "postgres") as server:
        await migrate_postgresql(server.url)
        open_postgresql = partial(
            PostgresDatabase, server.url, 2, DEADLINE_S, DEADLINE_S, keeps_answers=False
        )
        postgresql = Postgresql(server)
        found = await _measure(open_postgresql, postgresql, orders, rounds)
        figures |= {f"postgresql_{name}": value for name, value in found.items()}
    return figures


class Sqlite:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def execute(self, sql: str) -> None:
        connection = await open_writer(self._path, 5.0)
        await connection.execute(sql)
        await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await connection.close()

    async def size_mb(self) -> float:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            used, page_bytes = connection.execute(
                "SELECT page_count - freelist_count, page_size"
                " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
            ).fetchone()
        return float(used * page_bytes) / 1e6


class Postgresql:
    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    async def execute(self, sql: str) -> None:
        # PostgreSQL may just be tidying up the same table by itself.
        connection = await connect(self._server.url, DEADLINE_S, lock_timeout=LOCK_MS)
        await connection.execute(sql)
        await connection.close()

    async def size_mb(self) -> float:
        connection = await connect(self._server.url, DEADLINE_S)
        size = await connection.fetchval("SELECT pg_total_relation_size('order_texts')")
        await connection.close()
        return float(size) / 1e6


async def _measure(
    make: Callable[[], SqliteDatabase | PostgresDatabase],
    engine: Sqlite | Postgresql,
    orders: int,
    rounds: int,
) -> dict[str, float]:
    database = make()
    await database.open()
    figures = {"fill_us_an_order": await _fill(database, orders)}
    await engine.execute("DELETE FROM search_pending")
    await engine.execute("UPDATE search_index SET built = 0, until = (SELECT max(number) FROM orders)")
    without = await _timed(make, partial(_search, "no such text at all"), rounds)
    before_mb, began_s = await engine.size_mb(), time.perf_counter()
    while await database.tend_search(TOGETHER):
        pass
    figures["index_build_s"] = time.perf_counter() - began_s
    figures["index_mb"] = await engine.size_mb() - before_mb
    await database.close()
    if isinstance(engine, Postgresql):
        await engine.execute("ANALYZE")  # as its own upkeep does after a while
    for name, text in SEARCHES.items():
        figures[f"{name}_ms"] = await _timed(make, partial(_search, text), rounds)
    for descending in (False, True):
        by_due = partial(_by_due, descending=descending)
        figures["due_last_first_ms" if descending else "due_ms"] = await _timed(make, by_due, rounds)
    of_a_status = partial(_by_due, descending=False, of=OrderFilter(statuses=frozenset({Status.CLOSED})))
    figures["due_of_a_status_ms"] = await _timed(make, of_a_status, rounds)
    figures["without_index_ms"] = without
    return {name: round(value, 2) for name, value in figures.items()}


async def _timed(
    make: Callable[[], SqliteDatabase | PostgresDatabase],
    ask: Callable[[Database], Awaitable[object]],
    rounds: int,
) -> float:
    """Milliseconds, the median of so many, each over connections that nothing was asked on before."""
    found = []
    for _ in range(rounds):
        async with AsyncExitStack() as stack:
            database = make()
            await database.open()
            stack.push_async_callback(database.close)
            began_s = time.perf_counter()
            await ask(database)
            found.append((time.perf_counter() - began_s) * 1e3)
    return statistics.median(found)


async def _search(text: str, database: Database) -> None:
    query = ListQuery(filter=OrderFilter(q=fold(text)))
    await database.load_list(query, Bounds().view_rows_searched + 1)


async def _by_due(database: Database, *, descending: bool, of: OrderFilter = ALL) -> None:
    query = ListQuery(filter=of, sort=Sort(SortField.DUE_AT, descending))
    await database.load_list(query, Bounds().view_rows + 1)


async def _fill(database: Database, orders: int) -> float:
    """Microseconds an order."""
    chance, stands, spent_s = random.Random(1), await database.position(), 0.0
    for first in range(0, orders, BATCH):
        batch = [
            LogRecord(stands.n + n + 1, _entry(first + n, chance), 300)
            for n in range(min(BATCH, orders - first))
        ]
        new, began_s = Position(stands.epoch, batch[-1].n), time.perf_counter()
        if await database.apply(batch, stands, new):
            raise RuntimeError("the database refused an order")
        spent_s += time.perf_counter() - began_s
        stands = new
    return spent_s / orders * 1e6


def _entry(n: int, chance: random.Random) -> OrderChanged:
    at = START + timedelta(minutes=n)
    words = " ".join(chance.choices(WORDS, k=chance.randrange(2, 9)))
    order = Order(
        id=new_id(at),
        number=1001 + n,
        version=1,
        status=chance.choice(list(Status)),
        status_since=at,
        status_version=1,
        customer=f"customer-{chance.randrange(5_000)}",
        operator=f"operator-{chance.randrange(40)}" if chance.random() < 0.7 else None,
        note=RARE if n % 50_000 == 25_000 else words if chance.random() < 0.6 else None,
        reference=f"PO-{chance.randrange(10**7)}-{n}" if chance.random() < 0.5 else None,
        due_at=at + timedelta(days=chance.randrange(5, 60)) if chance.random() < 0.7 else None,
        created_at=at,
        created_by=ADMIN.token_id,
        updated_at=at,
    )
    return OrderChanged(id=new_id(at), at=at, change=create(order, ADMIN))
