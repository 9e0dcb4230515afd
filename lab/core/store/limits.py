"""How much one person, and all together, may have in the queue: asked as a job is queued."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from lab.core.errors import BadInput
from lab.core.settings import Settings
from lab.core.store.schema import datasets, jobs, models

GIGABYTE = 10**9


@dataclass(frozen=True)
class Limits:
    """What is allowed; 0 sets no limit.

    Attributes:
        waiting: jobs of one person that wait.
        disk_bytes: of one person's models and datasets.
        queue: jobs that wait in all.
        exempt: people without limits: the lab itself.
    """

    waiting: int = 0
    disk_bytes: int = 0
    queue: int = 0
    exempt: Collection[str] = ()

    def refuse_more(self, connection: Connection, owner: str, makes_models: bool) -> None:
        """Refuse one more job where a limit is reached.

        On Postgres a person's submissions wait for each other here, so that none slips through beside
        another. The queue as a whole may overshoot by those that are submitted at the same moment.

        Args:
            connection: the writing transaction that queues the job.
            owner: who submits it.
            makes_models: whether it will add to its owner's models.

        Raises:
            BadInput: the queue is full, or its owner has as much as is allowed.
        """
        if owner in self.exempt or not (self.waiting or self.disk_bytes or self.queue):
            return
        self._refuse_when_full(connection)
        if connection.dialect.name == "postgresql" and (self.waiting or self.disk_bytes):
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"limits of {owner}"))))
        self._refuse_waiting(connection, owner)
        if makes_models:
            self._refuse_disk(connection, owner)

    def _refuse_when_full(self, connection: Connection) -> None:
        if self.queue and _waiting(connection) >= self.queue:
            raise BadInput(
                f"The queue is full: {self.queue:,} jobs wait.",
                "No more are taken until some have run.",
                "Submit again in a while.",
            )

    def _refuse_waiting(self, connection: Connection, owner: str) -> None:
        if self.waiting and (count := _waiting(connection, owner)) >= self.waiting:
            raise BadInput(
                f"You have {count:,} waiting job{'s' * (count != 1)}.",
                f"Everyone may have {self.waiting:,} at most.",
                "Wait until one has begun, or cancel one on the Jobs page.",
            )

    def _refuse_disk(self, connection: Connection, owner: str) -> None:
        if self.disk_bytes and (used := _disk_bytes(connection, owner)) >= self.disk_bytes:
            raise BadInput(
                f"Your models and datasets take {used / GIGABYTE:,.1f} GB.",
                f"Everyone may have {self.disk_bytes / GIGABYTE:,.1f} GB.",
                "Delete some on the Models page, then submit again.",
            )


NO_LIMITS = Limits()

_WAITING = select(func.count()).select_from(jobs).where(jobs.c.state == "queued")


def limits_of(settings: Settings, exempt: Collection[str] = ()) -> Limits:
    """Return the limits that the settings ask for."""
    disk_bytes = int(settings.most_disk_gb * GIGABYTE)
    return Limits(settings.most_waiting, disk_bytes, settings.queue_size, exempt)


def _waiting(connection: Connection, owner: str | None = None) -> int:
    if owner is None:
        return int(connection.execute(_WAITING).scalar_one())
    return int(connection.execute(_WAITING.where(jobs.c.owner == owner)).scalar_one())


def _disk_bytes(connection: Connection, owner: str) -> int:
    return sum(
        int(
            connection.execute(select(func.sum(table.c.size_bytes)).where(table.c.owner == owner)).scalar()
            or 0
        )
        for table in (models, datasets)
    )
