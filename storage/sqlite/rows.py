"""The statements that carry rows, and how SQLite keeps a moment: as text that sorts as time does."""

from typing import Any

from storage.clock import from_text, to_text
from storage.database.order_rows import MOVE_NAMES, ORDER_NAMES, UPDATED_NAMES
from storage.database.rows import HISTORY_NAMES, KEEP_NEWER_FACTS, MODEL_COLUMNS, Rows
from storage.log.entries import Entry, MetalFixed, PriceListPublished, QuoteIssued, TokenIssued, TokenRevoked


def _shown(text: str) -> str:
    """Whole seconds have no fraction in what is encoded."""
    return f"{text[:-8]}Z" if text.endswith(".000000Z") else text


ROWS = Rows(to_text, from_text, _shown)

ROWS_TOGETHER = 16
"""Rows that one statement carries where there are so many: the driver gives up the interpreter lock for every
execution and has to win it back from a busy event loop. One fixed number, so that the statement is prepared
once."""


def upsert_orders(count: int) -> str:
    """State rows; one that is older than what is stored changes nothing."""
    rows = ", ".join([_placeholders(f"{ORDER_NAMES}, search")] * count)
    return (
        f"INSERT INTO orders ({ORDER_NAMES}, search) VALUES {rows}"
        f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in UPDATED_NAMES)}"
        " WHERE excluded.version > orders.version"
    )


def move_orders(count: int) -> str:
    """Rows of MOVE_NAMES, of orders that are there. Of the indexes of `orders` only those are touched that
    have one of these columns: half of the work."""
    rows = ", ".join([_placeholders(", ".join(MOVE_NAMES))] * count)
    settings = ", ".join(
        f"{name} = moved.column{place}" for place, name in enumerate(MOVE_NAMES, 1) if place > 1
    )
    return (
        f"UPDATE orders SET {settings} FROM (VALUES {rows}) AS moved"
        " WHERE orders.id = moved.column1 AND orders.version < moved.column2"
    )


def insert_history(count: int) -> str:
    rows = ", ".join([_placeholders(HISTORY_NAMES)] * count)
    return f"INSERT INTO order_history ({HISTORY_NAMES}) VALUES {rows}"


def _placeholders(names: str) -> str:
    return f"({', '.join('?' * (names.count(',') + 1))})"


MOVE_ORDER, MOVE_ORDERS = move_orders(1), move_orders(ROWS_TOGETHER)
UPSERT_ORDER, UPSERT_ORDERS = upsert_orders(1), upsert_orders(ROWS_TOGETHER)
INSERT_HISTORY, INSERT_HISTORIES = insert_history(1), insert_history(ROWS_TOGETHER)
STORE_OTHER: dict[type[Entry], str] = {
    QuoteIssued: (
        "INSERT INTO prices (id, sha256, tenant, issued_at, valid_until, body) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING"
    ),
    PriceListPublished: (
        "INSERT INTO price_lists (version, valid_from, valid_to, published_at, body) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (version) DO NOTHING"
    ),
    MetalFixed: (
        "INSERT INTO metal_fixes (version, fixed_at, published_at, body) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (version) DO NOTHING"
    ),
    TokenIssued: (
        "INSERT INTO tokens (id, secret_hash, role, name, customer, created_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING"
    ),
    TokenRevoked: "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
}
UPSERT_MODEL = (
    f"INSERT INTO models ({MODEL_COLUMNS}) VALUES {_placeholders(MODEL_COLUMNS)}"
    f" ON CONFLICT (sha256) DO UPDATE SET {KEEP_NEWER_FACTS},"
    " requests_score = excluded.requests_score, requested_at = excluded.requested_at"
)
INSERT_MODEL_TENANT = "INSERT INTO model_tenants (sha256, tenant) VALUES (?, ?) ON CONFLICT DO NOTHING"
INSERT_DEAD_LETTER = (
    "INSERT INTO dead_letters (id, epoch, position, order_id, error, payload, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_INSERT_ANSWER = "INSERT INTO answers (scope, epoch, position, payload, at) VALUES (?, ?, ?, ?, ?)"
KEEP_ANSWER = f"{_INSERT_ANSWER} ON CONFLICT (scope) DO NOTHING"
REPLACE_ANSWER = (
    f"{_INSERT_ANSWER} ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch,"
    " position = excluded.position, payload = excluded.payload, at = excluded.at"
    " WHERE excluded.at > answers.at"
)


def other_statement(entry: object) -> tuple[str, tuple[Any, ...]] | None:
    """The statement that stores an entry which is not an order's; None when there is nothing to store."""
    found = ROWS.other_row(entry)
    return None if found is None else (STORE_OTHER[found[0]], found[1])
