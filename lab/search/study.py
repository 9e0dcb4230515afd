"""Proposes candidates and learns from their scores, through Optuna. Only for processes that run jobs.

Everything follows from the seed and the scores told so far, so a search that was interrupted is repeated
from its trials, without scoring one again, and goes on as if nothing had happened.
"""

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lab.search.spec import Sampler, SearchSpec, is_whole, start_of
from lab.search.trials import Trial

TPE_STARTUP = 8
"""Random candidates before the Parzen estimator has something to estimate from."""


class Study:
    """One search's proposals: `ask`, then `tell`, and so on.

    Args:
        spec: what moves, and where it starts.
        higher_is_better: the score's direction.
    """

    def __init__(self, spec: SearchSpec, *, higher_is_better: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space: dict[str, BaseDistribution] = {
            name: IntDistribution(round(one.low), round(one.high))
            if is_whole(one, spec.recipe)
            else FloatDistribution(one.low, one.high)
            for one in spec.vary
            for name in one.variables
        }
        self._study = optuna.create_study(
            direction="maximize" if higher_is_better else "minimize",
            sampler=_sampler(spec.sampler, len(self._space), spec.seed),
        )
        self._study.enqueue_trial(start_of(spec.recipe, spec.vary))

    def ask(self) -> dict[str, float]:
        """Return the next candidate's numbers."""
        self._trial = self._study.ask(self._space)
        return dict(self._trial.params)

    def tell(self, score: float | None) -> None:
        """Learn what the candidate scored; None where it could not be scored."""
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        self._study.tell(self._trial, score, state=state)

    def repeat(self, trials: Sequence[Trial]) -> list[Trial]:
        """Take in trials of an earlier attempt; return those that this study would have tried too.

        They are all of them, unless another release of the library proposes otherwise.
        """
        for place, trial in enumerate(trials):
            if not _same(self.ask(), trial.values):
                self.tell(None)
                return list(trials[:place])
            self.tell(trial.score)
        return list(trials)


def _sampler(name: Sampler, variables: int, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # multivariate sampling is marked as new since Optuna 2.2
        # CMA-ES has no correlation to learn from one number alone.
        if name == "cmaes" and variables > 1:
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=1, warn_independent_sampling=False
            )
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=TPE_STARTUP, multivariate=True)


def _same(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    return first.keys() == second.keys() and all(first[name] == second[name] for name in first)
