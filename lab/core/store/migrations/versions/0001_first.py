"""The first release's tables.

Revision ID: 0001
Revises:
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str, size: int | None = None, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.String(size) if size else sa.Text(), nullable=null)


def _column(name: str, kind: Any, *, null: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, kind(), nullable=null)


def upgrade() -> None:
    """Create the tables and, on SQLite, the triggers that keep the state machine."""
    _create_jobs()
    _create_what_jobs_say()
    _create_shelves()
    if op.get_bind().dialect.name == "sqlite":
        for statement in _TRIGGERS:
            op.execute(statement)


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        _text("owner", 64),
        _text("idem_key", 128),
        _text("kind", 32),
        _text("lane", 16),
        _text("title"),
        _column("spec", sa.JSON),
        _text("spec_sha256", 64),
        _text("state", 16),
        _column("attempt", sa.Integer),
        _column("crash_count", sa.Integer),
        _column("priority", sa.Integer),
        _column("resumable", sa.Boolean),
        _column("stop_requested", sa.Boolean),
        _column("stopped_early", sa.Boolean),
        _text("parent_id", 32, null=True),
        _text("worker_id", 64, null=True),
        _text("device"),
        _column("last_seq", sa.Integer),
        _column("progress", sa.Float),
        _text("progress_words"),
        _column("seconds_left", sa.Float, null=True),
        _column("created", sa.Float),
        _column("started", sa.Float, null=True),
        _column("finished", sa.Float, null=True),
        _column("lease_until", sa.Float, null=True),
        _text("error_code", 32, null=True),
        _text("error_text", null=True),
        _column("result", sa.JSON),
        sa.UniqueConstraint("owner", "idem_key", name="jobs_owner_key"),
    )
    op.create_index("jobs_queue", "jobs", ["lane", "state", "priority", "created"])
    op.create_index("jobs_newest", "jobs", ["created"])
    op.create_table(
        "claims",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
    )


def _create_what_jobs_say() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        _column("seq", sa.Integer),
        _column("time", sa.Float),
        _text("kind", 16),
        _column("payload", sa.JSON),
        sa.PrimaryKeyConstraint("job_id", "seq"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(64), primary_key=True),
        _text("lane", 16),
        _text("host", 255),
        _text("device"),
        _column("models_loaded", sa.JSON),
        _column("seen", sa.Float),
    )


def _create_shelves() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), primary_key=True),
        _text("kind", 16),
        _text("owner", 64),
        _column("parents", sa.JSON),
        _text("words"),
        _column("facts", sa.JSON),
        _column("size_bytes", sa.BigInteger),
        _text("manifest_sha256", 64),
        _text("job_id", 32, null=True),
        _column("created", sa.Float),
    )
    op.create_table(
        "datasets",
        sa.Column("name", sa.String(64), primary_key=True),
        _text("owner", 64),
        _column("facts", sa.JSON),
        _column("size_bytes", sa.BigInteger),
        _text("sha256", 64),
        _column("created", sa.Float),
    )
    op.create_table(
        "scores",
        _text("model", 64),
        _text("metric", 64),
        _text("data", 64),
        _column("value", sa.Float),
        _column("low", sa.Float),
        _column("high", sa.Float),
        _column("n", sa.Integer),
        _text("job_id", 32),
        _column("created", sa.Float),
        sa.PrimaryKeyConstraint("model", "metric", "data"),
    )


_TRIGGERS = (
    """CREATE TRIGGER jobs_legal_transitions BEFORE UPDATE OF state ON jobs
    WHEN NOT ((OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled', 'failed'))
        OR (OLD.state = 'running' AND NEW.state IN ('succeeded', 'failed', 'queued', 'cancelling'))
        OR (OLD.state = 'cancelling' AND NEW.state IN ('cancelled', 'succeeded', 'failed')))
    BEGIN SELECT RAISE(ABORT, 'illegal transition'); END""",
    """CREATE TRIGGER jobs_terminal_is_final BEFORE UPDATE ON jobs
    WHEN OLD.state IN ('succeeded', 'failed', 'cancelled')
    BEGIN SELECT RAISE(ABORT, 'illegal transition'); END""",
    """CREATE TRIGGER jobs_start_queued BEFORE INSERT ON jobs
    WHEN NEW.state <> 'queued'
    BEGIN SELECT RAISE(ABORT, 'illegal transition'); END""",
    """CREATE TRIGGER events_without_gaps BEFORE INSERT ON events
    WHEN NEW.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM events WHERE job_id = NEW.job_id)
    BEGIN SELECT RAISE(ABORT, 'gap in events'); END""",
)
