"""The Compare page by clicking: files to score on, changes while answers stream, and a live merge."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_lab import RunningLab

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(180)]

STARTER = "smollm2-135m-instruct"
QUESTIONS = [
    {"question": "What colour is the sky on a clear day?", "choices": ["green", "blue"], "answer": 1},
    {"question": "How many legs has a dog?", "choices": ["four", "nine"], "answer": 0},
    {"question": "What do cows drink?", "choices": ["water", "petrol"], "answer": 0},
]
TEXTS = [{"text": "The sea is wide and the ship is small."}, {"text": "Rain falls on the roof at night."}]
INTERVAL = """(id) => {
  const plot = document.querySelector(`#lab-chart-${id} .js-plotly-plot`);
  const bars = (plot?.data || []).filter((one) => one.error_x?.array?.length || one.error_y?.array?.length);
  return bars.length > 0;
}"""


@pytest.fixture
def compare(lab: RunningLab, page: Page) -> Page:
    lab.open(page, "compare")
    expect(page.locator("#lab-compare-models")).to_contain_text(STARTER, timeout=120_000)
    expect(page.locator("#lab-score-texts input")).to_have_value("5 short texts")
    return page


def only_the_starter(page: Page) -> None:
    chips = page.locator("#lab-compare-models .token")
    while chips.count() > 1:
        count = chips.count()
        chips.last.locator(".token-remove").click()
        expect(chips).to_have_count(count - 1)
    expect(chips).to_have_text(STARTER)


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bring(page: Page, which: str, file: Path) -> None:
    page.locator(f"input[type=file]:has(+ #lab-score-{which}-file)").set_input_files(file)


def test_files_of_ones_own_are_uploaded_and_scored_on(compare: Page, tmp_path: Path) -> None:
    only_the_starter(compare)
    bring(compare, "questions", write_lines(tmp_path / "my questions.jsonl", QUESTIONS))
    expect(compare.locator("#lab-score-questions input")).to_have_value(re.compile("^my-questions"))
    bring(compare, "texts", write_lines(tmp_path / "my-texts.jsonl", TEXTS))
    expect(compare.locator("#lab-score-texts input")).to_have_value(re.compile("^my-texts"))
    compare.locator("#lab-score").click()
    compare.wait_for_function(f"({INTERVAL})('accuracy') && ({INTERVAL})('bits_per_byte')", timeout=90_000)
    expect(compare.locator("#lab-chart-accuracy")).to_contain_text("Accuracy")


def test_a_broken_file_is_refused_where_it_was_brought_and_the_form_is_kept(
    compare: Page, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(
        json.dumps(QUESTIONS[0]) + '\n{"question": "And?", "choices": ["yes", "no"], "answer": 2}\n{\n'
    )
    bring(compare, "questions", broken)
    problem = compare.locator("#lab-score-problems")
    expect(problem).to_contain_text("broken.jsonl has lines that can't be scored")
    expect(problem).to_contain_text("line 2: answer is 2")
    expect(problem).to_contain_text("line 3: it is not JSON")
    expect(problem).to_be_in_viewport()
    expect(compare.locator("#lab-score-questions input")).to_have_value("40 everyday questions")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    bring(compare, "texts", empty)
    expect(problem).to_contain_text("empty.jsonl has no rows")
    expect(compare.locator("#lab-score-texts input")).to_have_value("5 short texts")


def test_what_is_changed_while_an_answer_streams_stays_and_nothing_written_is_lost(
    lab: RunningLab, compare: Page
) -> None:
    only_the_starter(compare)
    compare.get_by_label("Longest answer").first.fill("400")
    compare.get_by_label("Temperature").first.fill("0")
    question = compare.locator("#lab-question textarea")
    question.fill("Tell me a long story about the sea.")
    compare.locator("#lab-ask-button").click()
    answer = compare.locator(".lab-answer")
    expect(answer).to_contain_text(re.compile(r"\w+ \w+ \w+ \w+"))
    expect(question).to_have_value("")
    question.fill("And about the moon?")
    compare.locator("#lab-compare-models .token-remove").first.click()
    expect(compare.locator("#lab-compare-models .token")).to_have_count(0)
    early = answer.inner_text()
    compare.reload()
    expect(compare.locator("#lab-compare-models .token")).to_have_text(STARTER)
    compare.wait_for_function(
        "(start) => document.querySelector('.lab-answer')?.textContent.startsWith(start)", arg=early[:20]
    )
    question.fill("And about the moon?")
    compare.locator("#lab-compare-models .token-remove").first.click()
    compare.wait_for_function(
        "(words) => document.querySelector('.lab-answer').textContent.split(' ').length > words",
        arg=len(early.split()) + 15,
    )
    compare.locator("#lab-stop").click()
    expect(compare.locator('.lab-column[data-phase="done"]')).to_have_count(1)
    expect(compare.locator("#lab-compare-models .token")).to_have_count(0)
    expect(question).to_have_value("And about the moon?")
    said = lab.store.jobs.list(kinds=["compare"])[0].result["columns"][0]["text"]
    assert answer.inner_text().split()[:20] == said.split()[:20]
    assert len(said.split()) > len(early.split()) + 10


def test_a_live_merge_answers_in_a_column_of_its_own_and_is_kept(compare: Page) -> None:
    only_the_starter(compare)
    compare.locator("#lab-live > button").click()
    compare.locator("#lab-live-on input").check()
    expect(compare.locator("#lab-live-status")).to_contain_text(f"linear: {STARTER} 0.5")
    compare.get_by_label("Longest answer").first.fill("8")
    compare.get_by_label("Temperature").first.fill("0")
    compare.locator("#lab-question textarea").fill("What is the capital of France?")
    compare.locator("#lab-ask-button").click()
    expect(compare.locator('.lab-column[data-phase="done"]')).to_have_count(2, timeout=120_000)
    live = compare.locator(".lab-column").last
    expect(live).to_contain_text(f"linear: {STARTER} 0.5")
    expect(live).to_contain_text(re.compile("merged in .* s"))
    answers = compare.locator(".lab-answer").all_inner_texts()
    assert answers[0] == answers[1] != ""  # all of one model is that model
    compare.locator("#lab-live-again").click()
    expect(live).to_contain_text("merged before", timeout=120_000)
    compare.locator("#lab-live-name input, #lab-live-name textarea").fill("kept-one")
    compare.locator("#lab-live-keep").click()
    expect(compare.locator("#lab-live-running")).to_contain_text("Open kept-one", timeout=120_000)
