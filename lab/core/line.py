"""The line of waiting jobs: who is next, and about when. Numbers in, numbers out.

For every place that becomes free, the next job is

1. one that an operator put first;
2. else one of the person with the fewest running jobs in the lane;
3. of those, the person whose last job began longest ago, so that people take turns;
4. of theirs, by priority, then in their own order, then by age.

A person's priority and order move only their own jobs: nobody gets ahead of others by calling a job
urgent, and nobody waits for ever. Of the places, one is kept for short jobs, which so never wait behind
an hour of training; no order could help them once the training runs.

The store claims by the same rule, in SQL; tests hold the two together.
"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

SHORT_SECONDS = 120.0
"""A job that is expected to take no longer may use the place that is kept for short ones."""

LOW, NORMAL, HIGH = -1, 0, 1
"""What a person may say of their own job."""

FIRST = 10
"""The priority of a job that an operator put before everybody's."""


@dataclass(frozen=True)
class Waiting:
    """One waiting job.

    Attributes:
        id, owner, priority, created: as in its row.
        turn: where it stands among its owner's jobs; the smallest is the first.
        started: when it began first, for a job that was cut off.
        seconds: how long it will take; None where nobody knows.
        is_short: whether it may use the place that is kept for short jobs.
    """

    id: str
    owner: str
    priority: int = NORMAL
    turn: float = 0.0
    created: float = 0.0
    started: float | None = None
    seconds: float | None = None
    is_short: bool = False

    @property
    def own_order(self) -> tuple[int, float, float, str]:
        """What its owner's jobs are sorted by."""
        return (-self.priority, self.turn, self.created, self.id)


@dataclass(frozen=True)
class Held:
    """One running job: whose it is, the seconds that it still takes (None: nobody knows), and its sort."""

    owner: str
    left: float | None = None
    is_short: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a waiting job stands: 1 is next. `starts_in` is in seconds; None where nobody knows."""

    position: int
    starts_in: float | None


@dataclass(frozen=True)
class Line:
    """Everything that one lane's order depends on.

    Attributes:
        waiting: the waiting jobs.
        held: the running ones.
        served: for every owner when their last job began.
        places: how many jobs run at a time.
        short_places: how many of further places take short jobs only.
        most_running: of one owner, at a time; 0 sets no limit.
    """

    waiting: Sequence[Waiting]
    held: Sequence[Held] = ()
    served: Mapping[str, float] = field(default_factory=dict)
    places: int = 1
    short_places: int = 0
    most_running: int = 0

    def in_order(self) -> dict[str, Standing]:
        """Say for every waiting job where it stands, by playing through what will happen."""
        return _Play(self).to_the_end()


class _Play:
    """Plays a line through: places become free, and the next job takes each."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._own: dict[str, list[Waiting]] = {}
        for job in sorted(line.waiting, key=lambda job: job.own_order):
            self._own.setdefault(job.owner, []).append(job)
        self._busy = Counter(job.owner for job in line.held)
        self._served = dict(line.served)
        self._moment = itertools.count(1 + math.ceil(max(self._served.values(), default=0)))
        self._tickets = itertools.count()
        self._ends: list[tuple[float, int, str, bool]] = []  # when, in which order, whose, on which place
        self._heads: dict[tuple[str, bool], tuple[Waiting, float] | None] = {}
        self._idle = self._seat(line)

    def to_the_end(self) -> dict[str, Standing]:
        placed: dict[str, Standing] = {}
        now = 0.0
        while self._own:
            for only_short in sorted(self._idle):
                job = self._next(only_short)
                if job is not None:
                    self._idle.remove(only_short)
                    self._begin(job, now, only_short)
                    placed[job.id] = Standing(len(placed) + 1, now if math.isfinite(now) else None)
            if not self._own:
                break
            if not self._ends:  # nothing runs, and no place takes what is left
                return {**placed, **self._rest(len(placed))}
            now, _, owner, place = heapq.heappop(self._ends)
            self._busy[owner] -= 1
            self._idle.append(place)
        return placed

    def _seat(self, line: Line) -> list[bool]:
        """Give the running jobs places, the short ones last; return those that are free (True: for short)."""
        free = [False] * line.places + [True] * line.short_places
        for job in sorted(line.held, key=lambda job: job.is_short):
            place = free.pop(0) if free and (not free[0] or job.is_short) else False
            end = math.inf if job.left is None else max(job.left, 0.0)
            heapq.heappush(self._ends, (end, next(self._tickets), job.owner, place))
        return free

    def _begin(self, job: Waiting, now: float, place: bool) -> None:
        self._own[job.owner].remove(job)
        if not self._own[job.owner]:
            del self._own[job.owner]
        self._heads.pop((job.owner, True), None)
        self._heads.pop((job.owner, False), None)
        self._busy[job.owner] += 1
        began = float(next(self._moment)) if job.started is None else job.started
        self._served[job.owner] = max(began, self._served.get(job.owner, 0.0))
        end = now + (math.inf if job.seconds is None else job.seconds)
        heapq.heappush(self._ends, (end, next(self._tickets), job.owner, place))

    def _next(self, only_short: bool, most: int | None = None) -> Waiting | None:
        limit = (self._line.most_running if most is None else most) or math.inf
        heads = [self._head(owner, only_short) for owner in self._own if self._busy[owner] < limit]
        found = min((head for head in heads if head is not None), key=self._rank, default=None)
        return found[0] if found else None

    def _rank(self, head: tuple[Waiting, float]) -> tuple[object, ...]:
        """Return what people's next jobs are sorted by."""
        job, since = head
        served = self._served.get(job.owner, 0.0)
        return (job.priority < FIRST, self._busy[job.owner], served, since, *job.own_order)

    def _head(self, owner: str, only_short: bool) -> tuple[Waiting, float] | None:
        """Return an owner's next job for such a place, and the turn of their oldest."""
        key = (owner, only_short)
        if key not in self._heads:
            jobs = self._own[owner]
            head = next((job for job in jobs if job.is_short or not only_short), None)
            self._heads[key] = (head, min(job.turn for job in jobs)) if head else None
        return self._heads[key]

    def _rest(self, before: int) -> dict[str, Standing]:
        rest: dict[str, Standing] = {}
        while self._own and (job := self._next(only_short=False, most=0)):
            rest[job.id] = Standing(before + len(rest) + 1, None)
            self._begin(job, math.inf, place=False)
        return rest


@dataclass(frozen=True)
class Pace:
    """How long the last jobs of each kind took.

    Attributes:
        took: kind, what was expected (None: nothing) and what it took, in seconds.
    """

    took: Sequence[tuple[str, float | None, float]] = ()

    def seconds(self, kind: str, expected: float | None) -> float | None:
        """Say how long a job will take; None where nobody knows.

        What was expected of it is corrected by what became of such expectations; without any, it is
        the median of its kind.
        """
        if expected is not None:
            ratios = [took / told for name, told, took in self.took if name == kind and told]
            return expected * (median(ratios) if ratios else 1.0)
        spans = [took for name, _, took in self.took if name == kind]
        return median(spans) if spans else None


def seconds_of(found: object) -> float | None:
    """Return how long a job will take by what its check found out, where that says so."""
    seconds = getattr(found, "seconds", None)
    return float(seconds) if isinstance(seconds, int | float) and math.isfinite(seconds) else None


def spread(turns: Iterable[float]) -> list[float]:
    """Return turns in ascending order, no two the same: jobs of one moment can change places too."""
    apart: list[float] = []
    for turn in sorted(turns):
        apart.append(max(turn, apart[-1] + 1e-5) if apart else turn)
    return apart
