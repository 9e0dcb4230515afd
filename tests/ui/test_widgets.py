"""What the shared pieces show, and that nothing from outside becomes markup."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ui_rows import NASTY, job, model

from lab.core.errors import Problem
from lab.core.events import Event
from lab.core.spec import free_name
from lab.models.catalog import CatalogEntry
from lab.ui import dataview, jobview, modelcards, widgets
from lab.ui.modelview import name_of, result_links


def lone_tags(html: str) -> bool:
    """Whether the hostile text came through as text only."""
    return "<img" not in html and "&lt;img" in html


@pytest.mark.parametrize(
    "draw",
    [
        lambda: widgets.head(NASTY, "words"),
        lambda: widgets.badge(NASTY),
        lambda: widgets.chips([NASTY]),
        lambda: widgets.button(NASTY, "do", NASTY, sure=NASTY),
        lambda: widgets.empty_state(NASTY, NASTY),
        lambda: widgets.problem_list([Problem("field", NASTY)]),
        lambda: widgets.problem_line([Problem("field", NASTY)]),
        lambda: widgets.note(NASTY),
        lambda: widgets.figures([(NASTY, NASTY)]),
        lambda: widgets.facts([(NASTY, NASTY)]),
        lambda: widgets.fold(NASTY, "", NASTY),
        lambda: widgets.progress_line(job(progress_words=NASTY, title=NASTY)),
        lambda: jobview.row(job(title=NASTY, owner=NASTY), 5.0),
        lambda: jobview.row(job(state="failed", error_text=NASTY), 5.0),
        lambda: jobview.detail(job(device=NASTY, spec={"prompt": NASTY}), [], ""),
        lambda: jobview.event_list([Event("note", {"text": NASTY})]),
        lambda: jobview.live_card(job(title=NASTY)),
        lambda: dataview.tokens_html({"rows": [{"pieces": [[NASTY, True]], "tokens": 1, "cut": False}]}),
        lambda: modelcards.table([entry(words=NASTY)], [], 0.0),
    ],
)  # fmt: skip
def test_text_from_outside_is_escaped(draw: Callable[[], str]) -> None:
    assert lone_tags(draw())


def entry(**changes: object) -> CatalogEntry:
    return CatalogEntry(model(**changes), None, "", ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "kind", "shown"),
    [
        ("queued", "tune", ["cancel"]),
        ("running", "tune", ["stop", "cancel"]),
        ("running", "merge", ["cancel"]),
        ("cancelling", "tune", []),
        ("succeeded", "tune", ["retry"]),
        ("failed", "tune", ["retry"]),
        ("cancelled", "tune", ["retry"]),
    ],
)
def test_only_legal_buttons_are_shown(state: str, kind: str, shown: list[str]) -> None:
    html = jobview.buttons(job(state=state, kind=kind))
    assert [verb for verb in ("stop", "cancel", "retry") if f'data-do="{verb}"' in html] == shown


def test_a_stranger_s_job_has_no_buttons() -> None:
    assert "data-do" not in jobview.detail(job(), [], "", is_mine=False)


def test_a_running_job_says_what_it_does_and_the_time_left() -> None:
    html = widgets.progress_line(job())
    assert "step 3 of 6" in html
    assert "50 % · 3 min 20 s left" in html
    assert 'aria-valuenow="50"' in html


def test_a_job_that_was_stopped_says_that_its_work_is_kept() -> None:
    assert "stopped, kept" in widgets.state_badge(job(state="succeeded", stopped_early=True))


def test_a_press_without_data_is_nothing() -> None:
    assert widgets.pressed(SimpleNamespace(_data=None)) == ("", "")
    assert widgets.pressed(SimpleNamespace(_data={"do": "open", "id": 3})) == ("open", "3")


def test_a_free_name_takes_the_next_number() -> None:
    assert free_name("merged", []) == "merged"
    assert free_name("merged", ["merged", "merged-2"]) == "merged-3"


@pytest.mark.parametrize(
    ("stem", "name"), [("my data (1)", "my-data-1"), ("../x", "x"), ("日本", "examples")]
)
def test_a_file_name_becomes_a_name_that_the_lab_takes(stem: str, name: str) -> None:
    assert name_of(stem) == name


def test_a_result_leads_to_a_comparison_with_its_parents() -> None:
    assert "?view=compare&amp;models=a,b,m" in result_links(model(parents=("a", "b")))
