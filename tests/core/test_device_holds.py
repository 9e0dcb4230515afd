"""Devices are shared by holds: who holds what, what waits for what, and what never fits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clocked_store import open_with_clock, pass_time, wish
from servers import Backend

from lab.core.need import Need, Way
from lab.core.store import Store, Success
from lab.core.store.devices import Place
from lab.core.store.rows import JobRow
from lab.core.store.second_chances import Loss

GB = 1 << 30
GPU = Place("host", "cuda:0")
OTHER = Place("host", "cuda:1")


@pytest.fixture
def store(database: Backend, tmp_path: Path) -> Iterator[Store]:
    store = open_with_clock(database.settings(tmp_path).database)
    store.devices.beat(GPU, "NVIDIA H100, bfloat16", 80 * GB)
    store.devices.beat(OTHER, "NVIDIA L4, bfloat16", 24 * GB)
    yield store
    store.close()


def queue(store: Store, gigabytes: float, key: str, **fields: object) -> JobRow:
    need = Need(int(gigabytes * GB))
    return store.jobs.insert(wish(key, need=need, title=f"the {key} job", **fields))[0]


def claim(store: Store, place: Place = GPU, lane: str = "batch") -> JobRow | None:
    return store.jobs.claim(lane, "w", "words", place)


def held(store: Store) -> list[tuple[str, int, str, float]]:
    return [(hold.job_id, hold.attempt, hold.device, hold.bytes / GB) for hold in store.devices.holds()]


def test_a_claim_takes_the_hold_and_the_end_of_the_attempt_drops_it(store: Store) -> None:
    job = queue(store, 9, "first")
    claimed = claim(store)
    assert claimed is not None
    assert held(store) == [(job.id, 1, "cuda:0", 9.0)]
    assert store.devices.holds()[0].lease_until == claimed.lease_until
    store.jobs.succeed(job.id, 1, Success())
    assert held(store) == []


@pytest.mark.parametrize("end", ["fail", "release", "crash", "reaper", "cancel"])
def test_every_end_of_an_attempt_drops_its_hold(store: Store, end: str) -> None:
    job = queue(store, 9, "first")
    claim(store)
    if end == "fail":
        store.jobs.fail(job.id, 1, "bad", "it broke")
    elif end == "release":
        store.jobs.release(job.id, 1, "stopped")
    elif end == "crash":
        store.jobs.crashed(job.id, 1, "it died", "interrupted", "text")
    elif end == "reaper":
        pass_time(store, 16)
        store.devices.beat(GPU, "NVIDIA H100, bfloat16", 80 * GB)
        store.jobs.reap()
    else:
        store.jobs.request_cancel(job.id)
        assert len(held(store)) == 1  # it still computes
        store.jobs.cancelled(job.id, 1)
    assert held(store) == []


def test_a_job_that_does_not_fit_beside_another_waits_and_says_for_what(store: Store) -> None:
    queue(store, 60, "large")
    claim(store)
    waiting = queue(store, 30, "next")
    stranger = queue(store, 40, "secret", owner="eve")
    assert claim(store) is None
    assert (
        store.jobs.get(waiting.id).waits_for
        == "waits for 30.0 GB on NVIDIA H100, held: 60.0 GB by the large job"
    )
    assert "another merge job" in store.jobs.get(stranger.id).waits_for
    assert "the large job" not in store.jobs.get(stranger.id).waits_for
    store.jobs.succeed(held(store)[0][0], 1, Success())
    assert {getattr(claim(store), "id", None), getattr(claim(store), "id", None)} == {waiting.id, stranger.id}
    assert store.jobs.get(waiting.id).waits_for == ""


def test_a_smaller_job_goes_on_another_device_meanwhile(store: Store) -> None:
    queue(store, 60, "large")
    claim(store)
    small = queue(store, 20, "small")
    claimed = claim(store, OTHER)
    assert claimed is not None
    assert claimed.id == small.id
    assert {device for _, _, device, _ in held(store)} == {"cuda:0", "cuda:1"}


def test_a_job_of_unknown_need_runs_anywhere(store: Store) -> None:
    queue(store, 80, "large")
    claim(store)
    queue(store, 0, "unknown")
    assert claim(store) is not None


def test_a_job_that_no_device_can_hold_is_refused_with_what_would_fit(store: Store) -> None:
    ways = (
        Way("length", "rows of at most 512 tokens", 90 * GB),
        Way("length", "rows of at most 256 tokens", 70 * GB),
        Way("length", "rows of at most 128 tokens", 60 * GB),
        Way("method", "method qlora", 50 * GB),
        Way("rank", "a rank of 8", 79 * GB),
        Way("full", "no full model", 10 * GB),
    )
    job = store.jobs.insert(wish("huge", need=Need(100 * GB, ways)))[0]
    assert claim(store) is None
    row = store.jobs.get(job.id)
    assert (row.state, row.error_code, row.attempt) == ("failed", "too_large", 0)
    assert row.error_text == (
        "This needs about 100.0 GB of memory. The largest device of the lab, NVIDIA H100, has 80.0 GB. "
        "It would fit with rows of at most 256 tokens, or method qlora, or a rank of 8."
    )


def test_a_job_for_a_device_that_is_away_for_an_hour_waits_for_it(store: Store) -> None:
    job = queue(store, 60, "large")
    pass_time(store, 3600)
    store.devices.beat(OTHER, "NVIDIA L4, bfloat16", 24 * GB)
    assert claim(store, OTHER) is None
    assert store.jobs.get(job.id).state == "queued"
    pass_time(store, 24 * 3600)
    store.devices.beat(OTHER, "NVIDIA L4, bfloat16", 24 * GB)
    assert claim(store, OTHER) is None
    assert store.jobs.get(job.id).error_code == "too_large"


def test_the_chat_always_gets_a_tenth_of_a_device(store: Store) -> None:
    queue(store, 79, "training")
    claim(store)
    queue(store, 7, "question", lane="chat")
    queue(store, 3, "second", lane="chat")
    assert claim(store, lane="chat") is not None
    assert claim(store, lane="chat") is None


def test_what_the_chat_keeps_loaded_is_in_the_way_of_others_until_it_is_asked_to_give_it_back(
    store: Store,
) -> None:
    assert store.devices.keep(GPU, 30 * GB, "pirate, sums") is False
    job = queue(store, 60, "large")
    assert claim(store) is None
    waits_for = store.jobs.get(job.id).waits_for
    assert "30.0 GB by the chat's loaded models" in waits_for
    assert "pirate" not in waits_for  # it may be somebody else's
    assert store.devices.keep(GPU, 30 * GB, "pirate, sums") is True
    assert store.devices.keep(GPU, 0, "") is False
    assert claim(store) is not None


def test_what_a_dead_chat_worker_kept_is_forgotten(store: Store) -> None:
    store.devices.keep(GPU, 30 * GB, "pirate")
    queue(store, 60, "large")
    pass_time(store, 16)
    assert claim(store) is not None


def test_a_device_that_failed_rests_for_a_minute_and_its_job_goes_elsewhere(store: Store) -> None:
    job = queue(store, 9, "first")
    claim(store)
    left = store.jobs.give_up(job.id, 1, Loss("the GPU failed under it", "device_lost", "text"))
    assert (left.state, left.crash_count) == ("queued", 1)
    assert claim(store) is None
    assert "failed and is tried again" in store.jobs.get(job.id).waits_for
    assert store.devices.rests(GPU)
    elsewhere = claim(store, OTHER)
    assert elsewhere is not None
    assert (elsewhere.id, elsewhere.attempt) == (job.id, 2)
    pass_time(store, 61)
    assert not store.devices.rests(GPU)
    queue(store, 1, "second")
    assert claim(store) is not None


def test_a_device_is_never_promised_twice(store: Store) -> None:
    for number in range(12):
        queue(store, 30, f"job{number}")
    got: list[JobRow | None] = []
    threads = [threading.Thread(target=lambda: got.append(claim(store))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(bytes_held for *_, bytes_held in held(store)) <= 80
    assert sum(row is not None for row in got) == len(held(store)) >= 1


def test_memory_that_ran_out_is_tried_once_more_in_a_smaller_plan(store: Store) -> None:
    job = queue(store, 9, "first")
    for attempt, state in ((1, "queued"), (2, "failed")):
        claim(store)
        loss = Loss("its memory ran out", "out_of_memory", "9 GB expected, 8 GB free", crashes=0)
        row = store.jobs.give_up(job.id, attempt, loss)
        assert (row.state, row.thrift, row.crash_count) == (state, 1, 0)
    assert (row.error_code, row.error_text) == ("out_of_memory", "9 GB expected, 8 GB free")


def test_a_hung_job_is_tried_once_more_and_then_fails_as_stalled(store: Store) -> None:
    job = queue(store, 9, "first")
    for attempt, state in ((1, "queued"), (2, "failed")):
        claim(store)
        row = store.jobs.crashed(job.id, attempt, "it said nothing for 900 seconds", "stalled", "cut off")
        assert row.state == state
    assert row.error_code == "stalled"


def test_a_claim_with_its_hold_costs_less_than_two_milliseconds_more(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    place = Place("host", "cpu")
    store.devices.beat(place, "CPU", 8 * GB)

    def median(place: Place | None) -> float:
        took = []
        for number in range(40):
            row = queue(store, 1, f"{place}{number}")
            began = time.process_time()  # of ours alone, whatever else the machine does
            store.jobs.claim("batch", "w", "CPU", place)
            took.append(time.process_time() - began)
            store.jobs.succeed(row.id, 1, Success())
        return sorted(took)[len(took) // 2]

    without, with_hold = median(None), median(place)
    store.close()
    assert with_hold - without < 0.01, (without, with_hold)  # measured 1 ms; wide, for a loaded machine


def test_a_question_that_has_its_device_to_itself_is_never_kept_waiting(store: Store) -> None:
    queue(store, 30, "large model", lane="chat")
    assert claim(store, OTHER, lane="chat") is not None


def several(store: Store, gigabytes: float, key: str, devices: int) -> JobRow:
    need = Need(int(gigabytes * GB), devices=devices)
    return store.jobs.insert(wish(key, need=need, title=f"the {key} job"))[0]


def test_a_job_that_wants_two_devices_holds_both_or_none(store: Store) -> None:
    small = queue(store, 20, "small")
    assert claim(store, OTHER) is not None  # 4 of the 24 GB are left there
    job = several(store, 5, "pair", 2)
    assert store.jobs.claim("batch", "w", "words", GPU, others=[OTHER]) is None
    assert held(store) == [(small.id, 1, "cuda:1", 20.0)]
    assert (
        store.jobs.get(job.id).waits_for == "waits for 2 devices of one host at once with 5.0 GB free on each"
    )
    store.jobs.succeed(small.id, 1, Success())
    claimed = store.jobs.claim("batch", "w", "words", GPU, others=[OTHER])
    assert claimed is not None
    assert (claimed.id, claimed.devices, claimed.waits_for) == (job.id, 2, "")
    assert sorted(held(store)) == [(job.id, 1, "cuda:0", 5.0), (job.id, 1, "cuda:1", 5.0)]
    assert store.devices.held_by(job.id) == ("cuda:0", "cuda:1")
    store.jobs.crashed(job.id, 1, "it was killed", "interrupted", "cut off")
    assert held(store) == []


def test_a_worker_of_one_device_takes_no_job_that_wants_two(store: Store) -> None:
    several(store, 0, "pair", 2)
    alone = queue(store, 1, "alone")
    taken = claim(store)
    assert taken is not None
    assert taken.id == alone.id
    assert claim(store) is None


def test_a_host_s_devices_count_together_and_those_of_two_hosts_do_not(store: Store) -> None:
    assert store.devices.together() == 2
    store.devices.beat(Place("another", "cuda:0"), "NVIDIA L4, bfloat16", 24 * GB)
    assert store.devices.together() == 2
