"""Devices and who holds them, what a job needs of one, and what it waits for.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables, and give jobs the columns that say what they need and wait for."""
    op.create_table(
        "devices",
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.Column("rests_until", sa.Float()),
        sa.Column("kept_bytes", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("kept_words", sa.Text(), nullable=False, server_default=""),
        sa.Column("kept_until", sa.Float()),
        sa.PrimaryKeyConstraint("host", "name"),
    )
    op.create_table(
        "holds",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
    )
    op.create_index("holds_of_a_device", "holds", ["host", "device"])
    op.add_column("jobs", sa.Column("need", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("need_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("waits_for", sa.Text(), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("thrift", sa.Integer(), nullable=False, server_default="0"))
