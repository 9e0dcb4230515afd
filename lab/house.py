"""The house rules of a hosted demo: the starter model only, small budgets, and a clean table every hour."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput
from lab.core.spec import JobSpec
from lab.core.store import Store
from lab.core.store.rows import LIVE, TERMINAL
from lab.data.spec import PreviewSpec
from lab.merge.spec import MergeSpec
from lab.models.catalog import Catalog
from lab.score.spec import ScoreSpec
from lab.tune.spec import TuneSpec

KEEP_SECONDS = 3600
MOST_STEPS = 60
MOST_TOKENS = 256
MOST_LENGTH = 256
MOST_RANK = 16

HOUSE_OWNER = "lab"
"""Owner of the jobs that the lab gives itself, such as fetching the starter model."""


@dataclass(frozen=True)
class DemoHouse:
    """Asked before every job of a visitor.

    Args:
        store: to count what a visitor has running, and whose models they name.
    """

    store: Store

    def gate(self, spec: JobSpec, owner: str) -> None:
        """Refuse what a visitor may not do.

        Raises:
            BadInput: the budget is used up or the spec is over it; the message says by how much.
        """
        if owner == HOUSE_OWNER:
            return
        self._one_job_each(owner)
        self._own_models(spec, owner)
        self._budget(spec)

    def _one_job_each(self, owner: str) -> None:
        visitor, place = owner.split("-")[1:]
        live = [job for job in self.store.jobs.list(states=LIVE) if job.owner.startswith("visitor-")]
        mine = [job for job in live if visitor in job.owner.split("-") or job.owner.endswith(place)]
        if mine:
            raise BadInput(
                f"You already have a job: {mine[0].title}.",
                "In this demo everyone has one at a time.",
                "Wait until it ends, or cancel it on the Jobs page.",
            )

    def _own_models(self, spec: JobSpec, owner: str) -> None:
        rows = {row.name: row.owner for row in self.store.models.list()}
        for name in spec.models_used():
            if rows.get(name) not in (HOUSE_OWNER, owner):
                raise BadInput(
                    f"The model {name!r} is not one of yours.",
                    "In this demo you work with the starter model and what you made from it.",
                    "Choose one of the listed models.",
                    field="models",
                )

    def _budget(self, spec: JobSpec) -> None:
        if isinstance(spec, TuneSpec):
            _at_most("max_steps", spec.max_steps or MOST_STEPS + 1, MOST_STEPS, "steps")
            _at_most("max_length", spec.max_length or MOST_LENGTH + 1, MOST_LENGTH, "tokens a row")
            _at_most("rank", spec.rank, MOST_RANK, "as rank")
        elif isinstance(spec, CompareSpec):
            _at_most("max_new_tokens", spec.max_new_tokens, MOST_TOKENS, "tokens an answer")
        elif not isinstance(spec, MergeSpec | ScoreSpec | PreviewSpec):
            raise BadInput(
                "Imports are off in this demo.", "", "Run the lab on your own machine to add models."
            )


def _at_most(field: str, asked: int, most: int, what: str) -> None:
    if asked > most:
        raise BadInput(
            f"You asked for {asked} {what}.",
            f"In this demo it is {most} at most.",
            f"Lower {field}.",
            field=field,
        )


def clear_table(store: Store, catalog: Catalog, jobs_folder: Path) -> None:
    """Wipe what visitors made over an hour ago: models, datasets, jobs and what those said."""
    now = store.database.time()

    def is_over(owner: str, moment: float | None) -> bool:
        return owner.startswith("visitor-") and moment is not None and now - moment > KEEP_SECONDS

    for row in store.models.list():
        if is_over(row.owner, row.created):
            catalog.delete(row.name)
    for data in store.datasets.list():
        if is_over(data.owner, data.created):
            catalog.dataset(data.name).unlink(missing_ok=True)
            store.datasets.delete(data.name)
    for job in store.jobs.list(states=TERMINAL, limit=1000):
        if is_over(job.owner, job.finished):
            shutil.rmtree(jobs_folder / job.id, ignore_errors=True)
            store.jobs.forget(job.id)
