"""A search finds what was planted, repeats exactly, and goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeJob
from searches import PLANTED, Target, search_of

from lab.core.errors import Cancelled, JobFailed
from lab.merge.spec import MergeSpec, merge_of
from lab.search.run import Search, run
from lab.search.spec import SearchSpec, start_of
from lab.search.trials import Trial, TrialFile, best_of, is_out_of_patience

MakeJob = Callable[..., FakeJob]


@pytest.fixture
def make_search(make_job: MakeJob) -> Callable[..., tuple[Search, Target, FakeJob]]:
    def make(spec: SearchSpec, **job: Any) -> tuple[Search, Target, FakeJob]:
        made = make_job(**job)
        target = Target.planted(made, spec.recipe)
        return Search(spec, made, target), target, made

    return make


MakeSearch = Callable[..., tuple[Search, Target, FakeJob]]


class TestFinding:
    @pytest.mark.parametrize("sampler", ["cmaes", "tpe"])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_it_finds_planted_weights(self, make_search: MakeSearch, sampler: str, seed: int) -> None:
        search, _, _ = make_search(search_of(sampler=sampler, seed=seed))
        search.go()
        assert dict(search.best.values) == pytest.approx(PLANTED, abs=0.08)
        best = search.best_recipe
        assert [source.parameters["weight"] for source in best.models] == list(search.best.values.values())

    def test_the_first_trial_is_the_recipe_itself_and_the_best_is_never_worse(
        self, make_search: MakeSearch
    ) -> None:
        search, _, job = make_search(search_of(trials=5))
        search.go()
        assert list(search.trials[0].values.values()) == [0.5, 0.5]
        told = job.of("metric")
        assert [one["step"] for one in told] == [1, 2, 3, 4, 5]
        best = [one["values"]["best"] for one in told]
        assert best == sorted(best, reverse=True)
        summary = search.summary()
        assert summary["score"] == best[-1] <= summary["start_score"]
        assert MergeSpec.model_validate(summary["recipe"]) == search.best_recipe

    def test_one_number_for_all_models_and_gradients_over_the_layers_move_too(
        self, make_search: MakeSearch
    ) -> None:
        recipe = merge_of("ties", [("pirate", 0.5), ("sums", 0.5)], name="mix", base="base")
        vary = [
            {"knob": "density", "low": 0.2, "high": 1},
            {"knob": "weight", "model": "sums", "low": 0, "high": 1, "points": 2},
        ]
        search, _, _ = make_search(search_of(recipe, vary=vary, trials=12))
        search.go()
        best = search.best_recipe
        assert 0.2 <= best.parameters["density"] <= 1  # type: ignore[operator]
        assert len(best.models[1].parameters["weight"]) == 2  # type: ignore[arg-type]


class TestGoingOn:
    def test_a_search_that_was_killed_ends_as_one_that_was_not_and_scores_no_trial_twice(
        self, make_search: MakeSearch
    ) -> None:
        spec = search_of(trials=14)
        whole, _, job = make_search(spec)
        whole.go()
        Path(job.folder / "trials.jsonl").unlink()
        first, target, _ = make_search(spec)

        def die(number: int) -> None:
            if number == 6:
                raise KeyboardInterrupt

        target.on_score = die
        with pytest.raises(KeyboardInterrupt):
            first.go()
        with (job.folder / "trials.jsonl").open("a") as file:
            file.write('{"number": 6, "values": {"wei')  # the line that the kill cut off
        second, target, job = make_search(spec)
        second.go()
        assert target.scored == 14 - 5
        assert second.trials == whole.trials
        assert [one["step"] for one in job.of("metric")] == list(range(1, 15))
        assert len((job.folder / "trials.jsonl").read_text().splitlines()) == 14

    def test_trials_that_this_search_would_not_have_tried_are_dropped(self, make_search: MakeSearch) -> None:
        search, _, job = make_search(search_of(trials=4))
        strange = Trial(2, {"weight of pirate": 0.123, "weight of sums": 0.5}, 0.0)
        start = Trial(1, start_of(search_of().recipe, search_of().vary), 9.0)
        TrialFile(job.folder / "trials.jsonl").write([start, strange])
        search.go()
        assert search.trials[0] == start
        assert search.best.values != strange.values
        assert len(search.trials) == 4

    def test_a_cancel_passes(self, make_search: MakeSearch) -> None:
        search, _, _ = make_search(search_of(), cancel_at=4)
        with pytest.raises(Cancelled):
            search.go()

    def test_stopping_keeps_the_best_so_far(self, make_search: MakeSearch) -> None:
        search, _, _ = make_search(search_of(), stop_at=8)
        search.go()
        assert search.is_stopped
        assert 1 <= len(search.trials) < 60
        assert search.summary()["score"] == min(trial.score for trial in search.trials if trial.score)

    def test_it_ends_early_when_nothing_gets_better(self, make_search: MakeSearch) -> None:
        search, target, _ = make_search(search_of(patience=3))
        target.score = lambda recipe, breathe: 1.0  # type: ignore[method-assign]
        search.go()
        assert (len(search.trials), search.is_stopped) == (4, False)


class TestTrials:
    def test_the_best_is_the_first_of_equal_ones_in_either_direction(self) -> None:
        trials = [Trial(1, {}, 2.0), Trial(2, {}, None), Trial(3, {}, 1.0), Trial(4, {}, 1.0)]
        assert best_of(trials, higher_is_better=False) == trials[2]
        assert best_of(trials, higher_is_better=True) == trials[0]
        assert best_of(trials[1:2], higher_is_better=True) is None

    def test_patience_counts_the_trials_since_the_best(self) -> None:
        trials = [Trial(1, {}, 1.0), Trial(2, {}, 2.0), Trial(3, {}, None)]
        assert is_out_of_patience(trials, 2, higher_is_better=False)
        assert not is_out_of_patience(trials, 3, higher_is_better=False)
        assert not is_out_of_patience(trials, 0, higher_is_better=False)


class TestWholeJobs:
    """With a real score: text on which one model is better than the other."""

    def texts(self, folder: Path) -> Path:
        file = folder / "texts.jsonl"
        lines = ("The sea is wide and the ship is small.", "Rain falls on the roof at night.")
        file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        return file

    def test_the_best_is_as_good_as_the_best_of_a_grid_and_is_merged_when_named(
        self, make_job: MakeJob, tmp_path: Path
    ) -> None:
        recipe = merge_of("linear", [("base", 1.0), ("sums", 0.5)], name="mix", knobs={"normalize": False})
        vary = [{"knob": "weight", "model": "sums", "low": 0.0, "high": 1.0}]
        spec = search_of(recipe, vary=vary, trials=20, sampler="tpe", name="found")
        places = {"texts": self.texts(tmp_path)}
        job = make_job(places=places)
        outcome = run(spec, job)
        grid = [
            run(
                search_of(
                    merge_of("linear", [("base", 1.0), ("sums", at)], name="mix", knobs={"normalize": False}),
                    vary=vary,
                    trials=1,
                ),
                make_job(places=places, folder=_fresh(tmp_path, at)),
            ).summary["score"]
            for at in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert outcome.summary["score"] <= min(grid) * 1.01
        [made] = outcome.models
        assert made.name == "found"
        assert (made.folder / "model.safetensors").exists()

    def test_weights_that_cancel_out_are_a_trial_without_a_score(
        self, make_job: MakeJob, tmp_path: Path
    ) -> None:
        recipe = merge_of("linear", [("pirate", 1.0), ("sums", 0.5)], name="mix")
        vary = [{"knob": "weight", "model": "sums", "low": -1.0, "high": -1.0 + 1e-9}]
        with pytest.raises(JobFailed, match="None of 2 candidates"):
            run(search_of(recipe, vary=vary, trials=2), make_job(places={"texts": self.texts(tmp_path)}))


def _fresh(root: Path, at: float) -> Path:
    folder = root / f"grid-{at}"
    folder.mkdir()
    return folder
