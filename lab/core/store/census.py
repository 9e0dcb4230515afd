"""Counts for those who operate the lab: jobs, queues and workers, each in one query."""

from dataclasses import dataclass

from sqlalchemy import func, select

from lab.core.store.database import Database
from lab.core.store.schema import jobs, workers

WORKER_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Census:
    """The lab in numbers. Ages are seconds by the database's clock.

    Attributes:
        jobs: how many there are, by state and kind.
        waiting: by lane, how many wait and how long ago the oldest of them was submitted.
        workers: by worker and lane, how long ago it was heard of, within the last day.
        crashes: how often a process of a job died, over all jobs on record.
    """

    jobs: dict[tuple[str, str], int]
    waiting: dict[str, tuple[int, float]]
    workers: dict[tuple[str, str], float]
    crashes: int


def take_census(database: Database) -> Census:
    """Count everything."""
    now = database.now
    counted = select(jobs.c.state, jobs.c.kind, func.count()).group_by(jobs.c.state, jobs.c.kind)
    queued = select(jobs.c.lane, func.count(), now - func.min(jobs.c.created)).where(jobs.c.state == "queued")
    seen = select(workers.c.id, workers.c.lane, now - workers.c.seen).where(
        workers.c.seen > now - WORKER_SECONDS
    )
    with database.read() as connection:
        return Census(
            jobs={(state, kind): n for state, kind, n in connection.execute(counted)},
            waiting={
                lane: (n, max(float(age), 0.0))
                for lane, n, age in connection.execute(queued.group_by(jobs.c.lane))
            },
            workers={(name, lane): max(float(age), 0.0) for name, lane, age in connection.execute(seen)},
            crashes=int(connection.execute(select(func.sum(jobs.c.crash_count))).scalar() or 0),
        )
