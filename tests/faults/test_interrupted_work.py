"""Real merges, searches and fine-tunes on tiny models go on where they were killed, to the same result."""

import hashlib
from pathlib import Path

import psutil
import pytest
from worked_lab import Lab

from lab.merge.spec import MergeSpec, merge_of
from lab.score.tasks import SHIPPED_TEXT
from lab.search.spec import Range, SearchSpec
from lab.tune.spec import TuneSpec

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(240)]


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every weight file of a model."""
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def steps_told(lab: Lab, job: str) -> list[int]:
    """Return the steps of a job's metric events, in order."""
    return [event.payload["step"] for event in lab.store.events.after(job, 0) if event.kind == "metric"]


def kill_first_attempt(consumer: psutil.Process) -> None:
    """Kill the process that works; the next job's process waits beside it, and may not be killed too."""
    writes_log = [
        process
        for process in consumer.children(recursive=True)
        if any(file.path.endswith("attempt-1.log") for file in process.open_files())
    ]
    assert len(writes_log) == 1
    writes_log[0].kill()


def merge_spec(name: str) -> MergeSpec:
    return MergeSpec.model_validate(
        {
            "name": name,
            "method": "ties",
            "base_model": "base",
            "models": [
                {"model": model, "parameters": {"density": 0.5, "weight": 1.0}}
                for model in ("pirate", "sums")
            ],
        }
    )


def tune_spec(name: str) -> TuneSpec:
    return TuneSpec(
        model="base",
        dataset="squares",
        name=name,
        max_steps=60,
        batch=4,
        rank=4,
        checkpoint_steps=5,
        held_out=4,
    )


def test_a_merge_killed_midway_goes_on_at_the_next_unwritten_shard(stocked: Lab) -> None:
    stocked.start_real(failpoint="breathe:25:kill")
    job = stocked.submit_spec("merge", merge_spec("killed"))
    stocked.wait("the first attempt's end", lambda: stocked.row(job).attempt == 2, seconds=90)
    shards = stocked.settings.jobs / job / "work" / "merge" / "model"
    written = {file.name: file.stat().st_ino for file in shards.glob("*.safetensors")}
    row = stocked.wait_for_end(job, seconds=60)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1), row.error_text
    model = stocked.settings.models / "killed"
    assert written
    assert len(written) <= len(hashes(model))
    assert {name: (model / name).stat().st_ino for name in written} == written  # not written again

    twin = stocked.wait_for_end(stocked.submit_spec("merge", merge_spec("whole")), seconds=60)
    assert (twin.state, twin.attempt) == ("succeeded", 1)
    assert hashes(model) == hashes(stocked.settings.models / "whole")
    stocked.check_events(job)


def search_spec(name: str) -> SearchSpec:
    return SearchSpec(
        recipe=merge_of("linear", [("pirate", 0.5), ("sums", 0.5)], name="mix"),
        vary=tuple(Range(knob="weight", model=model, low=0.1, high=1) for model in ("pirate", "sums")),
        data=SHIPPED_TEXT,
        allow_reference=True,
        trials=30,
        patience=0,
        name=name,
    )


def test_a_search_killed_midway_goes_on_after_its_last_trial_and_counts_none_twice(stocked: Lab) -> None:
    consumer = stocked.start_real()
    job = stocked.submit_spec("search", search_spec("killed"))
    stocked.wait("trial 3", lambda: max(steps_told(stocked, job), default=0) >= 3, seconds=120)
    kill_first_attempt(consumer)
    row = stocked.wait_for_end(job, seconds=120)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1), row.error_text
    notes = [event.payload["text"] for event in stocked.store.events.after(job, 0) if event.kind == "note"]
    went_on = next(int(note.split()[3]) for note in notes if note.startswith("Goes on after"))
    assert 3 <= went_on < 30
    assert set(steps_told(stocked, job)) == set(range(1, 31))
    assert row.result["trials"] == 30

    twin = stocked.wait_for_end(stocked.submit_spec("search", search_spec("whole")), seconds=120)
    assert (twin.state, twin.attempt) == ("succeeded", 1), twin.error_text
    assert row.result == twin.result
    assert hashes(stocked.settings.models / "killed") == hashes(stocked.settings.models / "whole")
    stocked.check_events(job)


def test_a_fine_tune_killed_midway_goes_on_at_its_last_checkpoint(stocked: Lab) -> None:
    consumer = stocked.start_real()
    job = stocked.submit_spec("tune", tune_spec("killed"))
    stocked.wait("step 20", lambda: max(steps_told(stocked, job), default=0) >= 20, seconds=120)
    kill_first_attempt(consumer)
    row = stocked.wait_for_end(job, seconds=90)
    assert (row.state, row.attempt, row.crash_count) == ("succeeded", 2, 1), row.error_text
    notes = [event.payload["text"] for event in stocked.store.events.after(job, 0) if event.kind == "note"]
    assert any("checkpoint of step" in note for note in notes)

    twin = stocked.wait_for_end(stocked.submit_spec("tune", tune_spec("whole")), seconds=90)
    assert (twin.state, twin.attempt) == ("succeeded", 1), twin.error_text
    assert hashes(stocked.settings.models / "killed") == hashes(stocked.settings.models / "whole")
    assert row.result["eval_loss"] == twin.result["eval_loss"]
    stocked.check_events(job)


def test_a_fine_tune_of_a_stopped_worker_keeps_a_checkpoint(stocked: Lab) -> None:
    consumer = stocked.start_real()
    job = stocked.submit_spec("tune", tune_spec("paused").model_copy(update={"checkpoint_steps": 1000}))
    stocked.wait(
        "some steps",
        lambda: sum(event.kind == "metric" for event in stocked.store.events.after(job, 0)) > 3,
        seconds=120,
    )
    consumer.terminate()
    psutil.wait_procs([consumer], timeout=30)
    row = stocked.row(job)
    assert (row.state, row.crash_count) == ("queued", 0)
    assert list((stocked.settings.jobs / job / "work" / "checkpoints").glob("checkpoint-*/complete.json"))
