"""Postgres keeps the state machine by triggers too, and lapsed leases are found by an index.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the index and, on Postgres, the triggers that SQLite has had from the start."""
    op.create_index("jobs_leases", "jobs", ["state", "lease_until"])
    if op.get_bind().dialect.name == "postgresql":
        for statement in _POSTGRES:
            op.execute(statement)


_POSTGRES = (
    """CREATE FUNCTION lab_illegal_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'illegal transition' USING ERRCODE = 'integrity_constraint_violation';
    END $$""",
    """CREATE FUNCTION lab_events_without_gaps() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM events WHERE job_id = NEW.job_id) THEN
            RAISE EXCEPTION 'gap in events' USING ERRCODE = 'integrity_constraint_violation';
        END IF;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER jobs_legal_transitions BEFORE UPDATE OF state ON jobs FOR EACH ROW
    WHEN (NOT ((OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled', 'failed'))
        OR (OLD.state = 'running' AND NEW.state IN ('succeeded', 'failed', 'queued', 'cancelling'))
        OR (OLD.state = 'cancelling' AND NEW.state IN ('cancelled', 'succeeded', 'failed'))))
    EXECUTE FUNCTION lab_illegal_transition()""",
    """CREATE TRIGGER jobs_terminal_is_final BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state IN ('succeeded', 'failed', 'cancelled'))
    EXECUTE FUNCTION lab_illegal_transition()""",
    """CREATE TRIGGER jobs_start_queued BEFORE INSERT ON jobs FOR EACH ROW
    WHEN (NEW.state <> 'queued')
    EXECUTE FUNCTION lab_illegal_transition()""",
    """CREATE TRIGGER events_without_gaps BEFORE INSERT ON events FOR EACH ROW
    EXECUTE FUNCTION lab_events_without_gaps()""",
)
