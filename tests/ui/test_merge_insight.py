"""The look of the Merge page at the form's models: found again, begun once, and left when models change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from family_of_models import family

from lab.core.events import NewEvent
from lab.core.settings import Settings
from lab.core.store import Success
from lab.jobs import Desk
from lab.merge.inspect.kinship import measure
from lab.merge.inspect.report import Figures
from lab.models.catalog import Catalog
from lab.ui.mergeform import Filled
from lab.ui.pages.mergeinsight import _Insight
from lab.ui.services import Services


@dataclass
class QuietBell:
    def ring(self, job_id: str) -> None:
        pass


@dataclass
class Press:
    """A button of a board."""

    do: str
    id: str = ""
    _data: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._data = {"do": self.do, "id": self.id}


REQUEST: Any = None
ONE = Filled("ties", (("left", 1.0),), base="right")
OTHER = Filled("ties", (("both", 1.0),), base="right")


@pytest.fixture
def page(tmp_path: Path) -> _Insight:
    store, settings = family(tmp_path), Settings(data=tmp_path)
    catalog = Catalog(store, settings)
    desk = Desk(store, catalog, {"batch": QuietBell(), "chat": QuietBell()})
    return _Insight(Services(settings, store, catalog, desk), lambda given: given[0])


def press(page: _Insight, do: str, filled: Filled, job: str = "") -> tuple[Any, ...]:
    return page.press(Press(do, job), job, REQUEST, filled)  # type: ignore[arg-type]


def test_a_look_is_begun_once_for_the_same_models(page: _Insight) -> None:
    job, follows, problems = press(page, "look", ONE)
    assert (follows, problems) == (True, "")
    assert press(page, "look", ONE)[0] == job
    row = page.services.store.jobs.get(job)
    assert (row.kind, row.spec["base"], row.spec["models"]) == ("inspect", "right", ["left"])
    assert all(row.spec["manifests"])


def test_other_models_end_a_look_under_way_and_begin_their_own(page: _Insight) -> None:
    first = press(page, "look", ONE)[0]
    second, _ = page.follow(first, True, REQUEST, OTHER)
    jobs = page.services.store.jobs
    assert jobs.get(first).state == "cancelled"
    assert jobs.get(second).spec["models"] == ["both"]
    assert page.follow(second, True, REQUEST, OTHER)[0] == second


def test_a_finished_look_is_found_again_without_a_new_job(page: _Insight) -> None:
    first = press(page, "look", ONE)[0]
    jobs = page.services.store.jobs
    claimed = jobs.claim("batch", "w", "cpu")
    assert claimed is not None
    jobs.append(first, 1, [NewEvent("figures", {"tensors": [figures().as_json()]})])
    said = [{"text": "left has moved.", "look": "calm"}]
    jobs.succeed(first, 1, Success({"sentences": said, "read": 4, "elements": 4, "tensors": 1}))
    assert page.follow("", False, REQUEST, ONE)[0] == first
    assert page.follow("", False, REQUEST, OTHER)[0] == ""
    board, body, view, *_ = page.draw(first, None, "", (), REQUEST)
    assert "left has moved." in board
    assert "Every weight of 1 tensor was read" in board
    assert body.visible
    assert [key for _, key in view.choices] == ["d0"]


def figures() -> Figures:
    base = torch.tensor([1.0, 2.0, 3.0, 4.0])
    return Figures("model.layers.0.mlp.up_proj.weight", 4, measure(base, base[None] + 0.5), 4)


def test_a_form_with_one_model_says_what_is_missing_and_begins_nothing(page: _Insight) -> None:
    job, _, problems = press(page, "look", Filled("ties", (("left", 1.0),), base="left"))
    assert job == ""
    assert "Choose a second" in problems
    running = press(page, "look", ONE)[0]
    assert page.follow(running, True, REQUEST, Filled("ties", ()))[0] == ""
    assert page.services.store.jobs.get(running).state == "cancelled"


def test_a_drawn_look_is_not_sent_again(page: _Insight) -> None:
    job = press(page, "look", ONE)[0]
    *first, seen = page.draw(job, None, "", (), REQUEST)
    assert "weights of left against right" in first[0]
    *again, _ = page.draw(job, None, "", seen, REQUEST)
    assert not any(isinstance(one, str) for one in again)
