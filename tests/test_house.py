"""What a visitor of a hosted demo may do, and how long it is kept."""

from pathlib import Path

import pytest
from sqlalchemy import text

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput, NotFound
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.rows import ModelRow
from lab.house import HOUSE_OWNER, DemoHouse, clear_table
from lab.models.catalog import Catalog
from lab.models.spec import ImportSpec
from lab.tune.spec import TuneSpec

ADA, BOB = "visitor-aaaa-0001", "visitor-bbbb-0002"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings)


def publish(store: Store, name: str, owner: str) -> str:
    new = NewJob(owner, name, "merge", "batch", "t", {}, "0" * 64, resumable=True)
    store.jobs.insert(new)
    job = store.jobs.claim("batch", "w", "cpu")
    assert job is not None
    row = ModelRow(name, "base", owner, (), "", {}, 1, "0" * 64, job.id, 0.0)
    store.jobs.succeed(job.id, 1, Success(models=[row]))
    return job.id


def small_tune(**changes: object) -> TuneSpec:
    fields = {"model": "starter", "dataset": "d", "name": "mine", "max_steps": 30, "max_length": 128}
    return TuneSpec(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_small_job_on_the_starter_model_is_welcome(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    DemoHouse(store).gate(small_tune(), ADA)
    DemoHouse(store).gate(CompareSpec(models=("starter",), prompt="hi", max_new_tokens=64), ADA)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_steps": 61}, "max_steps"),
        ({"max_steps": None}, "max_steps"),
        ({"rank": 64}, "rank"),
        ({"max_length": None}, "max_length"),
    ],
)
def test_a_job_over_the_budget_is_refused_naming_the_field(
    store: Store, change: dict[str, object], field: str
) -> None:
    publish(store, "starter", HOUSE_OWNER)
    with pytest.raises(BadInput, match="In this demo it is") as refused:
        DemoHouse(store).gate(small_tune(**change), ADA)
    assert refused.value.field == field


def test_a_visitor_has_one_job_at_a_time_by_cookie_or_by_address(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    store.jobs.insert(NewJob(ADA, "k", "tune", "batch", "a tune", {}, "0" * 64, resumable=True))
    house = DemoHouse(store)
    for same_person in (ADA, "visitor-aaaa-9999", "visitor-cccc-0001"):
        with pytest.raises(BadInput, match="one at a time"):
            house.gate(small_tune(), same_person)
    house.gate(small_tune(), BOB)


def test_other_visitors_models_and_imports_are_out_of_reach(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    publish(store, "adas", ADA)
    with pytest.raises(BadInput, match="not one of yours"):
        DemoHouse(store).gate(small_tune(model="adas"), BOB)
    with pytest.raises(BadInput, match="Imports are off"):
        DemoHouse(store).gate(ImportSpec(path="/etc", name="x"), BOB)


def test_what_visitors_made_is_wiped_after_an_hour_and_the_starter_stays(
    store: Store, settings: Settings
) -> None:
    publish(store, "starter", HOUSE_OWNER)
    job = publish(store, "adas", ADA)
    catalog = Catalog(store, settings)
    for name in ("starter", "adas"):
        (settings.models / name).mkdir()
    clear_table(store, catalog, settings.jobs)
    assert len(store.models.list()) == 2
    with store.database.write() as connection:
        connection.execute(text("DROP TRIGGER jobs_terminal_is_final"))
        connection.execute(text("UPDATE jobs SET finished = finished - 3700"))
        connection.execute(text("UPDATE models SET created = created - 3700"))
    clear_table(store, catalog, settings.jobs)
    assert [row.name for row in store.models.list()] == ["starter"]
    with pytest.raises(NotFound):
        store.jobs.get(job)
