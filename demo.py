"""The story without a browser: two fine-tunes, two merges, an up-scaled model, compared and scored.

It hands in the same jobs as the pages do, to the same lab: `make run` afterwards shows all of it.
Run again, it picks up what is there.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.compare.spec import CompareSpec
from lab.core.errors import LabError
from lab.core.settings import read_settings
from lab.core.spec import JobSpec
from lab.core.store import Store, open_store
from lab.core.store.rows import DatasetRow, JobRow, ScoreRow
from lab.data.importing import import_dataset
from lab.data.samples import sample_datasets
from lab.jobs import Desk
from lab.merge.spec import merge_of, upscaled
from lab.models.catalog import Catalog
from lab.models.spec import StarterSpec
from lab.score.spec import ScoreSpec
from lab.tune.spec import TuneSpec
from workers.queue import make_bells
from workers.start import start_workers

OWNER = "local"
STARTER = StarterSpec().name
QUESTION = "What is 12 + 7? And how do I make tea?"
COLUMN_WIDTH = 24


def main() -> int:
    """Play the story and print its table; return the exit code."""
    settings = read_settings()
    store = open_store(settings)
    workers = start_workers(settings)
    try:
        catalog = Catalog(store, settings)
        bring_samples(store, settings.datasets, catalog.keep_dataset)
        play(Desk(store, catalog, make_bells(settings)))
    except LabError as error:
        print(f"demo: stopped. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        workers.stop()
        store.close()
    return 0


def play(desk: Desk) -> None:
    """Hand in the jobs one after another and show what came out."""
    run(desk, StarterSpec())
    begun = time.monotonic()  # fetching the starter model is not part of the story
    tuned = [tune(name) for name in ("pirate", "sums")]
    for spec in (*tuned, *merges(), upscaled(STARTER, 30, 12, name="smollm2-36-layers")):
        run(desk, spec)
    answers = run(
        desk,
        CompareSpec(
            models=(STARTER, "pirate-lora", "sums-lora", "pirate-sums-ties"),
            prompt=QUESTION,
            temperature=0.0,
            max_new_tokens=48,
        ),
    )
    models = (STARTER, "pirate-lora", "sums-lora", "pirate-sums-ties", "pirate-sums-sce", "smollm2-36-layers")
    scored = run(desk, ScoreSpec(models=models))
    print_answers(answers.result)
    print_verdicts(scored.result)
    print_table(models, desk.store.scores.of(models), desk)
    print(f"demo: done in {time.monotonic() - begun:.0f} s")


def bring_samples(store: Store, datasets: Path, keep: Callable[[DatasetRow, Path], None]) -> None:
    """Import the datasets that ship with the lab, where they are not there yet."""
    known = {row.name for row in store.datasets.list()}
    for sample in sample_datasets():
        if sample.name not in known:
            import_dataset(sample.path, sample.name, OWNER, store, datasets, keep)


def tune(dataset: str) -> TuneSpec:
    """Return a short LoRA fine-tune of the starter model on one of the samples."""
    return TuneSpec(
        model=STARTER,
        dataset=dataset,
        name=f"{dataset}-lora",
        max_steps=40,
        batch=8,
        micro_batch=8,
        learning_rate=5e-4,
        evaluations=2,
    )


def merges() -> tuple[JobSpec, ...]:
    """Return the ties and the sce merge of the two fine-tunes."""
    both = [("pirate-lora", 1.0), ("sums-lora", 1.0)]
    return (
        merge_of("ties", both, name="pirate-sums-ties", base=STARTER, knobs={"density": 0.5}),
        merge_of("sce", both, name="pirate-sums-sce", base=STARTER, knobs={"select_topk": 0.5}),
    )


def run(desk: Desk, spec: JobSpec) -> JobRow:
    """Hand in a job, or find it done from an earlier time, and follow it to its end.

    Raises:
        LabError: it failed or was cancelled.
    """
    job = desk.submit_once(spec, OWNER)
    begun = time.monotonic()
    while not job.is_terminal:
        words = job.progress_words or job.state
        print(
            f"\r  {job.title[:60]:60} {100 * job.progress:3.0f} %  {words[:40]:40}", end="", file=sys.stderr
        )
        time.sleep(0.5)
        job = desk.store.jobs.get(job.id)
    print(f"\r  {job.title[:60]:60} {job.state} in {time.monotonic() - begun:.0f} s{'':40}", file=sys.stderr)
    if job.state != "succeeded":
        raise LabError(f"The job {job.title!r} {job.state}: {job.error_text or 'no reason given'}")
    return job


def print_answers(result: dict[str, Any]) -> None:
    """Print what each model said to the question."""
    width = shutil.get_terminal_size((120, 40)).columns - COLUMN_WIDTH - 3
    print(f"\n{QUESTION}")
    for row in result["columns"]:
        text = " ".join(row["text"].split())
        print(f"  {row['model']:{COLUMN_WIDTH}} {text[:width]}")


def print_verdicts(result: dict[str, Any]) -> None:
    """Print the sentences that say whether the differences are real, metric by metric."""
    told = ""
    for verdict in result["verdicts"]:
        if verdict["metric"] != told:
            told = verdict["metric"]
            print(f"\n{told.replace('_', ' ')}")
        print(f"  {verdict['sentence']}")


def print_table(models: Sequence[str], scores: Sequence[ScoreRow], desk: Desk) -> None:
    """Print the models with their scores and intervals."""
    metrics = sorted({score.metric for score in scores})
    print("\n" + f"{'model':{COLUMN_WIDTH}} {'made by':44}" + "".join(f"{metric:>26}" for metric in metrics))
    for name in models:
        cells = {
            score.metric: f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"
            for score in scores
            if score.model == name
        }
        made = desk.store.models.get(name).words
        print(
            f"{name:{COLUMN_WIDTH}} {made[:43]:44}"
            + "".join(f"{cells.get(metric, '-'):>26}" for metric in metrics)
        )


if __name__ == "__main__":
    sys.exit(main())
