"""The table of jobs, against real databases and a clock that the test moves."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clocked_store import REACH, open_with_clock, pass_time, running, wish
from servers import Backend
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from lab.core.errors import Conflict, Fenced, NotFound
from lab.core.events import NewEvent
from lab.core.lastwords import LastWords
from lab.core.store import Store, Success
from lab.core.store.rows import JobRow, ModelRow


@pytest.fixture
def store(database: Backend, tmp_path: Path) -> Iterator[Store]:
    store = open_with_clock(database.settings(tmp_path).database)
    yield store
    store.close()


def test_a_job_can_only_begin_queued(store: Store) -> None:
    job = REACH["queued"](store)
    copy = text(
        "INSERT INTO jobs (id, owner, idem_key, kind, lane, title, spec, spec_sha256, state, attempt, "
        "crash_count, priority, resumable, stop_requested, stopped_early, parent_id, worker_id, device, "
        "last_seq, progress, progress_words, seconds_left, created, started, finished, lease_until, "
        "error_code, error_text, result) SELECT 'x' || substr(id, 2), owner, 'other', kind, lane, title, "
        "spec, spec_sha256, "
        "'running', attempt, crash_count, priority, resumable, stop_requested, stopped_early, parent_id, "
        "worker_id, device, last_seq, progress, progress_words, seconds_left, created, started, finished, "
        "lease_until, error_code, error_text, result FROM jobs WHERE id = :id"
    )
    with pytest.raises(IntegrityError, match="illegal transition"), store.database.write() as connection:
        connection.execute(copy, {"id": job.id})


def test_a_terminal_row_is_never_changed_again(store: Store) -> None:
    job = REACH["succeeded"](store)
    with pytest.raises(IntegrityError, match="illegal transition"), store.database.write() as connection:
        connection.execute(text("UPDATE jobs SET title = 'other' WHERE id = :id"), {"id": job.id})


def test_the_same_owner_key_and_spec_are_the_same_job(store: Store) -> None:
    first, is_new = store.jobs.insert(wish("click-1"))
    again, is_new_again = store.jobs.insert(wish("click-1"))
    assert (first.id, is_new, is_new_again) == (again.id, True, False)


def test_a_claimed_job_is_not_claimed_again(store: Store) -> None:
    job = running(store)
    assert (job.state, job.attempt, job.worker_id) == ("running", 1, "w1")
    assert store.jobs.claim("batch", "w2", "cpu") is None


def test_twenty_workers_that_race_for_ten_jobs_get_each_once(store: Store) -> None:
    for n in range(10):
        store.jobs.insert(wish(str(n)))
    got: list[JobRow | None] = []
    threads = [
        threading.Thread(target=lambda: got.append(store.jobs.claim("batch", "w", "cpu"))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [job.id for job in got if job]
    assert len(ids) == len(set(ids)) == 10


def test_a_claim_takes_what_was_put_first_then_the_owner_with_less_running_then_the_oldest(
    store: Store,
) -> None:
    running(store, key="a0", owner="ada")
    store.jobs.insert(wish("a1", owner="ada"))
    pass_time(store, 1)
    store.jobs.insert(wish("b1", owner="bob"))
    store.jobs.insert(wish("a2", owner="ada", priority=10))
    order = [store.jobs.claim("batch", "w", "cpu") for _ in range(3)]
    assert [(job.owner, job.priority) for job in order if job] == [("ada", 10), ("bob", 0), ("ada", 0)]


def test_a_lane_only_sees_its_own_jobs(store: Store) -> None:
    store.jobs.insert(wish(lane="chat"))
    assert store.jobs.claim("batch", "w", "cpu") is None


def test_a_lapsed_lease_puts_the_job_back_with_its_cause_and_fences_the_old_attempt(store: Store) -> None:
    job = running(store)
    pass_time(store, 14.9)
    assert store.jobs.reap() == []
    pass_time(store, 0.2)
    (back,) = store.jobs.reap()
    assert (back.state, back.crash_count) == ("queued", 1)
    again = store.jobs.claim("batch", "w2", "cpu")
    assert again is not None
    assert again.attempt == 2
    for late_write in (
        lambda: store.jobs.append(job.id, 1, [NewEvent("note", {"text": "zombie"})]),
        lambda: store.jobs.heartbeat(job.id, 1),
        lambda: store.jobs.succeed(job.id, 1, Success()),
        lambda: store.jobs.fail(job.id, 1, "x", "y"),
    ):
        with pytest.raises(Fenced):
            late_write()
    assert "zombie" not in str(store.events.after(job.id, 0))


def test_hosts_that_reap_at_once_give_a_job_up_once(store: Store) -> None:
    for n in range(5):
        running(store, key=str(n))
    pass_time(store, 16)
    reaped: list[JobRow] = []
    threads = [threading.Thread(target=lambda: reaped.extend(store.jobs.reap())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row.id for row in reaped) == sorted(row.id for row in store.jobs.list())
    assert {row.crash_count for row in store.jobs.list()} == {1}


def test_a_lease_renewed_while_the_reaper_looks_is_not_reaped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(store)
    pass_time(store, 16)
    give_up = store.jobs.give_up

    def renew_first(*args: object, **more: object) -> JobRow:
        store.jobs.heartbeat(job.id, 1)
        return give_up(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store.jobs, "give_up", renew_first)
    assert store.jobs.reap() == []
    assert store.jobs.get(job.id).state == "running"


def test_events_of_many_writers_have_no_gap(store: Store) -> None:
    job = running(store)
    threads = [
        threading.Thread(target=lambda: store.jobs.append(job.id, 1, [NewEvent("note", {"text": "x"})] * 3))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in store.events.after(job.id, 0)] == list(range(1, 63))


def test_a_cancel_beats_a_release_or_waits_for_it_but_is_never_lost(store: Store) -> None:
    for n in range(15):
        job = running(store, key=str(n))
        both = [
            threading.Thread(target=store.jobs.request_cancel, args=(job.id,)),
            threading.Thread(target=lambda job=job: release_if_held(store, job)),
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert store.jobs.get(job.id).state in ("cancelled", "cancelling")


def release_if_held(store: Store, job: JobRow) -> None:
    with suppress(Fenced):
        store.jobs.release(job.id, 1, "bye")


def test_jobs_that_measured_the_same_at_once_leave_one_figure(store: Store) -> None:
    figures = [
        {"model": "m", "metric": metric, "data": "d", "value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
        for metric in "abcdef"
    ]
    held = [running(store, key=str(n)) for n in range(6)]
    threads = [
        threading.Thread(
            target=store.jobs.succeed, args=(job.id, 1, Success(scores=figures[:: (-1) ** place]))
        )
        for place, job in enumerate(held)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {store.jobs.get(job.id).state for job in held} == {"succeeded"}
    assert [row.metric for row in store.scores.of(["m"])] == list("abcdef")


def test_a_heartbeat_extends_the_lease(store: Store) -> None:
    job = running(store)
    pass_time(store, 14)
    store.jobs.heartbeat(job.id, 1)
    pass_time(store, 14)
    assert store.jobs.reap() == []


def test_three_crashes_are_poison(store: Store) -> None:
    job = running(store)
    for attempt in (1, 2):
        assert store.jobs.crashed(job.id, attempt, "it died", "crashed", "died").state == "queued"
        store.jobs.claim("batch", "w", "cpu")
    last = store.jobs.crashed(job.id, 3, "it died", "crashed", "died")
    assert (last.state, last.error_code, last.crash_count) == ("failed", "poison", 3)


def test_the_last_words_of_an_attempt_stay_in_the_event_that_ends_it(store: Store) -> None:
    job = running(store)
    store.jobs.crashed(job.id, 1, "it died", "crashed", "died", LastWords("SIGKILL", "first"))
    store.jobs.claim("batch", "w", "gpu")
    pass_time(store, 16)
    store.jobs.reap(lambda job_id, attempt: f"{job_id == job.id} {attempt}")
    store.jobs.claim("batch", "w", "gpu")
    store.jobs.fail(job.id, 3, "x", "y", None, LastWords(log="third"))
    told = [event.payload for event in store.events.states(job.id)]
    ends = {one["attempt"]: (one.get("exit"), one["log"]) for one in told if "log" in one}
    assert ends == {1: ("SIGKILL", "first"), 2: (None, "True 2"), 3: (None, "third")}
    assert [one["device"] for one in told if one["state"] == "running"] == ["cpu", "gpu", "gpu"]


def test_poison_and_what_cannot_go_on_midway_keep_their_last_words_too(store: Store) -> None:
    poisoned, cut = running(store), running(store, key="other", resumable=False)
    for attempt in (1, 2):
        store.jobs.crashed(poisoned.id, attempt, "it died", "crashed", "died")
        store.jobs.claim("batch", "w", "cpu")
    for job, attempt in ((poisoned, 3), (cut, 1)):
        store.jobs.crashed(job.id, attempt, "it died", "crashed", "died", LastWords("code 3", "last"))
        end = store.events.states(job.id)[-1].payload
        assert (end["state"], end["exit"], end["log"]) == ("failed", "code 3", "last")


def test_a_job_that_cannot_go_on_midway_fails_as_interrupted(store: Store) -> None:
    job = running(store, resumable=False)
    pass_time(store, 16)
    (ended,) = store.jobs.reap()
    assert (ended.id, ended.state, ended.error_code) == (job.id, "failed", "interrupted")


def test_a_release_counts_no_crash(store: Store) -> None:
    job = running(store)
    back = store.jobs.release(job.id, 1, "the worker was shut down")
    assert (back.state, back.crash_count) == ("queued", 0)


def test_cancelling_a_waiting_job_ends_it_at_once(store: Store) -> None:
    job = REACH["queued"](store)
    assert store.jobs.request_cancel(job.id).state == "cancelled"
    assert store.jobs.claim("batch", "w", "cpu") is None


def test_cancelling_twice_is_the_same_as_once(store: Store) -> None:
    job = running(store)
    assert store.jobs.request_cancel(job.id).state == "cancelling"
    events = len(store.events.after(job.id, 0))
    assert store.jobs.request_cancel(job.id).state == "cancelling"
    assert len(store.events.after(job.id, 0)) == events


def test_a_cancelling_job_whose_worker_died_is_cancelled_not_queued(store: Store) -> None:
    job = running(store)
    store.jobs.request_cancel(job.id)
    pass_time(store, 16)
    (ended,) = store.jobs.reap()
    assert ended.state == "cancelled"


def test_a_stop_is_a_flag_that_only_a_running_job_gets(store: Store) -> None:
    waiting = REACH["queued"](store)
    assert not store.jobs.request_stop(waiting.id).stop_requested
    held = store.jobs.claim("batch", "w", "cpu")
    assert held is not None
    assert store.jobs.request_stop(held.id).stop_requested


def test_events_are_numbered_without_gaps_through_states_and_batches(store: Store) -> None:
    job = running(store)
    last = store.jobs.append(job.id, 1, [NewEvent("note", {"text": str(n)}) for n in range(5)])
    store.jobs.release(job.id, 1, "again")
    store.jobs.claim("batch", "w", "cpu")
    store.jobs.succeed(job.id, 2, Success())
    events = store.events.after(job.id, 0)
    assert last == 7  # queued, running, five notes
    assert [event.seq for event in events] == list(range(1, 11))
    assert [event.payload["state"] for event in events if event.kind == "state"] == [
        "queued",
        "running",
        "queued",
        "running",
        "succeeded",
    ]
    assert store.events.after(job.id, 8) == events[8:]


def test_the_database_refuses_a_gap_in_the_events(store: Store) -> None:
    job = REACH["queued"](store)
    gap = text("INSERT INTO events VALUES (:id, 5, 0, 'note', '{}')")
    with pytest.raises(IntegrityError, match="gap in events"), store.database.write() as connection:
        connection.execute(gap, {"id": job.id})


def test_progress_shows_in_the_row(store: Store) -> None:
    job = running(store)
    store.jobs.append(
        job.id, 1, [NewEvent("progress", {"fraction": 0.25, "words": "step 1", "seconds_left": 9.0})]
    )
    row = store.jobs.get(job.id)
    assert (row.progress, row.progress_words, row.seconds_left) == (0.25, "step 1", 9.0)


def model(name: str) -> ModelRow:
    return ModelRow(
        name, "merge", "ada", ("a", "b"), "ties of a and b", {"layers": 2}, 10, "0" * 64, None, 0.0
    )


def test_models_are_listed_with_the_success_or_not_at_all(store: Store) -> None:
    job = running(store)
    with pytest.raises(Fenced):
        store.jobs.succeed(job.id, 7, Success(models=[model("m")]))
    assert store.models.list() == []
    store.jobs.succeed(job.id, 1, Success(models=[model("m")]))
    assert store.models.get("m").parents == ("a", "b")


def test_a_name_is_promised_to_one_live_job_and_free_again_when_it_fails(store: Store) -> None:
    job = running(store, promises=("m",))
    with pytest.raises(Conflict, match="already making 'm'"):
        store.jobs.insert(wish("other", promises=("m",)))
    store.jobs.fail(job.id, 1, "x", "y")
    store.jobs.insert(wish("other", promises=("m",)))


def test_the_name_of_a_listed_model_is_refused(store: Store) -> None:
    store.jobs.succeed(running(store).id, 1, Success(models=[model("m")]))
    with pytest.raises(Conflict, match="already a model named 'm'"):
        store.jobs.insert(wish("other", promises=("m",)))


def test_a_newer_score_takes_the_place_of_the_older(store: Store) -> None:
    figure = {
        "model": "m",
        "metric": "accuracy",
        "data": "mc40",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 40,
    }
    store.jobs.succeed(running(store, key="1").id, 1, Success(scores=[figure]))
    store.jobs.succeed(running(store, key="2").id, 1, Success(scores=[{**figure, "value": 0.7}]))
    assert [row.value for row in store.scores.of(["m"])] == [0.7]


def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no job 'nope'"):
        store.jobs.get("nope")


def test_only_an_ended_job_can_be_forgotten(store: Store) -> None:
    job = running(store)
    store.jobs.forget(job.id)
    assert store.jobs.get(job.id).state == "running"
    store.jobs.fail(job.id, 1, "x", "y")
    store.jobs.forget(job.id)
    with pytest.raises(NotFound):
        store.jobs.get(job.id)


def test_a_worker_that_stopped_beating_is_not_alive(store: Store) -> None:
    store.workers.beat("w1", "chat", "here", "CPU", ["m"])
    assert store.workers.list()[0].is_alive
    pass_time(store, 20)
    assert not store.workers.list()[0].is_alive


def test_the_migrations_make_the_tables_that_the_code_expects(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from lab.core.store.schema import metadata

    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        changes = [change for change in compare_metadata(context, metadata) if "clock" not in str(change)]
    assert changes == []


def test_a_database_that_is_up_to_date_opens_as_it_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing was to be migrated")

    monkeypatch.setattr("alembic.command.upgrade", refuse)
    store.database.migrate()
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(AssertionError, match="nothing was to be migrated"):
        store.database.migrate()
