"""What a visitor of a hosted demo may do, and how long it is kept."""

from pathlib import Path

import pytest
from sqlalchemy import text

from lab.compare.spec import CompareSpec
from lab.core.errors import BadInput, NotFound
from lab.core.settings import Settings
from lab.core.spec import JobSpec
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.rows import DatasetRow, ModelRow
from lab.house import HOUSE_OWNER, LIMITS, DemoHouse, clear_table, fields_of, sentence
from lab.merge.spec import MergeSpec, merge_of
from lab.models.catalog import Catalog
from lab.models.spec import ImportSpec
from lab.score.spec import ScoreSpec
from lab.search.spec import Range, SearchSpec
from lab.tune.spec import TuneSpec
from lab.ui.form import bounds

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


def keep_data(store: Store, name: str, owner: str, rows: int = 10, size: int = 100) -> None:
    store.datasets.insert(DatasetRow(name, owner, {"rows": rows}, size, "0" * 64, 0.0))


def house_starts(spec: type[JobSpec]) -> dict[str, object]:
    """Return what the forms of a demo start with."""
    fields = fields_of(spec)
    return {name: fields[name].default for name in LIMITS[spec]}


def small_tune(**changes: object) -> TuneSpec:
    fields = {"model": "starter", "dataset": "d", "name": "mine", **house_starts(TuneSpec)}
    return TuneSpec(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_the_forms_start_with_is_welcome(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    keep_data(store, "d", ADA)
    DemoHouse(store).gate(small_tune(), ADA)
    DemoHouse(store).gate(CompareSpec(models=("starter",), prompt="hi", **house_starts(CompareSpec)), ADA)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_steps": 61}, "max_steps"),
        ({"max_steps": None}, "max_steps"),
        ({"rank": 64}, "rank"),
        ({"max_length": None}, "max_length"),
        ({"batch": 17}, "batch"),
        ({"held_out": 33}, "held_out"),
    ],
)
def test_a_job_over_the_budget_is_refused_naming_the_field(
    store: Store, change: dict[str, object], field: str
) -> None:
    publish(store, "starter", HOUSE_OWNER)
    keep_data(store, "d", ADA)
    for ask in (DemoHouse(store).gate, DemoHouse(store).rules):
        with pytest.raises(BadInput, match="In this demo it is") as refused:
            ask(small_tune(**change), ADA)
        assert refused.value.field == field


@pytest.mark.parametrize("spec", LIMITS)
def test_a_form_starts_within_its_bounds_and_says_how_far_it_goes(spec: type[JobSpec]) -> None:
    fields = fields_of(spec)
    assert list(fields) == list(spec.model_fields)
    for name, limit in LIMITS[spec].items():
        assert fields[name].default == limit.start <= limit.most == bounds(fields[name])[1]
        assert f"At most {limit.most} in this demo" in (fields[name].description or "")
        assert spec.model_fields[name].description != fields[name].description
        assert f"{limit.most} {limit.unit}" in sentence(spec)


def test_large_data_and_stacks_of_layers_are_refused(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    keep_data(store, "long", ADA, rows=501)
    keep_data(store, "heavy", ADA, size=100_001)
    house = DemoHouse(store)
    with pytest.raises(BadInput, match=r"You asked for 501 rows. In this demo it is 500 at most"):
        house.gate(small_tune(dataset="long"), ADA)
    house.gate(small_tune(dataset="heavy"), ADA)
    with pytest.raises(BadInput, match="100,001 bytes to score on"):
        house.gate(ScoreSpec(models=("starter",), text="heavy"), ADA)
    house.gate(ScoreSpec(models=("starter",)), ADA)
    stack = [{"sources": [{"model": "starter", "layer_range": [0, 30]}]}] * 3
    with pytest.raises(BadInput, match="You asked for 90 layers"):
        house.gate(MergeSpec.model_validate({"name": "m", "method": "passthrough", "slices": stack}), ADA)


def test_a_visitor_makes_six_models_and_no_more(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    keep_data(store, "d", ADA)
    for number in range(6):
        publish(store, f"m{number}", ADA)
    with pytest.raises(BadInput, match=r"already have 6 models.*Delete one"):
        DemoHouse(store).gate(small_tune(), ADA)
    DemoHouse(store).gate(CompareSpec(models=("m1",), prompt="hi"), ADA)


def test_a_visitor_has_one_job_at_a_time_by_cookie_or_by_address(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    store.jobs.insert(NewJob(ADA, "k", "tune", "batch", "a tune", {}, "0" * 64, resumable=True))
    for one in (ADA, BOB):
        keep_data(store, f"d-{one}", one)
    house = DemoHouse(store)
    for same_person in (ADA, "visitor-aaaa-9999", "visitor-cccc-0001"):
        with pytest.raises(BadInput, match="one at a time"):
            house.gate(small_tune(), same_person)
    house.gate(small_tune(dataset=f"d-{BOB}"), BOB)


def test_other_visitors_models_data_and_imports_are_out_of_reach(store: Store) -> None:
    publish(store, "starter", HOUSE_OWNER)
    publish(store, "adas", ADA)
    with pytest.raises(BadInput, match="not one of yours"):
        DemoHouse(store).gate(small_tune(model="adas"), BOB)
    keep_data(store, "adas-data", ADA)
    for data in ("adas-data", "/etc/passwd"):
        with pytest.raises(BadInput, match="is not yours"):
            DemoHouse(store).gate(small_tune(dataset=data), BOB)
        with pytest.raises(BadInput, match="is not yours"):
            DemoHouse(store).gate(ScoreSpec(models=("starter",), text=data), BOB)
    with pytest.raises(BadInput, match="Imports are off"):
        DemoHouse(store).gate(ImportSpec(path="/etc", name="x"), BOB)


def test_a_visitor_cannot_search(store: Store) -> None:
    recipe = merge_of("linear", [("starter", 1.0)], name="mine")
    vary = (Range(knob="weight", model="starter", low=0, high=1),)
    with pytest.raises(BadInput, match="Searches are off"):
        DemoHouse(store).gate(SearchSpec(recipe=recipe, vary=vary, data="d"), ADA)


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
