"""The search job: candidate after candidate, merged in memory and scored; the best recipe is what is left.

Every trial is kept in the job's folder before the next begins, so a search whose process died goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

from lab.core.errors import JobFailed
from lab.core.job import Job, Outcome
from lab.merge import run as merging
from lab.merge.spec import MergeSpec
from lab.score.metric import metrics
from lab.search.judge import Judge
from lab.search.spec import SearchSpec, applied
from lab.search.study import Study
from lab.search.trials import Trial, TrialFile, best_of, is_out_of_patience

STORY = "search.json"
"""The file beside a merged winner that says what was tried and how it scored."""


class Scores(Protocol):
    """What scores recipes."""

    def score(self, recipe: MergeSpec, breathe: Callable[[], None]) -> float | None:
        """Return a recipe's score; None where it can't be merged."""
        ...


def run(spec: SearchSpec, job: Job) -> Outcome:
    """Search, and merge the best recipe where that is asked for.

    Raises:
        JobFailed: no candidate could be merged, or one of the models is damaged.
        ControlFlow: the job was cancelled, released or fenced; its trials stay.
    """
    job.progress(0.0, "Loading the models")
    search = Search(spec, job, Judge.open(spec, job))
    search.go()
    outcome = Outcome(summary=search.summary(), stopped_early=search.is_stopped)
    if spec.name is None:
        return outcome
    made = merging.run(search.best_recipe.model_copy(update={"name": spec.name}), job)
    story = {**search.summary(), "tried": [asdict(trial) for trial in search.trials]}
    (made.models[0].folder / STORY).write_text(json.dumps(story, indent=2) + "\n", "utf-8")
    return replace(outcome, models=made.models)


class Search:
    """The trials of one search while they grow.

    Args:
        spec: what is searched.
        job: where to tell it, and where trials are kept.
        judge: scores candidates.

    Attributes:
        trials: what was tried, in order.
        is_stopped: whether its owner ended it.
    """

    def __init__(self, spec: SearchSpec, job: Job, judge: Scores) -> None:
        self._spec, self._job, self._judge = spec, job, judge
        self._metric = metrics[spec.metric]
        self._better = {"higher_is_better": self._metric.higher_is_better}
        self._file = TrialFile(job.folder / "trials.jsonl")
        self._study = Study(spec, **self._better)
        self.trials: list[Trial] = []
        self.is_stopped = False
        self._begun, self._own = time.monotonic(), 0

    def go(self) -> None:
        """Try candidates until there are enough, none gets better any more, or the owner stops."""
        self._take_up()
        while not self._is_over():
            self._job.breathe()
            try:
                self._try_next()
            except _Stopped:
                self.is_stopped = True
                return
        self.is_stopped = self._job.stop_asked() and len(self.trials) < self._spec.trials

    @property
    def best(self) -> Trial:
        """The best trial so far.

        Raises:
            JobFailed: there is none.
        """
        found = best_of(self.trials, **self._better)
        if found is None:
            raise JobFailed(
                "no_score",
                f"None of {len(self.trials)} candidates could be scored. Narrow the ranges to numbers that "
                "the method takes, or stop later.",
            )
        return found

    @property
    def best_recipe(self) -> MergeSpec:
        """The recipe with the best trial's numbers."""
        return applied(self._spec.recipe, self._spec.vary, self.best.values)

    def summary(self) -> dict[str, Any]:
        """Return the outcome for the pages: figures, the numbers, and the recipe as it can be run."""
        best = self.best
        return {
            "metric": self._spec.metric,
            "trials": len(self.trials),
            "best_trial": best.number,
            "score": best.score,
            "start_score": self.trials[0].score,
            "values": dict(best.values),
            "recipe": self.best_recipe.model_dump(mode="json"),
        }

    def _take_up(self) -> None:
        """Go on after the trials that an earlier attempt kept."""
        kept = self._file.read()
        self.trials = self._study.repeat(kept)
        if len(self.trials) < len(kept):
            self._study = Study(self._spec, **self._better)
            self._study.repeat(self.trials)
        self._file.write(self.trials)
        for place in range(len(self.trials)):
            self._tell(self.trials[: place + 1])
        if self.trials:
            self._job.note(f"Goes on after {len(self.trials)} trials.")

    def _is_over(self) -> bool:
        return (
            len(self.trials) >= self._spec.trials
            or is_out_of_patience(self.trials, self._spec.patience, **self._better)
            or (bool(self.trials) and self._job.stop_asked())
        )

    def _try_next(self) -> None:
        values = self._study.ask()
        recipe = applied(self._spec.recipe, self._spec.vary, values)
        score = self._judge.score(recipe, self._breathe)
        trial = Trial(len(self.trials) + 1, values, score)
        self._file.add(trial)
        self._study.tell(score)
        self.trials.append(trial)
        self._own += 1
        self._tell(self.trials)
        self._progress()

    def _breathe(self) -> None:
        self._job.breathe()
        if self.trials and self._job.stop_asked():
            raise _Stopped

    def _tell(self, trials: list[Trial]) -> None:
        best = best_of(trials, **self._better)
        values = {"score": trials[-1].score, "best": best.score if best else None}
        self._job.emit("metric", step=trials[-1].number, values=values)

    def _progress(self) -> None:
        count, most = len(self.trials), self._spec.trials
        best = best_of(self.trials, **self._better)
        words = f"Trial {count} of {most}"
        if best is not None:
            words += f", best {best.score:.4f} in trial {best.number}"
        left = (time.monotonic() - self._begun) / self._own * (most - count)
        self._job.progress(count / most, words, left)


class _Stopped(Exception):
    """Ends a trial whose owner wants no more."""
