"""What may be asked of a PostgreSQL without the service: for the doctor."""

from typing import NamedTuple

from storage.database.schema import ORDERS_POSITION
from storage.log.entries import Position
from storage.postgresql.connection import session

DEADLINE_S = 5.0
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]) ORDER BY name"
_SAFE = {"fsync": "on", "full_page_writes": "on"}
_SHOWN = ("fsync", "full_page_writes", "max_connections", "server_version")


class PostgresFacts(NamedTuple):
    """`unsafe`: settings with which an acknowledged change may be lost. Without a schema there is no
    position and no order yet."""

    settings: dict[str, str]
    unsafe: list[str]
    schema: str | None
    position: Position
    orders: int


async def examine_postgresql(url: str) -> PostgresFacts:
    """Raises DatabaseUnavailable."""
    async with session(url, DEADLINE_S) as connection:
        settings = {row[0]: row[1] for row in await connection.fetch(_SETTINGS, list(_SHOWN))}
        unsafe = [f"{name} is {settings[name]}" for name, safe in _SAFE.items() if settings[name] != safe]
        schema, position, orders = None, Position(0, 0), 0
        if await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"):
            schema = await connection.fetchval("SELECT version_num FROM alembic_version")
            found = await connection.fetchrow(
                "SELECT epoch, position FROM log_positions WHERE name = $1", ORDERS_POSITION
            )
            position = Position(*found) if found else position
            orders = await connection.fetchval("SELECT count(*) FROM orders")
        return PostgresFacts(settings, unsafe, schema, position, orders)
