"""Jobs that compute on several devices: how many a job wants, and a hold on each.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Give jobs the column, and make a hold one of a job and a device; those that are held stay held."""
    op.add_column("jobs", sa.Column("devices", sa.Integer(), nullable=False, server_default="1"))
    op.drop_index("holds_of_a_device", "holds")
    op.rename_table("holds", "holds_of_one")
    op.create_table(
        "holds",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "device", name="holds_of_jobs"),
    )
    op.create_index("holds_of_a_device", "holds", ["host", "device"])
    op.execute(
        "INSERT INTO holds (job_id, attempt, lane, host, device, bytes, since) "
        "SELECT job_id, attempt, lane, host, device, bytes, since FROM holds_of_one"
    )
    op.drop_table("holds_of_one")
