"""What a waiting job waits for, in words."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ui_rows import job

from lab.core.errors import BadInput
from lab.core.line import FIRST, HIGH, Standing
from lab.core.store.rows import PauseRow
from lab.ui import jobview, widgets
from lab.ui.pages.jobs import _Jobs
from lab.ui.services import Who
from lab.ui.waiting import pause_html, pause_words, position_words, start_words, words_of

PAUSED = {lane: PauseRow(lane, "local", 100.0) for lane in ("batch", "chat")}


@pytest.mark.parametrize(
    ("position", "words"),
    [(1, "next"), (2, "second"), (10, "tenth"), (11, "11th"), (21, "21st"), (112, "112th"), (103, "103rd")],
)
def test_a_position_is_a_word(position: int, words: str) -> None:
    assert position_words(position) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "its start is not known yet"),
        (2.0, "starts in a moment"),
        (43.0, "starts in about 45 s"),
        (170.0, "starts in about 3 min"),
        (4000.0, "starts in about 1 h 10 min"),
    ],
)
def test_a_start_is_told_as_roughly_as_it_is_known(seconds: float | None, words: str) -> None:
    assert start_words(seconds) == words


def test_what_a_job_waits_for_is_its_place_and_what_holds_it_up() -> None:
    waiting = job(state="queued")
    assert words_of(waiting, Standing(2, 180.0), is_paused=False) == "second in line, starts in about 3 min"
    assert words_of(waiting, Standing(1, None), is_paused=True) == "next in line; the queue is paused"
    blocked = job(state="queued", waits_for="waits for 4.0 GB on CPU")
    assert words_of(blocked, Standing(1, 5.0), is_paused=False) == "next in line, waits for 4.0 GB on CPU"


def test_a_pause_is_told_to_everybody_and_its_switch_to_operators_only() -> None:
    words = pause_words(PAUSED, 400.0)
    assert words == "The queue was paused 5 min ago: waiting jobs do not start. Running jobs go on."
    told = pause_html(PAUSED, 400.0, is_operator=False)
    assert words in told
    assert "<button" not in told
    assert "Resume everything" in pause_html(PAUSED, 400.0, is_operator=True)
    assert pause_html({}, 0.0, is_operator=False) == ""
    assert pause_html({}, 0.0, is_operator=True).count('data-do="pause"') == 3


def test_one_paused_lane_is_named() -> None:
    half = {"chat": PAUSED["chat"]}
    assert "5 min ago for comparisons and previews:" in pause_words(half, 400.0)
    assert "Resume comparisons and previews" in pause_html(half, 400.0, is_operator=True)


def test_a_waiting_job_says_what_it_waits_for_and_a_running_one_what_it_does() -> None:
    assert "second in line" in widgets.progress_line(job(state="queued", progress_words=""), "second in line")
    assert "merging" in widgets.progress_line(job(state="running", progress_words="merging"), "x")


def test_the_first_own_job_can_only_go_down_and_the_last_only_up() -> None:
    first = jobview.move_buttons(job(state="queued", id="j"), is_top=True, is_last=False)
    assert first.index("disabled") < first.index('data-do="down"')
    last = jobview.move_buttons(job(state="queued", id="j"), is_top=False, is_last=True)
    assert last.index("disabled") > last.index('data-do="down"')


def test_priorities_are_for_the_owner_and_the_front_for_an_operator() -> None:
    waiting = job(state="queued", priority=HIGH)
    mine = jobview.line_buttons(waiting, is_mine=True, is_operator=False)
    assert mine.count("data-do") == 3
    assert 'aria-pressed="true">High' in mine
    assert jobview.line_buttons(waiting, is_mine=False, is_operator=True).count('data-do="first"') == 1
    assert "data-do" not in jobview.line_buttons(
        job(state="queued", priority=FIRST), is_mine=True, is_operator=True
    )
    assert jobview.line_buttons(job(state="running"), is_mine=True, is_operator=True) == ""


@pytest.mark.parametrize("verb", ["first", "pause", "resume"])
def test_only_an_operator_pauses_the_queue_or_puts_a_job_first(verb: str) -> None:
    desk = SimpleNamespace(cancel=None, stop=None, retry=None)
    page = _Jobs(cast(Any, SimpleNamespace(desk=desk)))
    with pytest.raises(BadInput, match="no operator"):
        page._operate(verb, "", Who("visitor-x-y", is_local=False, is_visitor=True))
