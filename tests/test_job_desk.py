"""The desk: what is checked before a job is queued, and who may do what with it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from fakes import FakeShelf
from pydantic import Field, ValidationError

from lab.core.errors import BadInput, Conflict, NotFound
from lab.core.job import Shelf
from lab.core.spec import JobSpec
from lab.core.store import Store, Success
from lab.core.store.rows import ModelRow
from lab.jobs import KINDS, Desk, Kind, parse_spec


class ToySpec(JobSpec):
    kind: Literal["toy"] = "toy"
    steps: Annotated[int, Field(ge=0)] = 1
    name: str = ""

    @property
    def title(self) -> str:
        return f"toy of {self.steps}"

    def models_made(self) -> tuple[str, ...]:
        return (self.name,) if self.name else ()


def check_toy(spec: ToySpec, shelf: Shelf) -> int:
    if spec.steps > 10:
        raise BadInput("Too many steps.", "10 at most.", "Ask for fewer.", field="steps")
    return spec.steps


class RingCounter:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, job_id: str) -> None:
        self.rung.append(job_id)


@pytest.fixture
def bell() -> RingCounter:
    return RingCounter()


@pytest.fixture
def desk(tmp_path: Path, bell: RingCounter) -> Desk:
    store = Store(f"sqlite:///{tmp_path / 'lab.db'}")
    store.database.migrate()
    toy = Kind("batch", "test_job_desk:run_toy", "test_job_desk:check_toy")
    return Desk(store, FakeShelf(root=tmp_path), {"batch": bell}, kinds={"toy": toy})


def test_nothing_is_taken_while_the_disk_is_nearly_full(desk: Desk, bell: RingCounter) -> None:
    full = replace(desk, shelf=FakeShelf(root=Path(), free_disk=0))
    with pytest.raises(BadInput, match="disk is nearly full"):
        full.submit(ToySpec(), "ada")
    assert (desk.store.jobs.list(), bell.rung) == ([], [])


def test_a_submitted_job_is_in_the_store_before_its_bell_rings(desk: Desk, bell: RingCounter) -> None:
    job = desk.submit(ToySpec(), "ada")
    assert desk.store.jobs.get(job.id).state == "queued"
    assert bell.rung == [job.id]


def test_what_the_check_refuses_is_never_queued(desk: Desk, bell: RingCounter) -> None:
    with pytest.raises(BadInput, match="10 at most") as refused:
        desk.submit(ToySpec(steps=11), "ada")
    assert refused.value.field == "steps"
    assert desk.store.jobs.list() == []
    assert bell.rung == []


def test_a_double_click_is_one_job_and_one_ring(desk: Desk, bell: RingCounter) -> None:
    first = desk.submit(ToySpec(), "ada", key="click")
    second = desk.submit(ToySpec(), "ada", key="click")
    assert first.id == second.id
    assert bell.rung == [first.id]


def test_nobody_can_touch_somebody_elses_job(desk: Desk) -> None:
    job = desk.submit(ToySpec(), "ada")
    for verb in (desk.cancel, desk.stop, desk.retry):
        with pytest.raises(NotFound):
            verb(job.id, "bob")
    assert desk.store.jobs.get(job.id).state == "queued"


def test_a_retry_is_a_new_job_that_names_its_parent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.jobs.parse_spec", ToySpec.model_validate)
    job = desk.submit(ToySpec(steps=3), "ada")
    with pytest.raises(BadInput, match="still queued"):
        desk.retry(job.id, "ada")
    desk.cancel(job.id, "ada")
    again = desk.retry(job.id, "ada")
    assert (again.parent_id, again.state, again.spec) == (job.id, "queued", job.spec)


def test_a_retry_of_a_done_job_makes_its_model_under_the_next_free_name(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.jobs.parse_spec", ToySpec.model_validate)
    job = desk.submit(ToySpec(name="m"), "ada")
    desk.store.jobs.claim("batch", "w", "cpu")
    row = ModelRow("m", "merge", "ada", (), "", {}, 1, "0" * 64, job.id, 0.0)
    desk.store.jobs.succeed(job.id, 1, Success(models=(row,)))
    assert desk.retry(job.id, "ada").spec["name"] == "m-2"


def test_two_jobs_cannot_make_the_same_model(desk: Desk) -> None:
    desk.submit(ToySpec(name="m"), "ada")
    with pytest.raises(Conflict, match="already making 'm'"):
        desk.submit(ToySpec(name="m", steps=2), "ada")


def test_the_same_wish_is_found_again_until_it_fails(desk: Desk) -> None:
    job = desk.submit_once(ToySpec(), "ada")
    desk.store.jobs.claim("batch", "w", "cpu")
    assert desk.submit_once(ToySpec(), "ada").id == job.id
    desk.store.jobs.succeed(job.id, 1, Success())
    assert desk.submit_once(ToySpec(), "ada").id == job.id
    assert desk.submit_once(ToySpec(steps=2), "ada").id != job.id


def test_a_house_rule_is_asked_first(desk: Desk) -> None:
    def shut(spec: JobSpec, owner: str) -> None:
        raise BadInput(f"{owner} has a job already.")

    with pytest.raises(BadInput, match="ada has a job already"):
        Desk(desk.store, desk.shelf, desk.bells, shut, desk.kinds).submit(ToySpec(), "ada")


def test_the_rules_of_the_house_are_asked_while_somebody_fills_in_a_form(desk: Desk) -> None:
    def narrow(spec: JobSpec, owner: str) -> None:
        raise BadInput(f"{owner} may not.")

    ruled = replace(desk, rules=narrow)
    with pytest.raises(BadInput, match="ada may not"):
        ruled.check(ToySpec(), "ada")
    ruled.check(ToySpec())


def test_every_kind_has_a_spec_and_a_check_that_can_be_loaded() -> None:
    for name, kind in KINDS.items():
        assert callable(kind.load_check())
        with pytest.raises(ValidationError) as refused:
            parse_spec({"kind": name, "no such field": 1})
        assert "no such field" in str(refused.value)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        parse_spec({"kind": "mine bitcoin"})
