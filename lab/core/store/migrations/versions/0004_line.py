"""The line of waiting jobs: turns, what is expected of a job, short jobs, pauses, places.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Give jobs and workers their columns; a waiting job's turn is its age."""
    op.add_column("jobs", sa.Column("turn", sa.Float(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("expected_seconds", sa.Float()))
    op.add_column("jobs", sa.Column("is_short", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE jobs SET turn = created WHERE state IN ('queued', 'running', 'cancelling')")
    op.drop_index("jobs_queue", "jobs")
    op.create_index("jobs_line", "jobs", ["lane", "state", "owner", "priority", "turn"])
    op.create_index("jobs_served", "jobs", ["owner", "lane", "started"])
    op.create_index("jobs_pace", "jobs", ["kind", "state", "finished"])
    op.add_column("workers", sa.Column("places", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("short_places", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "pauses",
        sa.Column("lane", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
    )
