"""What the Models page asks the lab: who sees which model, its family, its card, its recipe run again."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from lab.core.again import models_made
from lab.core.errors import LabError, NotFound
from lab.core.store.rows import LIVE, JobRow, ScoreRow
from lab.jobs import parse_spec
from lab.models.catalog import CatalogEntry
from lab.ui import lineage, modelcards
from lab.ui.modelview import HOUSE, licences
from lab.ui.services import Services, Who


class Household:
    """The models of a lab as one of its people may see them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._recipes: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {}

    def seen_by(self, who: Who) -> list[CatalogEntry]:
        """Return the models that somebody may see, newest first."""
        every = self.services.catalog.list()
        return [one for one in every if not who.is_visitor or one.row.owner in (who.name, HOUSE)]

    def making(self, who: Who) -> list[JobRow]:
        """Return the jobs that are making models now."""
        live = self.services.store.jobs.list(states=LIVE)
        return [job for job in live if job.owner in (who.name, HOUSE) and models_made(job.spec, parse_spec)]

    def family(
        self, name: str, entries: Sequence[CatalogEntry], scores: Sequence[ScoreRow]
    ) -> lineage.Family:
        """Return a model with its ancestors and descendants."""
        nodes = {
            one.row.name: lineage.model_node(
                one.row, modelcards.score_words([score for score in scores if score.model == one.row.name])
            )
            for one in entries
        }
        data = {node.name: node for node in map(lineage.data_node, self.services.store.datasets.list())}
        edges = [edge for one in entries for edge in self._edges(one)]
        return lineage.family(name, {**nodes, **data}, edges)

    def card(self, entry: CatalogEntry, entries: Sequence[CatalogEntry], who: Who) -> modelcards.Card:
        """Return what the card of a model shows."""
        job = self._job(entry.row.job_id)
        files = [
            (path.name, path.stat().st_size) for path in sorted(entry.folder.glob("*")) if path.is_file()
        ]
        is_at_home = who.is_local and not self.services.is_demo and not entry.fault
        return modelcards.Card(
            entry=entry,
            made_by=job,
            edges=self._edges(entry),
            names=frozenset(one.row.name for one in entries),
            licence=licences(entry.row, [one.row for one in entries]),
            files=files,
            folder=str(entry.folder) if is_at_home and entry.folder.is_dir() else "",
            again=self._next_name(entry.row.name, job, who),
            may_delete=self.may_delete(entry, who),
        )

    def run_again(self, name: str, who: Who) -> JobRow:
        """Queue the recipe of a model again, under the next free name.

        Raises:
            BadInput: the recipe can't work any more, or the house refuses it.
            NotFound: there is no such model, or its job is somebody else's or gone.
        """
        job_id = self.services.catalog.get(name).row.job_id
        if job_id is None:
            raise NotFound(f"No job made {name!r} here.", "A model made in this lab.", "Make it anew.")
        return self.services.desk.retry(job_id, who.name)

    @staticmethod
    def may_delete(entry: CatalogEntry, who: Who) -> bool:
        """Say whether somebody may delete a model: the local person any, a visitor their own."""
        return who.is_local or entry.row.owner == who.name

    def _next_name(self, name: str, job: JobRow | None, who: Who) -> str:
        """Return what a model would be called if it were run again; "" where that can't be done."""
        if job is None or job.owner != who.name:
            return ""
        try:
            made = parse_spec(job.spec).models_made()
            return self.services.desk.repeated(job).models_made()[made.index(name)]
        except (LabError, ValueError, IndexError):
            return ""

    def _edges(self, entry: CatalogEntry) -> list[lineage.Edge]:
        return lineage.edges_into(entry.row, *self._recipe(entry.row.job_id))

    def _recipe(self, job_id: str | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Return a job's spec and the datasets it read; asked once, since neither changes."""
        if job_id is None:
            return {}, ()
        if job_id not in self._recipes:
            job = self._job(job_id)
            self._recipes[job_id] = (job.spec, _datasets(job.spec)) if job else ({}, ())
        return self._recipes[job_id]

    def _job(self, job_id: str | None) -> JobRow | None:
        try:
            return self.services.store.jobs.get(job_id) if job_id else None
        except LabError:
            return None


def _datasets(spec: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return parse_spec(spec).datasets_used()
    except (ValidationError, LabError):
        return ()
