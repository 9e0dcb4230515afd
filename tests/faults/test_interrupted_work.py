"""Real merges and fine-tunes on tiny models, killed midway, go on where they were to the same result."""

import hashlib
from pathlib import Path

import psutil
import pytest
from worked_lab import Lab

from lab.merge.spec import MergeSpec
from lab.tune.spec import TuneSpec

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.timeout(240)]


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every weight file of a model."""
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


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


def test_a_fine_tune_killed_midway_goes_on_at_its_last_checkpoint(stocked: Lab) -> None:
    consumer = stocked.start_real()
    job = stocked.submit_spec("tune", tune_spec("killed"))

    def steps_told() -> list[int]:
        events = stocked.store.events.after(job, 0)
        return [event.payload["step"] for event in events if event.kind == "metric"]

    stocked.wait("step 20", lambda: bool(steps_told()) and steps_told()[-1] >= 20, seconds=120)
    writes_log = [  # the next job's process waits beside it, and may not be killed too
        process
        for process in consumer.children(recursive=True)
        if any(file.path.endswith("attempt-1.log") for file in process.open_files())
    ]
    assert len(writes_log) == 1
    writes_log[0].kill()
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
