"""What is published is whole, once and under its own name, whatever disks and rivals do."""

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from disks import SmallDisk, may_mount, read_only, small_disk
from fakes import FakeJob
from test_cancel import placed
from test_interrupted_work import merge_spec
from toy_kind import ToySpec
from worked_lab import Lab

from lab.core.errors import BadInput, JobFailed, NotFound, Unavailable
from lab.core.store.rows import JobRow
from lab.data.importing import import_dataset
from lab.jobs import Desk, Kind
from lab.models import importing
from lab.models.catalog import Catalog
from lab.models.publish import is_whole, read_manifest
from lab.models.spec import ImportSpec
from lab.models.weights import open_weights

pytestmark = pytest.mark.timeout(90)

MEGABYTE = 1 << 20


def slowly(*values: str) -> list[ParameterSet]:
    """Mark variants that only `make test-faults` runs."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def data_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk that a whole lab is on: ask for it before the lab."""
    with small_disk(tmp_path / "data") as disk:
        yield disk


@pytest.fixture
def jobs_disk(lab: Lab) -> Iterator[SmallDisk]:
    """A small disk for the jobs' work."""
    with small_disk(lab.settings.jobs) as disk:
        yield disk


@pytest.fixture
def models_disk(lab: Lab) -> Iterator[SmallDisk]:
    """A small disk for the models, so that they are on another one than the jobs' work."""
    with small_disk(lab.settings.models) as disk:
        yield disk


def assert_nothing_is_left(lab: Lab, row: JobRow) -> None:
    """Make sure that a job published nothing, and that what it wrote is gone."""
    assert lab.store.models.list() == []
    lab.wait("its work to be removed", lambda: not (lab.settings.jobs / row.id / "work").exists(), 5)
    lab.wait("nothing to be left of its model", lambda: parts(lab.settings.models) == [], 5)
    lab.check_events(row.id)


def parts(models: Path) -> list[str]:
    """Return all that lies on the shelf, an empty trash and the test's own ballast aside."""
    there = {file.name for file in models.iterdir() if file.name not in (".trash", ".ballast", ".rest")}
    return sorted(there)


def whole_model(lab: Lab, name: str) -> None:
    """Make sure that a model is listed once, stands on the shelf and is as its manifest has it."""
    assert [row.name for row in lab.store.models.list()] == [name]
    assert placed(lab) == [name]
    folder = Catalog(lab.store, lab.settings).model(name)
    assert is_whole(folder, read_manifest(folder))


class TestFullDisk:
    @pytest.mark.case("F1", "the disk fills up while a job writes its steps")
    def test_a_job_that_fills_the_disk_fails_in_words_and_gives_the_room_back(
        self, lab: Lab, jobs_disk: SmallDisk
    ) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(steps=20, fills=MEGABYTE, makes="mine")))
        assert (row.state, row.error_code, row.attempt) == ("failed", "disk_full", 1)
        assert "Free some space" in (row.error_text or "")
        assert_nothing_is_left(lab, row)
        assert jobs_disk.free_bytes() > 7 * MEGABYTE
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"

    @pytest.mark.case("F1", "the disk that a job fills up is the database's too")
    def test_a_job_that_fills_the_database_s_disk_makes_room_before_it_tells_its_end(
        self, data_disk: SmallDisk, lab: Lab
    ) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(steps=20, fills=MEGABYTE, makes="mine")))
        assert (row.state, row.error_code) == ("failed", "disk_full")
        assert_nothing_is_left(lab, row)
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"

    @pytest.mark.slow
    @pytest.mark.case("F1", "the disk fills up while a merge writes its shards")
    @pytest.mark.timeout(180)
    def test_a_merge_that_runs_out_of_disk_fails_in_words_and_leaves_nothing(
        self, stocked: Lab, jobs_disk: SmallDisk
    ) -> None:
        jobs_disk.fill(leave=120_000)
        stocked.start_real()
        row = stocked.wait_for_end(stocked.submit_spec("merge", merge_spec("mine")), seconds=90)
        assert (row.state, row.error_code, row.attempt) == ("failed", "disk_full", 1), row.error_text
        stocked.wait("its work to go", lambda: not (stocked.settings.jobs / row.id / "work").exists(), 5)
        assert placed(stocked) == ["base", "pirate", "sums"]
        jobs_disk.empty()
        again = stocked.wait_for_end(stocked.submit_spec("merge", merge_spec("mine")), seconds=60)
        assert again.state == "succeeded", again.error_text

    @pytest.mark.case("F2", "the disk fills up while the manifest is written")
    def test_a_model_without_room_for_its_manifest_is_not_published(
        self, lab: Lab, jobs_disk: SmallDisk
    ) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine", fills_the_rest=True)))
        assert (row.state, row.error_code) == ("failed", "disk_full")
        assert "finishing mine" in (row.error_text or "")
        assert_nothing_is_left(lab, row)

    @pytest.mark.case("F3", "the disk of the models fills up while a model is copied to it")
    def test_a_model_that_does_not_fit_on_the_models_disk_is_not_published(
        self, lab: Lab, models_disk: SmallDisk
    ) -> None:
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine", weighs=12 * MEGABYTE)))
        assert (row.state, row.error_code) == ("failed", "disk_full")
        assert "publishing mine" in (row.error_text or "")
        assert_nothing_is_left(lab, row)
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"
        whole_model(lab, "mine")

    @pytest.mark.slow
    @pytest.mark.case("F4", "the disk of the database is full")
    def test_a_lab_whose_database_cannot_grow_refuses_in_words_and_loses_nothing(
        self, data_disk: SmallDisk, lab: Lab
    ) -> None:
        lab.start()
        running = lab.submit(ToySpec(steps=2, step_seconds=4))
        lab.wait("the job to run", lambda: lab.row(running).state == "running")
        with sqlite3.connect(lab.settings.data / "lab.db", timeout=10) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")  # its log has no room of its own then
        data_disk.fill()
        taken = [running]

        def submit_more() -> None:
            for _ in range(500):
                taken.append(lab.submit(ToySpec(steps=0), ring=False))  # noqa: PERF401  all that were taken

        with pytest.raises(Unavailable, match="Free disk space"):
            submit_more()
        assert len(lab.store.jobs.list(limit=1000)) == len(taken)  # it can still be read
        data_disk.empty()
        taken.append(lab.submit(ToySpec(steps=0)))
        for job in taken:
            row = lab.wait_for_end(job, seconds=60)
            assert row.state == "succeeded", row.error_text
            lab.check_events(job)
        with sqlite3.connect(lab.settings.data / "lab.db") as connection:
            assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]

    @pytest.mark.case("F4", "the disk is nearly full when a job is handed in")
    def test_no_job_is_taken_while_only_the_reserve_is_left(self, lab: Lab) -> None:
        free = shutil.disk_usage(lab.settings.data).free // MEGABYTE
        kinds = {"toy": Kind("batch", "toy_kind:run", "web_desk:check")}
        low = lab.settings.model_copy(update={"disk_reserve_mb": free + 1024})
        with pytest.raises(BadInput, match="disk is nearly full"):
            Desk(lab.store, Catalog(lab.store, low), lab.bells, kinds=kinds).submit(ToySpec(), "ada")  # type: ignore[arg-type]
        assert lab.store.jobs.list() == []
        roomy = lab.settings.model_copy(update={"disk_reserve_mb": 0})
        assert Catalog(lab.store, roomy).free_disk_bytes() > 0

    @pytest.mark.case("F5", "the disk fills up while a dataset is uploaded")
    def test_a_dataset_without_room_is_refused_in_words_and_leaves_nothing(
        self, lab: Lab, tmp_path: Path
    ) -> None:
        upload = tmp_path / "upload.jsonl"
        rows = (
            {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "x" * 900}]}
            for n in range(2000)
        )
        upload.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with small_disk(lab.settings.datasets) as disk:
            disk.fill(leave=MEGABYTE)
            with pytest.raises(BadInput, match="No space left") as refused:
                import_dataset(upload, "mine", "ada", lab.store, lab.settings.datasets)
            assert "Nothing was kept of it" in str(refused.value)
            assert disk.free_bytes() > MEGABYTE // 2
            assert lab.store.datasets.list() == []
            disk.empty()
            assert import_dataset(upload, "mine", "ada", lab.store, lab.settings.datasets)[0].name == "mine"

    @pytest.mark.case("F5", "the disk fills up while a model is imported")
    def test_a_model_without_room_is_not_imported(self, tiny: Path, tmp_path: Path) -> None:
        with small_disk(tmp_path / "job") as disk:
            disk.fill(leave=20_000)
            job = FakeJob(root=tmp_path, folder=disk.folder)
            with pytest.raises(JobFailed, match="disk filled up while copying mine") as failed:
                importing.run(ImportSpec(path=str(tiny), name="mine"), job)
            assert failed.value.code == "disk_full"
            assert not list(disk.folder.rglob("*.part"))


class TestBadDisk:
    @pytest.mark.case("F6", "a disk answers with an input/output error")
    @pytest.mark.parametrize("place", ["packed", *slowly("breathe:2", "worked", "placed")])
    def test_an_error_of_the_disk_is_told_in_words_and_nothing_is_published(
        self, lab: Lab, place: str
    ) -> None:
        lab.start(failpoint=f"{place}:eio")
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine")))
        assert (row.state, row.error_code, row.attempt) == ("failed", "disk_fault", 1)
        assert "input/output error" in (row.error_text or "")
        assert_nothing_is_left(lab, row)

    @pytest.mark.case("F7", "the disk of the models can only be read")
    def test_models_that_can_only_be_read_are_told_in_words(self, lab: Lab, models_disk: SmallDisk) -> None:
        if not may_mount():
            lab.start(failpoint="packed:erofs")
            row = lab.wait_for_end(lab.submit(ToySpec(makes="mine")))
            assert "can only be read" in (row.error_text or "")
            return
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(makes="old"))).state == "succeeded"
        with read_only(models_disk):
            row = lab.wait_for_end(lab.submit(ToySpec(makes="mine")))
            assert (row.state, row.error_code) == ("failed", "disk_fault")
            assert "can only be read" in (row.error_text or "")
            assert lab.wait_for_end(lab.submit(ToySpec(reads="old"))).state == "succeeded"  # reading goes on
            whole_model(lab, "old")
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"

    @pytest.mark.case("F12", "the models are on another disk than the jobs' work")
    @pytest.mark.parametrize("failpoint", ["placing:2:kill", *slowly("", "placing:1:kill", "placed:1:kill")])
    def test_a_model_reaches_another_disk_whole_and_once(
        self, lab: Lab, models_disk: SmallDisk, failpoint: str
    ) -> None:
        lab.start(failpoint=failpoint)
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine", weighs=2 * MEGABYTE)))
        assert (row.state, row.crash_count) == ("succeeded", 1 if failpoint else 0), row.error_text
        whole_model(lab, "mine")
        assert parts(lab.settings.models) == ["mine"]
        lab.wait("its work to be removed", lambda: not (lab.settings.jobs / row.id / "work").exists(), 5)


class TestOthers:
    @pytest.mark.case("F8", "a link stands where a model is to be renamed to")
    @pytest.mark.parametrize("to", ["an empty folder", *slowly("a folder", "a file", "nothing")])
    @pytest.mark.parametrize("disks", ["one disk", *slowly("two disks")])
    def test_a_planted_link_is_neither_followed_nor_replaced(
        self, lab: Lab, tmp_path: Path, request: pytest.FixtureRequest, to: str, disks: str
    ) -> None:
        if disks == "two disks":
            request.getfixturevalue("models_disk")
        outside = tmp_path / "outside"
        if to == "a file":
            outside.write_text("precious")
        elif to != "nothing":
            outside.mkdir()
            if to == "a folder":
                (outside / "precious").write_text("kept")
        before = fingerprint(outside)
        link = lab.settings.models / "mine"
        link.symlink_to(outside)
        lab.start()
        row = lab.wait_for_end(lab.submit(ToySpec(makes="mine")))
        assert (row.state, row.error_code) == ("failed", "bad_input")
        assert "already a model named 'mine'" in (row.error_text or "")
        assert link.readlink() == outside
        assert fingerprint(outside) == before
        assert lab.store.models.list() == []

    @pytest.mark.case("F9", "the manifest of a model is changed")
    def test_a_model_whose_manifest_was_changed_is_refused_in_words(self, lab: Lab) -> None:
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"
        manifest = lab.settings.models / "mine" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"words": "a toy"', '"words": "a joy"'))
        words = "The manifest of 'mine' is not the one that was published"
        with pytest.raises(NotFound, match=words):
            Catalog(lab.store, lab.settings).model("mine")
        assert words in Catalog(lab.store, lab.settings).get("mine").fault
        row = lab.wait_for_end(lab.submit(ToySpec(reads="mine")))
        assert (row.state, row.error_code) == ("failed", "bad_input")
        assert words in (row.error_text or "")

    @pytest.mark.case("F9", "a file of a model is cut short, and its manifest is not")
    def test_a_model_that_lost_a_part_of_a_file_is_refused_in_words(self, lab: Lab) -> None:
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine", weighs=1000))).state == "succeeded"
        os.truncate(lab.settings.models / "mine" / "weights.bin", 999)
        row = lab.wait_for_end(lab.submit(ToySpec(reads="mine")))
        assert "weights.bin of 'mine' is not the one that was published" in (row.error_text or "")

    @pytest.mark.case("F9", "a finished model is changed before it is published")
    @pytest.mark.parametrize("file", ["manifest.json", *slowly("weights.bin")])
    @pytest.mark.parametrize("failpoint", ["placed", *slowly("packed")])
    def test_a_finished_model_that_was_changed_is_made_again(
        self, lab: Lab, file: str, failpoint: str
    ) -> None:
        first = lab.start(failpoint=f"{failpoint}:1:sleep")
        job = lab.submit(ToySpec(makes="mine", weighs=1000))
        work, shelf = lab.settings.jobs / job / "work", lab.settings.models / "mine"
        at = shelf if failpoint == "placed" else work / "model"
        lab.wait("the model to be finished", lambda: (work / "shipment.json").exists() and at.exists())
        first.kill()
        lab.wait("everyone to end", lambda: not lab.processes())
        damaged = at / file
        damaged.write_bytes(damaged.read_bytes().replace(b"a toy", b"a joy")[:-1] + b"}")
        lab.start()
        assert lab.wait_for_end(job).state == "succeeded"
        whole_model(lab, "mine")

    @pytest.mark.case("F10", "two jobs publish one name at once")
    def test_of_two_jobs_that_publish_one_name_one_wins_and_the_other_says_so(self, lab: Lab) -> None:
        lab.start()
        lab.start()
        lab.wait("both workers", lambda: len(lab.store.workers.list()) == 2)
        toy = ToySpec(steps=1, makes="mine", promises=False)
        rows = [lab.wait_for_end(job) for job in [lab.submit(toy) for _ in range(6)]]
        (winner,) = [row for row in rows if row.state == "succeeded"]
        losers = [row for row in rows if row.state == "failed"]
        assert len(losers) == 5
        assert all("already a model named 'mine'" in (row.error_text or "") for row in losers)
        whole_model(lab, "mine")
        assert read_manifest(lab.settings.models / "mine").job_id == winner.id

    @pytest.mark.case("F11", "a model is deleted while a job loads it")
    def test_a_job_that_lost_its_model_says_which(self, lab: Lab) -> None:
        lab.start()
        assert lab.wait_for_end(lab.submit(ToySpec(makes="mine"))).state == "succeeded"
        job = lab.submit(ToySpec(steps=1000, step_seconds=0.05, reads="mine"))
        lab.wait_for_step(job)
        Catalog(lab.store, lab.settings).delete("mine")
        row = lab.wait_for_end(job)
        assert (row.state, row.error_code) == ("failed", "model_deleted")
        assert "The model 'mine' was deleted while this job used it" in (row.error_text or "")
        assert parts(lab.settings.models) == []
        refused = lab.wait_for_end(lab.submit(ToySpec(reads="mine")))
        assert (refused.error_code, refused.attempt) == ("bad_input", 1)

    @pytest.mark.case("F11", "a model is deleted while its weights are read")
    def test_weights_that_are_open_are_read_to_their_end(self, stocked: Lab) -> None:
        catalog = Catalog(stocked.store, stocked.settings)
        folder = catalog.model("base")
        with open_weights(folder) as weights:
            open_tensors = [weights.view(name) for name in weights.names()]
            catalog.delete("base")
            assert not folder.exists()
            assert all(tensor.isfinite().all() for tensor in open_tensors)

    @pytest.mark.slow
    @pytest.mark.case("F10", "the name of a model is one that a dead job left standing")
    def test_what_a_dead_job_left_under_a_name_gives_way(self, lab: Lab) -> None:
        first = lab.start(failpoint="placed:1:sleep")
        job = lab.submit(ToySpec(makes="mine"))
        lab.wait("the rename", lambda: placed(lab) == ["mine"])
        first.kill()
        lab.wait("everyone to end", lambda: not lab.processes())
        lab.wait("the lease to lapse", lambda: lab.store.jobs.reap() != [])
        assert lab.store.jobs.request_cancel(job).state == "cancelled"
        assert placed(lab) == ["mine"]
        lab.start()
        following = lab.submit(ToySpec(makes="mine"))
        assert lab.wait_for_end(following).state == "succeeded"
        assert lab.store.models.get("mine").job_id == following
        whole_model(lab, "mine")


def fingerprint(place: Path) -> str:
    """Return a hash of all that lies at a place, and that it is not there if it is not."""
    if not place.exists():
        return "nothing"
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    told = [(str(file), file.read_bytes().hex() if file.is_file() else "") for file in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()
