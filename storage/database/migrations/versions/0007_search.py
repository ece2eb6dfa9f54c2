"""An index of what searches look through, kept up in the background, and indexes of due dates.

Triggers note each text that changes: also those that a release before this writes. What was there before the
migration is indexed afterwards, a little at a time.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_UNFOLDED = {
    "sqlite": (
        "instr(search, char(31)) = 0 AND (length(search) <> length(CAST(search AS BLOB))"
        " OR length(search) - length(replace(search, char(10), '')) <> 4)"
    ),
    "postgresql": (
        "strpos(search, chr(31)) = 0 AND (length(search) <> octet_length(search)"
        " OR length(search) - length(replace(search, chr(10), '')) <> 4)"
    ),
}
_SQLITE = (
    # PostgreSQL knows how many have no date, and then goes by date or by id; an index more of ids would add a
    # third to what a change costs there.
    "CREATE INDEX orders_without_due ON orders (id) WHERE due_at IS NULL",
    "CREATE VIRTUAL TABLE order_texts USING fts5"
    " (tokens, content = '', detail = none, columnsize = 0, tokenize = 'ascii')",
    "CREATE TRIGGER search_inserted AFTER INSERT ON orders BEGIN"
    " INSERT INTO search_pending (number, now) VALUES (NEW.number, NEW.search); END",
    "CREATE TRIGGER search_updated AFTER UPDATE OF search ON orders WHEN NEW.search <> OLD.search BEGIN"
    " INSERT INTO search_pending (number, was, now) VALUES (NEW.number, OLD.search, NEW.search); END",
    "CREATE TRIGGER search_deleted AFTER DELETE ON orders BEGIN"
    " INSERT INTO search_pending (number, was) VALUES (OLD.number, OLD.search); END",
)
_POSTGRESQL = (
    "CREATE TABLE order_texts (number BIGINT PRIMARY KEY, tokens TEXT NOT NULL)",
    # Not inlined, and at its price: else the planner would take every text apart rather than use the index.
    "CREATE FUNCTION search_tokens(text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE"
    " COST 1000 AS $$ BEGIN RETURN string_to_array($1, ' '); END $$",
    "CREATE INDEX order_texts_by_token ON order_texts USING gin (search_tokens(tokens))",
    "CREATE FUNCTION search_note_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO search_pending (number) SELECT number FROM inserted;"
    " RETURN NULL; END $$",
    "CREATE FUNCTION search_note_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO search_pending (number) VALUES (OLD.number);"
    " RETURN NULL; END $$",
    "CREATE TRIGGER search_inserted AFTER INSERT ON orders REFERENCING NEW TABLE AS inserted"
    " FOR EACH STATEMENT EXECUTE FUNCTION search_note_inserted()",
    "CREATE TRIGGER search_updated AFTER UPDATE OF search ON orders FOR EACH ROW"
    " WHEN (NEW.search IS DISTINCT FROM OLD.search) EXECUTE FUNCTION search_note_changed()",
    "CREATE TRIGGER search_deleted AFTER DELETE ON orders FOR EACH ROW"
    " EXECUTE FUNCTION search_note_changed()",
)


def upgrade() -> None:
    op.create_index("orders_by_due", "orders", ["due_at"])
    op.create_index(
        "orders_unfolded",
        "orders",
        ["number"],
        sqlite_where=sa.text(_UNFOLDED["sqlite"]),
        postgresql_where=sa.text(_UNFOLDED["postgresql"]),
    )
    op.create_table(
        "search_pending",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("was", sa.Text()),
        sa.Column("now", sa.Text()),
    )
    op.create_table(
        "search_index",
        sa.Column("built", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
    )
    dialect = op.get_bind().dialect.name
    for statement in _SQLITE if dialect == "sqlite" else _POSTGRESQL:
        op.execute(statement)
    op.execute("INSERT INTO search_index (built, until) SELECT 0, coalesce(max(number), 0) FROM orders")
