"""Rows <-> records, and the statements that carry them."""

from datetime import datetime
from typing import Any

import msgspec

from storage.clock import from_text, to_text
from storage.database import StoredModel, StoredQuote, StoredToken, StoredVersion
from storage.entries import (
    MetalFixed,
    OrderChanged,
    PriceListPublished,
    QuoteIssued,
    TokenIssued,
    TokenRevoked,
)
from storage.filters import search_text
from storage.log import Logged
from storage.orders import HistoryItem, Kind, Order, OrderPrice, Role, Status, Was
from storage.schema import ORDER_COLUMNS

_ORDER_NAMES = ", ".join(ORDER_COLUMNS)
_UPDATED = [name for name in (*ORDER_COLUMNS, "search") if name not in ("id", "number", "created_by")]

SELECT_ORDER = f"SELECT {_ORDER_NAMES} FROM orders WHERE id = ?"
ROWS_TOGETHER = 16
"""Rows that one statement carries where there are so many: the driver gives up the interpreter lock for every
execution and has to win it back from a busy event loop. One fixed number, so that the statement is prepared
once."""


def upsert_orders(count: int) -> str:
    """State rows; one that is older than what is stored changes nothing."""
    rows = ", ".join([f"({', '.join('?' * 23)})"] * count)
    return (
        f"INSERT INTO orders ({_ORDER_NAMES}, search) VALUES {rows}"
        f" ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _UPDATED)}"
        " WHERE excluded.version > orders.version"
    )


def insert_history(count: int) -> str:
    rows = ", ".join([f"({', '.join('?' * 13)})"] * count)
    return (
        "INSERT INTO order_history (order_id, version, epoch, position, entry_id, kind, from_status,"
        f" to_status, actor, at, comment, was, idempotency_key) VALUES {rows}"
    )


UPSERT_ORDER, UPSERT_ORDERS = upsert_orders(1), upsert_orders(ROWS_TOGETHER)
INSERT_HISTORY, INSERT_HISTORIES = insert_history(1), insert_history(ROWS_TOGETHER)
HISTORY_COLUMNS = "version, kind, from_status, to_status, actor, at, comment, was"
INSERT_QUOTE = (
    "INSERT INTO prices (id, sha256, tenant, issued_at, valid_until, body) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)
INSERT_PRICE_LIST = (
    "INSERT INTO price_lists (version, valid_from, valid_to, published_at, body) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (version) DO NOTHING"
)
INSERT_METAL_FIX = (
    "INSERT INTO metal_fixes (version, fixed_at, published_at, body) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (version) DO NOTHING"
)
INSERT_TOKEN = (
    "INSERT INTO tokens (id, secret_hash, role, name, customer, created_at) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (id) DO NOTHING"
)
REVOKE_TOKEN = "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?"
MODEL_COLUMNS = "sha256, analyser, bytes, facts, first_seen_at, requests_score, requested_at"
UPSERT_MODEL = (
    f"INSERT INTO models ({MODEL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET"
    " analyser = excluded.analyser, facts = excluded.facts, requests_score = excluded.requests_score,"
    " requested_at = excluded.requested_at"
)
INSERT_MODEL_TENANT = "INSERT INTO model_tenants (sha256, tenant) VALUES (?, ?) ON CONFLICT DO NOTHING"
INSERT_DEAD_LETTER = (
    "INSERT INTO dead_letters (id, epoch, position, order_id, error, payload, at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_encode = msgspec.json.Encoder().encode
_decode_price = msgspec.json.Decoder(OrderPrice).decode
_decode_was = msgspec.json.Decoder(Was).decode


def optional_text(moment: datetime | None) -> str | None:
    return None if moment is None else to_text(moment)


def order_row(order: Order) -> tuple[Any, ...]:
    """In the order of ORDER_COLUMNS, then `search`."""
    return (
        order.id,
        order.number,
        order.version,
        order.status.value,
        to_text(order.status_since),
        order.status_version,
        order.customer,
        order.operator,
        order.model,
        order.units,
        order.material,
        order.finish,
        order.plating,
        order.quantity,
        order.quote,
        None if order.price is None else _encode(order.price).decode(),
        order.note,
        order.reference,
        optional_text(order.due_at),
        to_text(order.created_at),
        order.created_by,
        to_text(order.updated_at),
        search_text(order),
    )


def order_of(row: Any) -> Order:
    """From a row of ORDER_COLUMNS."""
    return Order(
        id=row[0],
        number=row[1],
        version=row[2],
        status=Status(row[3]),
        status_since=from_text(row[4]),
        status_version=row[5],
        customer=row[6],
        operator=row[7],
        model=row[8],
        units=row[9],
        material=row[10],
        finish=row[11],
        plating=row[12],
        quantity=row[13],
        quote=row[14],
        price=None if row[15] is None else _decode_price(row[15]),
        note=row[16],
        reference=row[17],
        due_at=None if row[18] is None else from_text(row[18]),
        created_at=from_text(row[19]),
        created_by=row[20],
        updated_at=from_text(row[21]),
    )


def history_row(logged: Logged, epoch: int) -> tuple[Any, ...]:
    """Of an entry that is an OrderChanged."""
    entry = logged.entry
    assert isinstance(entry, OrderChanged)
    change = entry.change
    return (
        change.order.id,
        change.order.version,
        epoch,
        logged.n,
        entry.id,
        change.kind.value,
        None if change.from_status is None else change.from_status.value,
        change.to_status.value,
        change.actor,
        to_text(change.at),
        change.comment,
        _encode(change.was).decode(),
        None if entry.remembered is None else entry.remembered.key,
    )


def history_of(row: Any) -> HistoryItem:
    """From a row of HISTORY_COLUMNS."""
    return HistoryItem(
        version=row[0],
        kind=Kind(row[1]),
        from_status=None if row[2] is None else Status(row[2]),
        to_status=Status(row[3]),
        actor=row[4],
        at=from_text(row[5]),
        comment=row[6],
        was=_decode_was(row[7]),
    )


def other_statement(entry: object) -> tuple[str, tuple[Any, ...]] | None:
    """The statement that stores an entry which is not an order's; None when there is nothing to store."""
    match entry:
        case QuoteIssued():
            body = entry.body.decode()
            issued, until = to_text(entry.at), to_text(entry.valid_until)
            return INSERT_QUOTE, (entry.quote_id, entry.sha256, entry.tenant, issued, until, body)
        case PriceListPublished():
            validity = (to_text(entry.valid_from), optional_text(entry.valid_to))
            return INSERT_PRICE_LIST, (entry.version, *validity, to_text(entry.at), entry.body.decode())
        case MetalFixed():
            moments = (to_text(entry.fixed_at), to_text(entry.at))
            return INSERT_METAL_FIX, (entry.version, *moments, entry.body.decode())
        case TokenIssued():
            who = (entry.role.value, entry.name, entry.customer)
            return INSERT_TOKEN, (entry.token_id, entry.secret_hash, *who, to_text(entry.at))
        case TokenRevoked():
            return REVOKE_TOKEN, (to_text(entry.at), entry.token_id)
    return None


def model_row(model: StoredModel) -> tuple[Any, ...]:
    return (
        model.sha256,
        model.analyser,
        model.byte_count,
        model.facts.decode(),
        to_text(model.first_seen_at),
        model.score,
        to_text(model.requested_at),
    )


def model_of(row: Any, tenants: frozenset[str]) -> StoredModel:
    """From a row of MODEL_COLUMNS."""
    return StoredModel(
        sha256=row[0],
        analyser=row[1],
        byte_count=row[2],
        facts=row[3].encode(),
        first_seen_at=from_text(row[4]),
        score=row[5],
        requested_at=from_text(row[6]),
        tenants=tenants,
    )


def quote_of(row: Any) -> StoredQuote:
    return StoredQuote(row[0], row[1], from_text(row[2]), row[3].encode())


def version_of(row: Any) -> StoredVersion:
    ends_at = None if row[2] is None else from_text(row[2])
    return StoredVersion(row[0], from_text(row[1]), ends_at, row[3].encode())


def token_of(row: Any) -> StoredToken:
    return StoredToken(row[0], row[1], Role(row[2]), row[3], row[4], from_text(row[5]))
