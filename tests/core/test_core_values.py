"""Specs, registries, problems, settings and event buffers."""

import threading
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from lab.core.errors import BadInput, Fenced, UnknownName, problems_of
from lab.core.events import EventBuffer, NewEvent, coalesce
from lab.core.registry import Registry
from lab.core.settings import read_settings
from lab.core.spec import JobSpec, LabName, canonical_json, spec_sha256, strict_json


class Toy(JobSpec):
    kind: Literal["toy"] = "toy"
    name: LabName = "m"
    weight: Annotated[float, Field(gt=0)] = 1.0


def test_a_spec_is_spelled_in_one_way_with_its_defaults_written_in() -> None:
    assert canonical_json(Toy()) == '{"kind":"toy","name":"m","weight":1.0}'
    assert spec_sha256(Toy()) == spec_sha256(Toy(weight=1.0, name="m"))


@pytest.mark.parametrize("bad", [{"weigth": 2}, {"weight": float("nan")}, {"weight": 0}, {"weight": "x"}])
def test_a_spec_refuses_unknown_keys_nan_and_bounds_naming_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        Toy(**bad)  # type: ignore[arg-type]
    assert [problem.field for problem in problems_of(refused.value)] == list(bad)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "..", ".", "a" * 65, "naïve", "a b", "file://x"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Toy(name=name)


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"a": NaN}', "NaN"), ("[1e999]", "too large"), ('{"a":1,"a":2}', "twice"), ("[" * 99999, "deeply")],
)
def test_json_that_the_standard_does_not_allow_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json(text)


def test_an_unknown_name_comes_with_the_nearest_and_all_known() -> None:
    registry: Registry[int] = Registry("merge method")
    registry.add("linear", 1)
    registry.add("ties", 2)
    with pytest.raises(
        UnknownName, match=r"no merge method 'tise'. Did you mean 'ties'\? Known: linear, ties"
    ):
        registry["tise"]


def test_a_name_registers_once() -> None:
    registry: Registry[int] = Registry("metric")
    registry.add("a", 1)
    with pytest.raises(ValueError, match="already a metric named 'a'"):
        registry.add("a", 2)


def test_a_problem_says_what_was_seen_expected_and_what_to_do() -> None:
    error = BadInput("The rank is 0.", "It must be 1 or more.", "Use 16.", field="r")
    (problem,) = problems_of(error)
    assert (problem.field, problem.message) == ("r", "The rank is 0. It must be 1 or more. Use 16.")


def test_another_interface_without_a_login_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("LAB_HOST", "0.0.0.0")
    with pytest.raises(BadInput, match=r"listens on 127.0.0.1 only"):
        read_settings()


def test_a_hosted_space_serves_everyone_on_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "ada/crucible")
    settings = read_settings()
    assert (settings.host, settings.port, settings.space) == ("0.0.0.0", 7860, True)


def test_neighbouring_deltas_of_a_column_join_and_columns_stay_apart() -> None:
    events = [
        NewEvent("delta", {"column": 0, "text": "Ahoy"}),
        NewEvent("delta", {"column": 1, "text": "The"}),
        NewEvent("delta", {"column": 0, "text": ", matey"}),
        NewEvent("column", {"column": 0, "phase": "done"}),
        NewEvent("delta", {"column": 0, "text": "!"}),
    ]
    texts = [(event.kind, event.payload.get("text")) for event in coalesce(events)]
    assert texts == [("delta", "Ahoy, matey"), ("delta", "The"), ("column", None), ("delta", "!")]


def test_a_buffer_writes_everything_in_order_in_few_batches() -> None:
    batches: list[list[NewEvent]] = []
    buffer = EventBuffer(batches.append)
    for n in range(1000):
        buffer.emit("metric", step=n, values={})
    buffer.close()
    assert [event.payload["step"] for batch in batches for event in batch] == list(range(1000))
    assert len(batches) < 20


def test_a_fenced_write_is_raised_where_the_job_runs() -> None:
    failed = threading.Event()

    def write(batch: list[NewEvent]) -> None:
        failed.set()
        raise Fenced("not yours")

    buffer = EventBuffer(write)
    buffer.emit("note", text="x")
    failed.wait(5)
    with pytest.raises(Fenced):
        buffer.close()
