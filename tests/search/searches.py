"""Searches over the tiny models, and a judge that knows where the optimum is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fakes import CPU, FakeJob

from lab.merge.live import LiveModel
from lab.merge.siblings import LiveRecipe
from lab.merge.spec import MergeSpec, merge_of
from lab.search.spec import SearchSpec

PLANTED = {"weight of pirate": 0.3, "weight of sums": 0.7}
BETWEEN = [{"knob": "weight", "model": model, "low": 0.0, "high": 1.0} for model in ("pirate", "sums")]


def search_of(recipe: MergeSpec | None = None, **changes: Any) -> SearchSpec:
    start = recipe or merge_of("task_arithmetic", [("pirate", 0.5), ("sums", 0.5)], name="mix", base="base")
    fields = {"recipe": start, "vary": BETWEEN, "data": "texts", "trials": 60, "patience": 0}
    return SearchSpec.model_validate(fields | changes)


@dataclass
class Target:
    """A judge whose score is how far a merge lies from the planted one, as mean squares: lower is better."""

    live: LiveModel
    job: FakeJob
    wanted: Mapping[str, torch.Tensor]
    scored: int = 0
    on_score: Callable[[int], None] = lambda number: None

    @classmethod
    def planted(cls, job: FakeJob, recipe: MergeSpec) -> "Target":
        """Plant 0.3 of pirate and 0.7 of sums."""
        weights = [("pirate", 0.3), ("sums", 0.7)]
        planted = LiveRecipe.find(merge_of("task_arithmetic", weights, name="x", base="base"), job)
        live = LiveModel(LiveRecipe.find(recipe, job), CPU)
        with live.merged(planted):
            wanted = {name: weight.clone() for name, weight in live.loaded.model.named_parameters()}
        return cls(live, job, wanted)

    def score(self, recipe: MergeSpec, breathe: Callable[[], None]) -> float:
        self.scored += 1
        self.on_score(self.scored)
        with torch.no_grad(), self.live.merged(LiveRecipe.find(recipe, self.job), breathe=breathe):
            parameters = dict(self.live.loaded.model.named_parameters())
            return sum(float((parameters[name] - want).square().mean()) for name, want in self.wanted.items())
