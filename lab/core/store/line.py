"""The line of waiting jobs in the database: who is claimed next, what is paused, who stands where.

`next_in_line` says in SQL what lab/core/line.py says in words; the two are held together by tests.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import CTE, Connection, Select, case, delete, exists, func, select, true, update

from lab.core.line import FIRST, Held, Line, Pace, Standing, Waiting, spread
from lab.core.store.database import Database
from lab.core.store.engines import upsert
from lab.core.store.rows import PauseRow
from lab.core.store.schema import jobs, pauses, workers
from lab.core.store.shelves import WORKER_ALIVE_SECONDS
from lab.core.store.transitions import HELD, is_one_of

PACE_JOBS = 30
"""So many of the last jobs of a kind say how long the next one will take."""


@lru_cache(maxsize=64)
def next_in_line(lane: str, *, only_short: bool = False, most_running: int = 0) -> Select[Any]:
    """Select the job that is claimed next in a lane: its id, attempt, need_bytes and devices.

    Nothing while the lane is paused.

    On Postgres two workers that ask at the same moment get two rows, the second perhaps of the same
    owner: that is made up for at the next claim.

    Args:
        lane: whose jobs.
        only_short: for the place that is kept for short jobs.
        most_running: of one owner in the lane at a time; 0 sets no limit.
    """
    people = _people(lane)
    is_paused = exists(select(pauses.c.lane).where(pauses.c.lane == lane))
    found = (
        select(jobs.c.id, jobs.c.attempt, jobs.c.need_bytes, jobs.c.devices)
        .join(people, people.c.owner == jobs.c.owner)
        .where((jobs.c.state == "queued") & (jobs.c.lane == lane) & ~is_paused)
    )
    if only_short:
        found = found.where(jobs.c.is_short == true())
    if most_running:
        found = found.where(people.c.busy < most_running)
    put_first = case((jobs.c.priority >= FIRST, 0), else_=1)
    return (
        found.order_by(put_first, people.c.busy, people.c.served, people.c.since, *_OWN_ORDER)
        .limit(1)
        .with_for_update(skip_locked=True, of=jobs)  # on Postgres, each of many workers its own row
    )


_OTHERS = jobs.alias("others")
_OWN_ORDER = (jobs.c.priority.desc(), jobs.c.turn, jobs.c.created, jobs.c.id)


def _people(lane: str) -> CTE:
    """Who has a job waiting: how many they have running, when their last began, their oldest's turn.

    Worked out once for each person: left to itself, Postgres would do it for each job.
    """
    here = jobs.c.lane == lane
    waiting = select(jobs.c.owner, func.min(jobs.c.turn).label("since")).where(
        here & (jobs.c.state == "queued")
    )
    people = waiting.group_by(jobs.c.owner).subquery("people")
    running = select(jobs.c.owner, func.count().label("busy")).where(here & is_one_of(HELD))
    held = running.group_by(jobs.c.owner).subquery("held")
    theirs = (_OTHERS.c.owner == people.c.owner) & (_OTHERS.c.lane == lane)
    served = select(func.max(_OTHERS.c.started)).where(theirs).scalar_subquery()
    ranks = select(
        people.c.owner,
        people.c.since,
        func.coalesce(held.c.busy, 0).label("busy"),
        func.coalesce(served, 0.0).label("served"),
    ).outerjoin_from(people, held, held.c.owner == people.c.owner)
    return ranks.cte("ranks").prefix_with("MATERIALIZED")


class Lines:
    """The lines of all lanes.

    Args:
        database: where the jobs are.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    def pause(self, lanes: Collection[str], owner: str) -> None:
        """Let no waiting job of these lanes start until they are resumed; running jobs go on."""
        dialect = self._db.engine.dialect.name
        with self._db.write() as connection:
            already = set(connection.execute(select(pauses.c.lane)).scalars())
            for lane in lanes:
                if lane not in already:
                    connection.execute(upsert(dialect, pauses, lane=lane, owner=owner, since=self._db.now))

    def resume(self, lanes: Collection[str]) -> None:
        """Let waiting jobs of these lanes start again."""
        with self._db.write() as connection:
            connection.execute(delete(pauses).where(pauses.c.lane.in_(lanes)))

    def pauses(self) -> dict[str, PauseRow]:
        """Return the paused lanes."""
        with self._db.read() as connection:
            rows = connection.execute(select(pauses).order_by(pauses.c.lane)).mappings()
            return {row["lane"]: PauseRow(**row) for row in rows}

    def move(self, job_id: str, steps: int) -> None:
        """Move a waiting job among the waiting jobs of its owner and lane.

        It takes over the priority of those it comes to stand among. What an operator put first stays
        where it is. A job that has begun meanwhile, or has nowhere to go, is left alone.

        Args:
            job_id: which job.
            steps: how many places down; less than 0 is up.
        """
        with self._db.write() as connection:
            own = self._own(connection, job_id)
            at = next((place for place, row in enumerate(own) if row["id"] == job_id), None)
            if at is None:
                return
            to = min(max(at + steps, 0), len(own) - 1)
            moved = {**own.pop(at)}
            if to != at:
                moved["priority"] = own[to - 1 if to > at else to]["priority"]
            own.insert(to, moved)
            for row, turn in zip(own, spread(row["turn"] for row in own), strict=True):
                connection.execute(
                    update(jobs)
                    .where((jobs.c.id == row["id"]) & (jobs.c.state == "queued"))
                    .values(turn=turn, priority=row["priority"])
                )

    def prefer(self, job_id: str, priority: int) -> None:
        """Give a waiting job another priority; one that has begun meanwhile is left alone."""
        mine = (jobs.c.id == job_id) & (jobs.c.state == "queued")
        with self._db.write() as connection:
            connection.execute(update(jobs).where(mine).values(priority=priority))

    def standings(self, lane: str, most_running: int = 0) -> dict[str, Standing]:
        """Say for every waiting job of a lane where it stands and in how many seconds it starts.

        Unknown starts are None: of what nobody can foresee, or while the lane is paused or without
        workers.
        """
        with self._db.read() as connection:
            rows = connection.execute(self._rows(lane)).mappings().all()
            if not any(row["state"] == "queued" for row in rows):
                return {}
            now = float(connection.execute(select(self._db.now)).scalar_one())
            line = _line(rows, now, self._pace(connection, {row["kind"] for row in rows}))
            served = self._served(connection, lane, {job.owner for job in line.waiting})
            places, short = self._places(connection, lane)
            paused = connection.execute(select(pauses.c.lane).where(pauses.c.lane == lane)).first()
        line = Line(line.waiting, line.held, served, places or 1, short, most_running)
        standings = line.in_order()
        if paused or not places:
            return {job: Standing(one.position, None) for job, one in standings.items()}
        return standings

    def pace(self, kinds: Collection[str]) -> Pace:
        """Return how long the last jobs of some kinds took."""
        with self._db.read() as connection:
            return self._pace(connection, kinds)

    def _own(self, connection: Connection, job_id: str) -> list[Any]:
        """Return the waiting jobs that a job can change places with, itself among them, in order."""
        row = connection.execute(select(jobs.c.owner, jobs.c.lane).where(jobs.c.id == job_id)).first()
        if row is None:
            return []
        owner, lane = row
        theirs = (jobs.c.owner == owner) & (jobs.c.lane == lane) & (jobs.c.state == "queued")
        query = select(jobs.c.id, jobs.c.priority, jobs.c.turn).where(theirs & (jobs.c.priority < FIRST))
        return list(connection.execute(query.order_by(*_OWN_ORDER).with_for_update()).mappings())

    def _rows(self, lane: str) -> Select[Any]:
        names = (
            "id", "owner", "kind", "state", "priority", "turn", "created", "started", "progress",
            "seconds_left", "expected_seconds", "is_short",
        )  # fmt: skip
        live = (jobs.c.lane == lane) & jobs.c.state.in_(("queued", *HELD))
        return select(*(jobs.c[name] for name in names)).where(live)

    def _served(self, connection: Connection, lane: str, owners: Collection[str]) -> dict[str, float]:
        theirs = (jobs.c.lane == lane) & jobs.c.owner.in_(owners) & jobs.c.started.is_not(None)
        query = select(jobs.c.owner, func.max(jobs.c.started)).where(theirs).group_by(jobs.c.owner)
        return {owner: float(began) for owner, began in connection.execute(query)}

    def _places(self, connection: Connection, lane: str) -> tuple[int, int]:
        alive = (workers.c.lane == lane) & (workers.c.seen > self._db.now - WORKER_ALIVE_SECONDS)
        counted = select(func.sum(workers.c.places), func.sum(workers.c.short_places)).where(alive)
        places, short = connection.execute(counted).one()
        return int(places or 0), int(short or 0)

    def _pace(self, connection: Connection, kinds: Collection[str]) -> Pace:
        took: list[tuple[str, float | None, float]] = []
        for kind in sorted(kinds):
            good = (jobs.c.kind == kind) & (jobs.c.state == "succeeded")
            span = jobs.c.finished - jobs.c.started
            last = select(jobs.c.kind, jobs.c.expected_seconds, span).where(good)
            rows = connection.execute(last.order_by(jobs.c.finished.desc()).limit(PACE_JOBS))
            took += [(kind, told, float(seconds)) for kind, told, seconds in rows]
        return Pace(took)


def _line(rows: Sequence[Any], now: float, pace: Pace) -> Line:
    """Read the rows of live jobs into a line."""
    waiting = [
        Waiting(
            id=row["id"],
            owner=row["owner"],
            priority=row["priority"],
            turn=row["turn"],
            created=row["created"],
            started=row["started"],
            seconds=pace.seconds(row["kind"], row["expected_seconds"]),
            is_short=bool(row["is_short"]),
        )
        for row in rows
        if row["state"] == "queued"
    ]
    held = [
        Held(row["owner"], _left(row, now, pace), bool(row["is_short"]))
        for row in rows
        if row["state"] != "queued"
    ]
    return Line(waiting, held)


def _left(row: Any, now: float, pace: Pace) -> float | None:
    """Say how many seconds a running job still takes: by its own word, else its progress, else its kind."""
    if row["seconds_left"] is not None:
        return float(row["seconds_left"])
    spent = max(now - (row["started"] or now), 0.0)
    if row["progress"] >= 0.05:
        return spent * (1 - row["progress"]) / row["progress"]
    expected = pace.seconds(row["kind"], row["expected_seconds"])
    return expected - spent if expected is not None and expected > spent else None
