"""What became of every job after the kills: nothing lost, nothing published twice, nothing stuck."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.core.errors import BadInput, NotFound
from lab.core.events import Event
from lab.core.store import Store
from lab.core.store.rows import JobRow
from lab.models.publish import read_manifest


@dataclass
class Verdict:
    """Counts, and in words what is wrong.

    Attributes:
        jobs: how many were submitted.
        ends: how many ended in which way.
        lost: jobs that have no row, or have not ended.
        twice: jobs that published a model more than once, or none of what they should.
        stuck: jobs that a worker seems to hold although none does, or whose names stay promised.
        faulty: gaps in events, failures that no kill explains, text that differs, folders of nobody.
    """

    jobs: int
    ends: "Counter[str]" = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    faulty: list[str] = field(default_factory=list)
    attempts: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.twice or self.stuck or self.faulty)

    @property
    def last_line(self) -> str:
        return (
            f"chaos: {self.jobs} jobs, {len(self.lost)} lost, {len(self.twice)} published twice, "
            f"{len(self.stuck)} stuck"
        )


def judge(store: Store, folder: Path, job_ids: Sequence[str]) -> Verdict:
    """Look at every submitted job, and at the folder of models."""
    verdict = Verdict(len(job_ids))
    now = store.database.time()
    listed: dict[str, list[str]] = {}
    for model in store.models.list():
        listed.setdefault(model.job_id or "", []).append(model.name)
    for job_id in job_ids:
        try:
            job = store.jobs.get(job_id)
        except NotFound:
            verdict.lost.append(f"{job_id} has no row")
            continue
        _judge_job(verdict, job, read_all(store, job_id), listed.get(job_id, []), now)
    _judge_folders(verdict, store, folder)
    return verdict


def read_all(store: Store, job_id: str) -> list[Event]:
    """Return all that a job told."""
    told: list[Event] = []
    while page := store.events.after(job_id, told[-1].seq if told else 0):
        told += page
    return told


def _judge_job(verdict: Verdict, job: JobRow, told: list[Event], listed: list[str], now: float) -> None:
    words = f"{job.kind} {job.id} ({job.state}, attempt {job.attempt})"
    verdict.attempts += job.attempt
    if [event.seq for event in told] != list(range(1, job.last_seq + 1)):
        verdict.faulty.append(f"{words}: a gap in its {len(told)} events")
    if not job.is_terminal:
        verdict.lost.append(f"{words}, waited {now - job.created:.0f} s")
        if job.state != "queued" and (job.lease_until or 0) < now:
            verdict.stuck.append(f"{words}: held by nobody")
        return
    cut_off = job.kind == "compare" and job.error_code == "interrupted"
    verdict.ends[f"{job.kind} {'cut off' if cut_off else job.state}"] += 1
    if job.state != "succeeded" and not cut_off:
        verdict.faulty.append(f"{words}: {job.error_code} {job.error_text}")
    _judge_models(verdict, job, told, listed, words)
    if job.kind == "compare" and job.state == "succeeded":
        _judge_text(verdict, job, told, words)


def _judge_models(verdict: Verdict, job: JobRow, told: list[Event], listed: list[str], words: str) -> None:
    promised = [job.spec["name"]] if job.spec.get("name") and job.kind in ("merge", "tune") else []
    due = promised if job.state == "succeeded" else []
    announced = [event.payload["model"] for event in told if event.kind == "artifact"]
    ends = sum(event.kind == "state" and event.payload["state"] == "succeeded" for event in told)
    if not announced == listed == due or ends != (job.state == "succeeded"):
        verdict.twice.append(f"{words}: due {due}, announced {announced}, listed {listed}, {ends} successes")


def _judge_text(verdict: Verdict, job: JobRow, told: list[Event], words: str) -> None:
    for place, column in enumerate(job.result["columns"]):
        joined = "".join(
            event.payload["text"]
            for event in told
            if event.kind == "delta" and event.payload["column"] == place
        )
        if joined != column["text"]:
            verdict.faulty.append(f"{words}: column {place + 1} was told and stored differently")


def _judge_folders(verdict: Verdict, store: Store, folder: Path) -> None:
    rows = {model.name: model for model in store.models.list()}
    there = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    verdict.faulty += [f"the folder {name} is nobody's" for name in sorted(there - set(rows))]
    for name, row in rows.items():
        try:
            is_whole = read_manifest(folder / name).sha256 == row.manifest_sha256
        except (BadInput, OSError):
            is_whole = False
        if not is_whole:
            verdict.faulty.append(f"the model {name} is not what was listed")
