"""The tables as the code sees them; the migrations make them. Times are seconds since 1970."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("idem_key", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("lane", String(16), nullable=False),
    Column("title", Text, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_sha256", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("crash_count", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("resumable", Boolean, nullable=False),
    Column("stop_requested", Boolean, nullable=False),
    Column("stopped_early", Boolean, nullable=False),
    Column("parent_id", String(32)),
    Column("worker_id", String(64)),
    Column("device", Text, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("progress_words", Text, nullable=False),
    Column("seconds_left", Float),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("lease_until", Float),
    Column("error_code", String(32)),
    Column("error_text", Text),
    Column("result", JSON, nullable=False),
    Column("need", JSON, nullable=False, server_default="{}"),
    Column("need_bytes", BigInteger, nullable=False, server_default="0"),
    Column("waits_for", Text, nullable=False, server_default=""),
    Column("thrift", Integer, nullable=False, server_default="0"),
    Column("turn", Float, nullable=False, server_default="0"),
    Column("expected_seconds", Float),
    Column("is_short", Boolean, nullable=False, server_default=false()),
    Column("devices", Integer, nullable=False, server_default="1"),
    UniqueConstraint("owner", "idem_key", name="jobs_owner_key"),
    Index("jobs_line", "lane", "state", "owner", "priority", "turn"),
    Index("jobs_served", "owner", "lane", "started"),
    Index("jobs_pace", "kind", "state", "finished"),
    Index("jobs_newest", "created"),
    Index("jobs_leases", "state", "lease_until"),
)

claims = Table(
    "claims",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("job_id", String(32), ForeignKey("jobs.id"), nullable=False),
)
"""Names of models that live jobs will publish: a name is promised to one job at a time."""

events = Table(
    "events",
    metadata,
    Column("job_id", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("time", Float, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("payload", JSON, nullable=False),
    PrimaryKeyConstraint("job_id", "seq"),
)

models = Table(
    "models",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("parents", JSON, nullable=False),
    Column("words", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("job_id", String(32)),
    Column("created", Float, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("facts", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    Column("model", String(64), nullable=False),
    Column("metric", String(64), nullable=False),
    Column("data", String(64), nullable=False),
    Column("value", Float, nullable=False),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("n", Integer, nullable=False),
    Column("job_id", String(32), nullable=False),
    Column("created", Float, nullable=False),
    PrimaryKeyConstraint("model", "metric", "data"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("lane", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("device", Text, nullable=False),
    Column("models_loaded", JSON, nullable=False),
    Column("seen", Float, nullable=False),
    Column("places", Integer, nullable=False, server_default="0"),
    Column("short_places", Integer, nullable=False, server_default="0"),
)

pauses = Table(
    "pauses",
    metadata,
    Column("lane", String(16), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("since", Float, nullable=False),
)
"""The lanes in which no waiting job starts until somebody says so, and who paused them."""

devices = Table(
    "devices",
    metadata,
    Column("host", String(255), nullable=False),
    Column("name", String(32), nullable=False),
    Column("words", Text, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("seen", Float, nullable=False),
    Column("rests_until", Float),
    Column("kept_bytes", BigInteger, nullable=False, server_default="0"),
    Column("kept_words", Text, nullable=False, server_default=""),
    Column("kept_until", Float),
    PrimaryKeyConstraint("host", "name"),
)
"""What there is to compute on, by host. Kept is what the chat's loaded models take between two answers."""

holds = Table(
    "holds",
    metadata,
    Column("job_id", String(32), ForeignKey("jobs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lane", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("device", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("since", Float, nullable=False),
    PrimaryKeyConstraint("job_id", "device"),
    Index("holds_of_a_device", "host", "device"),
)
"""Which running attempt holds which devices, and how much of the memory of each."""
