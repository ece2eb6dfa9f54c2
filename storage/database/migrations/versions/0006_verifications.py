"""What another program says of a model, beside its facts. A release before this leaves the columns alone."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_MOMENT = sa.String(27).with_variant(sa.DateTime(timezone=True), "postgresql")


def upgrade() -> None:
    op.add_column("models", sa.Column("verification", sa.String(16)))
    op.add_column("models", sa.Column("verified_at", _MOMENT))
    op.add_column("models", sa.Column("opinion", sa.Text()))
    condition = sa.text("verification IN ('differs', 'rejected')")
    op.create_index(
        "models_that_differ", "models", ["verified_at"], sqlite_where=condition, postgresql_where=condition
    )
