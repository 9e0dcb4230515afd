"""The job desk: what kinds of job there are, and how one is submitted, ended and followed.

Knows the queue only as a bell to ring. Runs nothing.
"""

import importlib
import math
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast, get_args

from pydantic import Field, TypeAdapter

from lab.compare.spec import CompareSpec
from lab.core.again import models_made, repeated
from lab.core.errors import BadInput, NotFound
from lab.core.events import Event
from lab.core.job import Check, Run, Shelf
from lab.core.line import FIRST, HIGH, LOW, SHORT_SECONDS, Standing, seconds_of
from lab.core.need import need_of
from lab.core.spec import JobSpec, Lane, spec_sha256
from lab.core.store.rows import LIVE, JobRow
from lab.data.spec import PreviewSpec
from lab.merge.expertspec import ExpertsSpec
from lab.merge.inspect.spec import InspectSpec
from lab.merge.spec import MergeSpec
from lab.models.spec import ImportSpec, StarterSpec
from lab.score.spec import ScoreSpec
from lab.search.spec import SearchSpec
from lab.tune.spec import TuneSpec

if TYPE_CHECKING:
    from lab.core.store import Store
    from lab.core.store.limits import Limits

AnySpec = Annotated[
    MergeSpec
    | ExpertsSpec
    | TuneSpec
    | CompareSpec
    | ScoreSpec
    | SearchSpec
    | PreviewSpec
    | ImportSpec
    | StarterSpec
    | InspectSpec,
    Field(discriminator="kind"),
]
"""Every spec there is: the first of the two tables that a new kind of job adds a line to."""


@dataclass(frozen=True)
class Kind:
    """How one kind of job is run.

    Attributes:
        lane: which workers take it.
        run: "module:function" of its `Run`; imported only where jobs run.
        check: "module:function" of its `Check`, called before the job is queued.
        resumable: whether it goes on where it was when its process died.
        stoppable: whether it keeps what it has when it is asked to stop.
        is_short: whether it is taken for a short job while nobody knows how long it will take.
    """

    lane: Lane
    run: str
    check: str
    resumable: bool = True
    stoppable: bool = False
    is_short: bool = False

    def load_run(self) -> Run:
        """Import the function that runs the job."""
        return cast(Run, _load(self.run))

    def load_check(self) -> Check:
        """Import the function that checks a spec before it is queued."""
        return cast(Check, _load(self.check))


KINDS: Mapping[str, Kind] = {
    "merge": Kind("batch", "lab.merge.run:run", "lab.merge.check:check"),
    "moe": Kind("batch", "lab.merge.expertrun:run", "lab.merge.expertcheck:check"),
    "tune": Kind("batch", "lab.tune.run:run", "lab.tune.check:check", stoppable=True),
    "score": Kind("batch", "lab.score.run:run", "lab.score.check:check", stoppable=True, is_short=True),
    "inspect": Kind("batch", "lab.merge.inspect.run:run", "lab.merge.inspect.check:check", is_short=True),
    "search": Kind("batch", "lab.search.run:run", "lab.search.check:check", stoppable=True),
    "import": Kind("batch", "lab.models.importing:run", "lab.models.importing:check", is_short=True),
    "starter": Kind("batch", "lab.models.starter:run", "lab.models.starter:check", is_short=True),
    "compare": Kind(
        "chat", "lab.compare.run:run", "lab.compare.check:check", resumable=False, stoppable=True
    ),
    "preview": Kind("chat", "lab.data.preview:run", "lab.data.preview_check:check", resumable=False),
}
"""How every kind is run: the second of the two tables."""

_SPECS: TypeAdapter[Any] = TypeAdapter(AnySpec)


LANES: tuple[Lane, ...] = get_args(Lane)

FRESH_SECONDS = 1.0
MOST_RUNG = 32
"""So many bells wake every worker there is; one that is awake goes on until nothing waits."""


class Bell(Protocol):
    """Wakes the workers of one lane."""

    def ring(self, job_id: str) -> object:
        """Say that a job waits. A lost ring loses no job."""
        ...


Gate = Callable[[JobSpec, str], None]
"""A rule of the house, asked before a job is queued: gate(spec, owner) raises BadInput to refuse."""


def open_house(spec: JobSpec, owner: str) -> None:
    """Refuse nothing: the rule of a lab that runs for its own user."""


def parse_spec(value: Mapping[str, Any]) -> JobSpec:
    """Read a stored or submitted spec.

    Raises:
        ValidationError: it is no spec of a known kind.
    """
    return cast(JobSpec, _SPECS.validate_python(value))


def _no_limits() -> "Limits":
    from lab.core.store.limits import NO_LIMITS

    return NO_LIMITS


@dataclass(frozen=True)
class Desk:
    """Where jobs are handed in and asked after.

    Args:
        store: the lab's memory.
        shelf: where names become places, for the checks.
        bells: one for each lane.
        gate: the house's rules; a hosted demo has narrow ones.
        kinds: how every kind is run; tests add their own.
        rules: those of the house that are asked while a form is filled in, before anything is submitted.
        limits: how much one person, and all together, may have in the queue; none when not given.
        most_running: of one person's jobs in a lane at a time; 0 sets no limit. The others wait.
    """

    store: "Store"
    shelf: Shelf
    bells: Mapping[Lane, Bell]
    gate: Gate = open_house
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    rules: Gate = open_house
    limits: "Limits" = field(default_factory=_no_limits)
    most_running: int = 0
    _told: dict[str, tuple[float, dict[str, Standing]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def check(self, spec: JobSpec, owner: str | None = None) -> object:
        """Check a spec as `submit` would, without queueing it.

        Args:
            spec: what to do, complete.
            owner: who fills it in, for the rules of the house; None asks for none.

        Returns:
            What the kind's check found out: an estimate, where it makes one.

        Raises:
            BadInput: it can't work; field, what was seen, what was expected, what to do.
        """
        if owner is not None:
            self.rules(spec, owner)
        return self.kinds[spec.kind].load_check()(spec, self.shelf)

    def submit(
        self, spec: JobSpec, owner: str, key: str | None = None, parent_id: str | None = None
    ) -> JobRow:
        """Check a spec, write its row, then ring the bell.

        Args:
            spec: what to do, complete.
            owner: who asks for it.
            key: names this wish: the same owner, key and spec are the same job; None makes a new one.
            parent_id: the job that this one repeats.

        Raises:
            BadInput: the spec can't work, the house refuses it, or the disk is too full for any job.
            Conflict: the key was used for another spec, or a model's name is taken.
        """
        from lab.core.store import NewJob

        self.gate(spec, owner)
        self._refuse_when_low()
        found = self.check(spec)
        expected = seconds_of(found)
        kind = self.kinds[spec.kind]
        new = NewJob(
            owner=owner,
            key=key or uuid.uuid4().hex,
            kind=spec.kind,
            lane=kind.lane,
            title=spec.title,
            spec=spec.model_dump(mode="json"),
            spec_sha256=spec_sha256(spec),
            resumable=kind.resumable,
            promises=spec.models_made(),
            parent_id=parent_id,
            expected_seconds=expected,
            is_short=kind.lane == "batch" and self._is_short(spec.kind, expected),
            need=need_of(found),
        )
        job, is_new = self.store.jobs.insert(new, self.limits)
        if is_new:
            self.bells[kind.lane].ring(job.id)
        return job

    def _refuse_when_low(self) -> None:
        if not self.shelf.free_disk_bytes():
            raise BadInput(
                "The lab's disk is nearly full.",
                "What is left is kept for the lab's own records.",
                "Delete models or datasets that nobody needs, then submit again.",
            )

    def submit_once(self, spec: JobSpec, owner: str) -> JobRow:
        """Find the job that this owner handed in with the same spec, or hand it in.

        One that failed, was cancelled, or whose models were deleted since, is run again.

        Raises:
            BadInput, Conflict: as `submit`.
        """
        sha256 = spec_sha256(spec)
        listed = {row.name for row in self.store.models.list()}
        for job in self.store.jobs.list(owner=owner, kinds=[spec.kind], limit=1000):
            is_good = not job.is_terminal or (
                job.state == "succeeded" and listed.issuperset(spec.models_made())
            )
            if job.spec_sha256 == sha256 and is_good:
                return job
        return self.submit(spec, owner)

    def cancel(self, job_id: str, owner: str) -> JobRow:
        """Ask for a job to end; nothing of it is kept.

        Raises:
            NotFound: there is no such job of this owner.
        """
        return self.store.jobs.request_cancel(self.own(job_id, owner).id)

    def stop(self, job_id: str, owner: str) -> JobRow:
        """Ask a running job to keep what it has and end well.

        Raises:
            NotFound: there is no such job of this owner.
        """
        return self.store.jobs.request_stop(self.own(job_id, owner).id)

    def retry(self, job_id: str, owner: str, key: str | None = None) -> JobRow:
        """Queue an ended job's recipe again, as a new job that names the old one as its parent.

        The checkpoints and shards that a failed job left within the last day are gone on with.

        Raises:
            NotFound: there is no such job of this owner.
            BadInput: the job has not ended, or its recipe can't work any more.
        """
        old = self.own(job_id, owner)
        if not old.is_terminal:
            raise BadInput(
                f"This job is still {old.state}.", "Only an ended job can be run again.", "Cancel it first."
            )
        return self.submit(self.repeated(old), owner, key, parent_id=old.id)

    def repeated(self, old: JobRow) -> JobSpec:
        """Return a job's recipe with free names for what it makes: pirate-lora becomes pirate-lora-2.

        Raises:
            BadInput: the recipe was stored by another release and can't be read any more.
        """
        coming = [
            name for job in self.store.jobs.list(states=LIVE) for name in models_made(job.spec, parse_spec)
        ]
        return repeated(old.spec, {*(row.name for row in self.store.models.list()), *coming}, parse_spec)

    def move(self, job_id: str, owner: str, steps: int) -> JobRow:
        """Move a waiting job among its owner's own waiting jobs; steps less than 0 are up.

        Raises:
            NotFound: there is no such job of this owner.
        """
        self.store.line.move(self.own(job_id, owner).id, steps)
        self._told.clear()
        return self.store.jobs.get(job_id)

    def prefer(self, job_id: str, owner: str, priority: int) -> JobRow:
        """Give a waiting job a priority among its owner's own: LOW, NORMAL or HIGH.

        Raises:
            NotFound: there is no such job of this owner.
            BadInput: there is no such priority.
        """
        if not LOW <= priority <= HIGH:
            raise BadInput(
                f"The priority is {priority}.", f"It is {LOW}, 0 or {HIGH}.", "Choose one of them."
            )
        self.store.line.prefer(self.own(job_id, owner).id, priority)
        self._told.clear()
        return self.store.jobs.get(job_id)

    def put_first(self, job_id: str) -> JobRow:
        """Put a waiting job before everybody's: for an operator, whom the caller has made sure of.

        Raises:
            NotFound: there is no such job.
        """
        self.store.line.prefer(self.store.jobs.get(job_id).id, FIRST)
        self._told.clear()
        return self.store.jobs.get(job_id)

    def pause(self, owner: str, lanes: Collection[Lane] = LANES) -> None:
        """Let no waiting job start; running jobs go on. For an operator, whom the caller has made sure of."""
        self.store.line.pause(lanes, owner)

    def resume(self, lanes: Collection[Lane] = LANES) -> None:
        """Let waiting jobs start again, and wake the workers."""
        self.store.line.resume(lanes)
        for job in self.store.jobs.list(states=["queued"], limit=MOST_RUNG):
            if job.lane in lanes:
                self.bells[cast(Lane, job.lane)].ring(job.id)

    def standings(self, lane: str) -> dict[str, Standing]:
        """Say for every waiting job of a lane where it stands, and in how many seconds it starts.

        Worked out once a second, however many pages ask: a long line takes a tenth of a second.
        """
        moment, standings = self._told.get(lane, (-math.inf, {}))
        if time.monotonic() - moment > FRESH_SECONDS:
            standings = self.store.line.standings(lane, self.most_running)
            self._told[lane] = time.monotonic(), standings
        return standings

    def _is_short(self, kind: str, expected: float | None) -> bool:
        seconds = self.store.line.pace([kind]).seconds(kind, expected)
        return self.kinds[kind].is_short if seconds is None else seconds <= SHORT_SECONDS

    def follow(self, job_id: str, after_seq: int) -> list[Event]:
        """Return what a job said since an event, in order."""
        return self.store.events.after(job_id, after_seq)

    def own(self, job_id: str, owner: str) -> JobRow:
        """Return a job of this owner.

        Raises:
            NotFound: there is no such job, or it is somebody else's.
        """
        job = self.store.jobs.get(job_id)
        if job.owner != owner:
            raise NotFound(f"There is no job {job_id[:40]!r}.", "", "Look it up on the Jobs page.")
        return job


def _load(path: str) -> object:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
