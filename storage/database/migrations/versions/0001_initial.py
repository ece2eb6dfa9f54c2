"""Orders with their history, models, prices, access, and how far the log has been read."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_MOMENT = sa.String(length=27).with_variant(sa.DateTime(timezone=True), "postgresql")
_ID = sa.String(length=36).with_variant(sa.String(length=36, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", _ID, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("order_id", _ID, nullable=True),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("dead_letters_by_position", "dead_letters", ["epoch", "position"], unique=False)
    op.create_table(
        "log_positions",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "metal_fixes",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("fixed_at", _MOMENT, nullable=False),
        sa.Column("published_at", _MOMENT, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "model_tenants",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "tenant"),
    )
    op.create_table(
        "models",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("analyser", sa.String(length=20), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("first_seen_at", _MOMENT, nullable=False),
        sa.Column("requests_score", sa.Float(), nullable=False),
        sa.Column("requested_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_index("models_by_score", "models", ["requests_score"], unique=False)
    op.create_table(
        "order_history",
        sa.Column("order_id", _ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", _ID, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("from_status", sa.String(length=24), nullable=True),
        sa.Column("to_status", sa.String(length=24), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("was", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("order_id", "version"),
    )
    op.create_index("order_history_by_position", "order_history", ["epoch", "position"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", _ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("status_since", _MOMENT, nullable=False),
        sa.Column("status_version", sa.Integer(), nullable=False),
        sa.Column("customer", sa.String(length=200), nullable=False),
        sa.Column("operator", sa.String(length=200), nullable=True),
        sa.Column("model", sa.String(length=64), nullable=True),
        sa.Column("units", sa.String(length=8), nullable=True),
        sa.Column("material", sa.String(length=40), nullable=True),
        sa.Column("finish", sa.String(length=40), nullable=True),
        sa.Column("plating", sa.String(length=40), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("quote", sa.String(length=64), nullable=True),
        sa.Column("price", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("reference", sa.String(length=200), nullable=True),
        sa.Column("due_at", _MOMENT, nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        sa.Column("search", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("number"),
    )
    op.create_index("orders_by_created", "orders", ["created_at", "id"], unique=False)
    op.create_index("orders_by_customer", "orders", ["customer", "created_at", "id"], unique=False)
    op.create_index(
        "orders_by_operator",
        "orders",
        ["operator", "status", "created_at"],
        unique=False,
        sqlite_where=sa.text("operator IS NOT NULL"),
        postgresql_where=sa.text("operator IS NOT NULL"),
    )
    op.create_index(
        "orders_by_reference",
        "orders",
        ["created_by", "reference"],
        unique=True,
        sqlite_where=sa.text("reference IS NOT NULL"),
        postgresql_where=sa.text("reference IS NOT NULL"),
    )
    op.create_index("orders_by_status", "orders", ["status", "created_at", "id"], unique=False)
    op.create_index("orders_by_updated", "orders", ["updated_at", "id"], unique=False)
    op.create_table(
        "price_lists",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("valid_from", _MOMENT, nullable=False),
        sa.Column("valid_to", _MOMENT, nullable=True),
        sa.Column("published_at", _MOMENT, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "prices",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=200), nullable=True),
        sa.Column("issued_at", _MOMENT, nullable=False),
        sa.Column("valid_until", _MOMENT, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "sequences",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("next", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("customer", sa.String(length=200), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("revoked_at", _MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("secret_hash"),
    )
    op.execute("INSERT INTO log_positions (name, epoch, position) VALUES ('write_behind', 1, 0)")
    op.execute("INSERT INTO sequences (name, next) VALUES ('order_numbers', 1001)")
