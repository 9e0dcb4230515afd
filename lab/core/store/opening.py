"""The store as a whole: every table over one database, and how it is opened."""

from sqlalchemy import ColumnElement

from lab.core.settings import Settings
from lab.core.store.database import Database
from lab.core.store.devices import Devices
from lab.core.store.events import Events
from lab.core.store.jobs import LEASE_SECONDS, Jobs
from lab.core.store.line import Lines
from lab.core.store.shelves import Datasets, Models, Scores, Workers

START_SECONDS = 30.0
"""A database server that starts together with the lab has so long to answer."""


class Store:
    """All tables over one database.

    Args:
        url: SQLAlchemy URL.
        now: SQL expression for the present; tests pass a clock of their own.
        lease_seconds: how long a claimed job is held without a heartbeat.
    """

    def __init__(
        self, url: str, now: ColumnElement[float] | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self.database = Database(url, now)
        self.jobs = Jobs(self.database, lease_seconds)
        self.line = Lines(self.database)
        self.events = Events(self.database)
        self.models = Models(self.database)
        self.datasets = Datasets(self.database)
        self.scores = Scores(self.database)
        self.workers = Workers(self.database)
        self.devices = Devices(self.database)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()


def open_store(settings: Settings, lease_seconds: float = LEASE_SECONDS) -> Store:
    """Open the lab's database, making or migrating it where needed.

    Raises:
        BadInput: the data folder can't be written.
        LabError: the database does not answer, or a newer release has migrated it.
    """
    settings.make_folders()
    store = Store(settings.database, lease_seconds=lease_seconds)
    store.database.wait_until_ready(START_SECONDS if settings.database_url else 0)
    store.database.migrate()
    return store
