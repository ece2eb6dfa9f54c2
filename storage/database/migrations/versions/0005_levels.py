"""Which level of the log each process reads, and which is in force. A release before this reads the first."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for table in ("processes", "installation"):
        op.add_column(table, sa.Column("level", sa.Integer(), nullable=False, server_default="1"))
