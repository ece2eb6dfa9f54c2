"""Indexes of orders without the id, which made up most of each entry, and a summary of where in the log the
history lies.

Every change of an order writes an entry into each of its indexes. Both engines sort the few orders of the
same moment themselves behind an index on the moment alone.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = {
    "orders_by_created": ["created_at"],
    "orders_by_updated": ["updated_at"],
    "orders_by_status": ["status", "created_at"],
    "orders_by_customer": ["customer", "created_at"],
}


def upgrade() -> None:
    for name, columns in _INDEXES.items():
        op.drop_index(name, table_name="orders")
        op.create_index(name, "orders", columns)
    op.drop_index("order_history_by_position", table_name="order_history")
    op.create_index(
        "order_history_by_position", "order_history", ["epoch", "position"], postgresql_using="brin"
    )
