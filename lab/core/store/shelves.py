"""The tables of what the lab keeps and who works in it: models, datasets, scores, workers."""

from collections.abc import Collection

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from lab.core.errors import Conflict, NotFound, UnknownName
from lab.core.store.database import Database
from lab.core.store.rows import DatasetRow, ModelRow, ScoreRow, WorkerRow
from lab.core.store.schema import datasets, models, scores, workers

WORKER_ALIVE_SECONDS = 15.0


class Models:
    """The published models. A job lists them as it succeeds; see Jobs.succeed."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def list(self) -> list[ModelRow]:
        """Return all models, newest first."""
        with self._db.read() as connection:
            rows = connection.execute(
                select(models).order_by(models.c.created.desc(), models.c.name)
            ).mappings()
            return [ModelRow(**{**row, "parents": tuple(row["parents"])}) for row in rows]

    def get(self, name: str) -> ModelRow:
        """Return one model.

        Raises:
            UnknownName: there is none of that name; the nearest is suggested.
        """
        every = {row.name: row for row in self.list()}
        if name not in every:
            raise UnknownName.among("model", name, every)
        return every[name]

    def delete(self, name: str) -> None:
        """Take a model and its scores off the list; its folder is the catalog's business.

        Raises:
            NotFound: there is none of that name.
        """
        with self._db.write() as connection:
            gone = connection.execute(delete(models).where(models.c.name == name)).rowcount
            connection.execute(delete(scores).where(scores.c.model == name))
        if not gone:
            raise NotFound(f"There is no model {name!r}.", "", "Reload the page: it may have been deleted.")


class Datasets:
    """The imported datasets."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def list(self) -> list[DatasetRow]:
        """Return all datasets, newest first."""
        with self._db.read() as connection:
            rows = connection.execute(select(datasets).order_by(datasets.c.created.desc())).mappings()
            return [DatasetRow(**row) for row in rows]

    def get(self, name: str) -> DatasetRow:
        """Return one dataset.

        Raises:
            UnknownName: there is none of that name; the nearest is suggested.
        """
        every = {row.name: row for row in self.list()}
        if name not in every:
            raise UnknownName.among("dataset", name, every)
        return every[name]

    def insert(self, row: DatasetRow) -> DatasetRow:
        """List a dataset; `created` is set by the database.

        Raises:
            Conflict: the name is taken.
        """
        try:
            with self._db.write() as connection:
                connection.execute(insert(datasets).values({**vars(row), "created": self._db.now}))
        except IntegrityError:
            raise Conflict(
                f"There is already a dataset named {row.name!r}.",
                "Names are used once.",
                "Choose another name.",
                field="name",
            ) from None
        return self.get(row.name)

    def delete(self, name: str) -> None:
        """Take a dataset off the list; one that is not there is gone already."""
        with self._db.write() as connection:
            connection.execute(delete(datasets).where(datasets.c.name == name))


class Scores:
    """The newest figure of every model, metric and data file."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def of(self, names: Collection[str]) -> list[ScoreRow]:
        """Return the scores of these models."""
        query = (
            select(scores)
            .where(scores.c.model.in_(names))
            .order_by(scores.c.model, scores.c.metric, scores.c.data)
        )
        with self._db.read() as connection:
            return [ScoreRow(**row) for row in connection.execute(query).mappings()]


class Workers:
    """Who is at work, by heartbeat."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(
        self,
        worker_id: str,
        lane: str,
        host: str,
        device: str,
        models_loaded: Collection[str] = (),
        places: tuple[int, int] = (1, 0),
    ) -> None:
        """Say that a worker is alive, what it runs on and holds in memory.

        Its places are how many jobs it runs at a time, and how many short ones besides.
        """
        values = {
            "lane": lane,
            "host": host,
            "device": device,
            "models_loaded": list(models_loaded),
            "seen": self._db.now,
            "places": places[0],
            "short_places": places[1],
        }
        with self._db.write() as connection:
            known = connection.execute(
                update(workers).where(workers.c.id == worker_id).values(values)
            ).rowcount
            if not known:
                connection.execute(insert(workers).values(id=worker_id, **values))

    def list(self) -> list[WorkerRow]:
        """Return the workers heard of within the last minute; `is_alive` says which still answer."""
        query = select(
            workers, (workers.c.seen > self._db.now - WORKER_ALIVE_SECONDS).label("is_alive")
        ).where(workers.c.seen > self._db.now - 60)
        with self._db.read() as connection:
            return [
                WorkerRow(
                    **{**row, "models_loaded": tuple(row["models_loaded"]), "is_alive": bool(row["is_alive"])}
                )
                for row in connection.execute(query).mappings()
            ]

    def forget(self, worker_id: str) -> None:
        """Take a worker off the list: it has ended."""
        with self._db.write() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker_id))
