"""The house rules of a hosted demo: the starter model only, small budgets, and a clean table every hour.

The limits are stated once, in LIMITS: the gate refuses by them, and the forms start and end by them.
"""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotated_types import Le
from pydantic.fields import FieldInfo

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput
from lab.core.spec import JobSpec
from lab.core.store import Store
from lab.core.store.rows import LIVE, TERMINAL
from lab.data.spec import PreviewSpec
from lab.merge.expertspec import ExpertsSpec
from lab.merge.inspect.spec import InspectSpec
from lab.merge.spec import MergeSpec
from lab.models.catalog import Catalog
from lab.score.spec import ScoreSpec
from lab.search.spec import SearchSpec
from lab.tune.spec import TuneSpec

KEEP_SECONDS = 3600
MOST_ROWS = 500
MOST_SCORED_BYTES = 100_000
MOST_LAYERS = 60
MOST_MODELS = 6

HOUSE_OWNER = "lab"
"""Owner of the jobs that the lab gives itself, such as fetching the starter model."""


@dataclass(frozen=True)
class Limit:
    """How far a visitor may go in one field.

    Attributes:
        most: the greatest value.
        start: what the form starts with.
        unit: what is counted, after the number.
    """

    most: int
    start: int
    unit: str


LIMITS: Mapping[type[JobSpec], Mapping[str, Limit]] = {
    TuneSpec: {
        "max_steps": Limit(60, 20, "steps"),
        "batch": Limit(16, 8, "rows a step"),
        "max_length": Limit(256, 128, "tokens a row"),
        "held_out": Limit(32, 16, "rows held out"),
        "rank": Limit(16, 16, "of rank"),
    },
    CompareSpec: {"max_new_tokens": Limit(256, 128, "tokens an answer")},
}
"""Every field that a visitor may not fill in as they like."""

_ALSO: Mapping[type[JobSpec], tuple[str, ...]] = {
    TuneSpec: (f"{MOST_ROWS} rows of data", f"{MOST_MODELS} models of your own"),
    MergeSpec: (f"{MOST_LAYERS} layers", f"{MOST_MODELS} models of your own"),
    CompareSpec: (f"{MOST_SCORED_BYTES // 1000} kB to score on",),
}
"""What else is limited, for the sentence on the page."""


def fields_of(spec: type[JobSpec]) -> dict[str, FieldInfo]:
    """Return a spec's fields for a visitor's form: default, bound and help are the house's."""
    limits = LIMITS.get(spec, {})
    return {
        name: _narrowed(info, limits[name]) if name in limits else info
        for name, info in spec.model_fields.items()
    }


def sentence(spec: type[JobSpec] | None = None) -> str:
    """Say what this demo allows, for the page that makes this kind of spec."""
    told = "This is a demo: one job at a time, and what you make is wiped after an hour."
    if spec is None:
        return told
    parts = [f"{limit.most} {limit.unit}" for limit in LIMITS.get(spec, {}).values()]
    return f"{told} On this page at most: {', '.join([*parts, *_ALSO[spec]])}."


@dataclass(frozen=True)
class DemoHouse:
    """Asked before every job of a visitor.

    Args:
        store: to count what a visitor has running, and whose models they name.
    """

    store: Store

    def gate(self, spec: JobSpec, owner: str) -> None:
        """Refuse what a visitor may not do now.

        Raises:
            BadInput: the budget is used up or the spec is over it; the message says by how much.
        """
        if owner == HOUSE_OWNER:
            return
        self._one_job_each(owner)
        self._few_models(spec, owner)
        self.rules(spec, owner)

    def rules(self, spec: JobSpec, owner: str) -> None:
        """Refuse what a visitor may never do: imports, what is somebody else's, more than the limits.

        Raises:
            BadInput: names the field and says how far it may go.
        """
        if isinstance(spec, ExpertsSpec | SearchSpec):
            what = "Searches" if isinstance(spec, SearchSpec) else "Mixtures of experts"
            raise BadInput(f"{what} are off in this demo.", "", "Run the lab on your own machine.")
        if not isinstance(spec, TuneSpec | CompareSpec | MergeSpec | ScoreSpec | PreviewSpec | InspectSpec):
            raise BadInput(
                "Imports are off in this demo.", "", "Run the lab on your own machine to add models."
            )
        self._own_models(spec, owner)
        self._own_data(spec, owner)
        for field, limit in LIMITS.get(type(spec), {}).items():
            _at_most(field, getattr(spec, field), limit)
        if isinstance(spec, MergeSpec):
            _at_most("slices", sum(part.layers for part in spec.slices), Limit(MOST_LAYERS, 0, "layers"))

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

    def _few_models(self, spec: JobSpec, owner: str) -> None:
        made = [row.name for row in self.store.models.list() if row.owner == owner]
        if spec.models_made() and len(made) >= MOST_MODELS:
            raise BadInput(
                f"You already have {len(made)} models.",
                f"In this demo everyone has {MOST_MODELS} at most.",
                "Delete one on the Models page.",
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

    def _own_data(self, spec: JobSpec, owner: str) -> None:
        rows = {row.name: row for row in self.store.datasets.list()}
        for name in spec.datasets_used():
            row = rows.get(name)
            if row is None or row.owner not in (HOUSE_OWNER, owner):
                raise BadInput(
                    f"The data {name!r} is not yours.",
                    "In this demo you work with the samples and what you uploaded.",
                    "Choose one of the listed sets.",
                    field="dataset",
                )
            _at_most("dataset", int(row.facts.get("rows", 0)), Limit(MOST_ROWS, 0, "rows"))
            if isinstance(spec, ScoreSpec):
                _at_most("dataset", row.size_bytes, Limit(MOST_SCORED_BYTES, 0, "bytes to score on"))


def _narrowed(info: FieldInfo, limit: Limit) -> FieldInfo:
    """Return a field that is a number from the field's least to the limit, and never empty."""
    narrow = copy.copy(info)
    narrow.annotation = int
    narrow.default = limit.start
    narrow.metadata = [*(mark for mark in info.metadata if not isinstance(mark, Le)), Le(limit.most)]
    first = (info.description or "").split(". ")[0].rstrip(".")
    narrow.description = f"{first}. At most {limit.most} in this demo."
    return narrow


def _at_most(field: str, asked: Any, limit: Limit) -> None:
    if asked is None or asked > limit.most:
        raise BadInput(
            f"You left {field} empty." if asked is None else f"You asked for {asked:,} {limit.unit}.",
            f"In this demo it is {limit.most:,} at most.",
            f"Fill in {field}." if asked is None else f"Lower {field}.",
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
            catalog.delete_dataset(data.name)
    for job in store.jobs.list(states=TERMINAL, limit=1000):
        if is_over(job.owner, job.finished):
            shutil.rmtree(jobs_folder / job.id, ignore_errors=True)
            store.jobs.forget(job.id)
