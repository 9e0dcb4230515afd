"""What a comparison's events amount to, and that what models write stays text."""

from typing import Any

import pytest
from ui_rows import NASTY

from lab.core.events import Event
from lab.ui.transcript import Head, Transcript, as_markdown, columns_html

SPEC: dict[str, Any] = {"models": ["a", "b"], "prompt": "Hello?", "earlier": []}


def event(seq: int, kind: Any, **payload: Any) -> Event:
    return Event(kind, payload, seq=seq)


STORY = [
    event(1, "column", column=0, phase="waiting"),
    event(2, "column", column=0, phase="writing", first_token_seconds=0.42),
    event(3, "delta", column=0, text="The **ca"),
    event(4, "delta", column=1, text="Arr"),
    event(5, "delta", column=0, text="pital**"),
    event(6, "column", column=0, phase="done", tokens=7, tokens_per_second=26.04, stop_reason="length"),
]


def drawn(transcript: Transcript, spec: dict[str, Any] = SPEC) -> str:
    return columns_html("run1", spec, transcript, [Head("a", "base"), Head("b", "lora")], 1.25)


def test_columns_grow_at_their_own_pace() -> None:
    transcript = Transcript.of(SPEC)
    assert transcript.add(STORY)
    assert transcript.answers == ("The **capital**", "Arr")
    assert [column.phase for column in transcript.columns] == ["done", "writing"]


def test_events_read_twice_or_in_pieces_give_the_same_answer() -> None:
    whole, pieces = Transcript.of(SPEC), Transcript.of(SPEC)
    whole.add(STORY)
    for end in range(1, 7):
        pieces.add(STORY[:end])
    assert not pieces.add(STORY)
    assert pieces == whole


def test_a_finished_column_is_markdown_and_one_that_writes_is_plain() -> None:
    transcript = Transcript.of(SPEC)
    transcript.add(STORY[:5])
    assert "The **capital**" in drawn(transcript)
    transcript.add(STORY)
    assert "<strong>capital</strong>" in drawn(transcript)


def test_the_header_says_speed_tokens_and_why_it_stopped() -> None:
    transcript = Transcript.of(SPEC)
    transcript.add(STORY)
    html = drawn(transcript)
    for words in ("first token 0.4 s", "26.0 tok/s", "7 tokens", "cut at the limit", "writing"):
        assert words in html


def test_a_column_without_a_token_shows_a_clock_from_when_it_was_asked() -> None:
    html = drawn(Transcript.of(SPEC))
    assert html.count('data-seconds="1.2"') == 2


def test_the_run_goes_into_the_address() -> None:
    assert 'data-address="run" data-value="run1"' in drawn(Transcript.of(SPEC))


def test_earlier_turns_are_shown_to_the_column_that_said_them() -> None:
    spec = {**SPEC, "earlier": [{"prompt": "First?", "answers": ["one", "two"]}]}
    first, second = drawn(Transcript.of(spec), spec).split("</article>")[:2]
    assert "<p>one</p>" in first
    assert "<p>two</p>" not in first
    assert "<p>two</p>" in second


def test_a_column_that_failed_says_why_once() -> None:
    transcript = Transcript.of(SPEC)
    transcript.add([
        event(1, "note", text="a: The memory ran out.", level="warning"),
        event(2, "column", column=0, phase="done", stop_reason="failed", failure="The memory ran out."),
    ])  # fmt: skip
    assert drawn(transcript).count("The memory ran out.") == 1


def test_an_event_for_a_column_that_is_not_there_changes_nothing() -> None:
    transcript = Transcript.of(SPEC)
    transcript.add([event(1, "delta", column=7, text="x"), event(2, "delta", column=-1, text="y")])
    assert transcript.answers == ("", "")


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    transcript = Transcript.of({**SPEC, "models": [NASTY, "b"]})
    transcript.add([event(1, "delta", column=0, text=NASTY)])
    spec = {**SPEC, "prompt": NASTY}
    for _ in range(2):  # while it streams, and when it has ended
        html = columns_html(NASTY, spec, transcript, [Head(NASTY, NASTY), Head("b")])
        assert "<img" not in html
        assert "&lt;img" in html
        transcript.close()


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "![x](http://evil.example/beacon.png)",
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
        "```html\n<script>alert(1)</script>\n```",
        "<!-- --><svg/onload=alert(1)>",
        'a [b](http://x "onmouseover=alert(1) ")',
    ],
)
def test_markdown_gives_no_element_or_address_that_acts(text: str) -> None:
    html = as_markdown(text).lower()
    for bad in ("<script", "<img", "<svg", 'href="javascript', 'href="data', "<!--"):
        assert bad not in html


def test_links_open_elsewhere_and_tell_nothing() -> None:
    assert 'rel="noopener noreferrer nofollow" target="_blank"' in as_markdown("[x](https://example.org)")
