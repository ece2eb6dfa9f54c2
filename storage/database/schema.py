"""The tables, one definition for both engines. Migrations in `migrations/` bring a database here.

Other tools may read `orders`, `order_history`, `models`, `prices`, `price_lists`, `dead_letters` and
`log_positions`; the rest is internal.
"""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

UNFOLDED = {
    "sqlite": (
        "instr(search, char(31)) = 0 AND (length(search) <> length(CAST(search AS BLOB))"
        " OR length(search) - length(replace(search, char(10), '')) <> 4)"
    ),
    "postgresql": (
        "strpos(search, chr(31)) = 0 AND (length(search) <> octet_length(search)"
        " OR length(search) - length(replace(search, chr(10), '')) <> 4)"
    ),
}
"""Of an order whose text a release has written that knew of case only, and that folding may change: by
dialect, word for word as the index says it."""


_MOMENT = sa.String(27).with_variant(sa.DateTime(timezone=True), "postgresql")
_ID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")


def _moment(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    """A time. SQLite keeps RFC 3339 text of fixed width, which sorts as time does."""
    return sa.Column(name, _MOMENT, nullable=nullable)


orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, unique=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("status", sa.String(24), nullable=False),
    _moment("status_since"),
    sa.Column("status_version", sa.Integer, nullable=False),
    sa.Column("customer", sa.String(200), nullable=False),
    sa.Column("operator", sa.String(200)),
    sa.Column("model", sa.String(64)),
    sa.Column("units", sa.String(8)),
    sa.Column("material", sa.String(40)),
    sa.Column("finish", sa.String(40)),
    sa.Column("plating", sa.String(40)),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("quote", sa.String(64)),
    sa.Column("price", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("reference", sa.String(200)),
    _moment("due_at", nullable=True),
    _moment("created_at"),
    sa.Column("created_by", sa.String(64), nullable=False),
    _moment("updated_at"),
    sa.Column("search", sa.Text, nullable=False),
    sa.Index("orders_by_created", "created_at"),
    sa.Index("orders_by_due", "due_at"),
    sa.Index(
        "orders_unfolded",
        "number",
        sqlite_where=sa.text(UNFOLDED["sqlite"]),
        postgresql_where=sa.text(UNFOLDED["postgresql"]),
    ),
    sa.Index("orders_by_updated", "updated_at"),
    sa.Index("orders_by_status", "status", "created_at"),
    sa.Index("orders_by_customer", "customer", "created_at"),
    sa.Index(
        "orders_by_operator",
        "operator",
        "status",
        "created_at",
        sqlite_where=sa.text("operator IS NOT NULL"),
        postgresql_where=sa.text("operator IS NOT NULL"),
    ),
    sa.Index(
        "orders_by_reference",
        "created_by",
        "reference",
        unique=True,
        sqlite_where=sa.text("reference IS NOT NULL"),
        postgresql_where=sa.text("reference IS NOT NULL"),
    ),
)

order_history = sa.Table(
    "order_history",
    metadata,
    sa.Column("order_id", _ID, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("entry_id", _ID, nullable=False),
    sa.Column("kind", sa.String(10), nullable=False),
    sa.Column("from_status", sa.String(24)),
    sa.Column("to_status", sa.String(24), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    _moment("at"),
    sa.Column("comment", sa.Text),
    sa.Column("was", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.String(255)),
    sa.Index("order_history_by_position", "epoch", "position", postgresql_using="brin"),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("analyser", sa.String(20), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    _moment("first_seen_at"),
    sa.Column("requests_score", sa.Float, nullable=False),
    _moment("requested_at"),
    sa.Column("verification", sa.String(16)),
    _moment("verified_at", nullable=True),
    sa.Column("opinion", sa.Text),
    sa.Index("models_by_score", "requests_score"),
    sa.Index(
        "models_that_differ",
        "verified_at",
        sqlite_where=sa.text("verification IN ('differs', 'rejected')"),
        postgresql_where=sa.text("verification IN ('differs', 'rejected')"),
    ),
)

model_tenants = sa.Table(
    "model_tenants",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("tenant", sa.String(200), primary_key=True),
)

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(200)),
    _moment("issued_at"),
    _moment("valid_until"),
    sa.Column("body", sa.Text, nullable=False),
)

price_lists = sa.Table(
    "price_lists",
    metadata,
    sa.Column("version", sa.String(64), primary_key=True),
    _moment("valid_from"),
    _moment("valid_to", nullable=True),
    _moment("published_at"),
    sa.Column("body", sa.Text, nullable=False),
)

metal_fixes = sa.Table(
    "metal_fixes",
    metadata,
    sa.Column("version", sa.String(64), primary_key=True),
    _moment("fixed_at"),
    _moment("published_at"),
    sa.Column("body", sa.Text, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("customer", sa.String(200)),
    _moment("created_at"),
    _moment("revoked_at", nullable=True),
)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("order_id", _ID),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    _moment("at"),
    sa.Index("dead_letters_by_position", "epoch", "position"),
)

log_positions = sa.Table(
    "log_positions",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("lineage", sa.Integer, nullable=False, server_default="1"),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("scope", sa.String(64), primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    _moment("at"),
    sa.Index("answers_by_time", "at"),
)
"""Keyed requests with the entry that answered them, so that a new epoch of the log still knows them."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    _moment("expires_at"),
)

processes = sa.Table(
    "processes",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("united", sa.Integer, nullable=False),
    _moment("seen_at"),
    sa.Column("level", sa.Integer, nullable=False, server_default="1"),
)
"""Who follows the log. `united`: the epoch of which this process has brought all it held. `level`: which
level of the log it reads."""

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("level", sa.Integer, nullable=False, server_default="1"),
)
"""One row: tells this Facet's data from another's, in backups and in Redis. `level`: the highest level of
the log that may have been written, now or before."""

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
"""Keys that all processes of this installation share. Secret."""

search_pending = sa.Table(
    "search_pending",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("was", sa.Text),
    sa.Column("now", sa.Text),
)
"""Orders whose texts the search index has not taken in yet, in the order of their changes. Triggers write it,
so that a release that knows nothing of the index keeps it right as well. `was`, `now`: the text before and
after, which SQLite's index must be told."""

search_index = sa.Table(
    "search_index",
    metadata,
    sa.Column("built", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""One row. Of the orders up to the number `until`, which were there before the index, it has those up to
`built`. The index itself is the table `order_texts`, of each engine's own kind."""

sequences = sa.Table(
    "sequences",
    metadata,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
)

ORDER_COLUMNS = tuple(column.name for column in orders.columns if column.name != "search")
"""The columns that make up the record, in the order in which statements name them."""
ORDERS_POSITION = "write_behind"
"""The row of `log_positions` that says how far the database has read the log."""
ORDER_NUMBERS = "order_numbers"
"""The row of `sequences` that order numbers are leased from."""
FIRST_ORDER_NUMBER = 1001


def is_moment(column: "sa.Column[Any]") -> bool:
    return column.type is _MOMENT
