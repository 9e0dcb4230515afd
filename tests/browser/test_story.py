"""The story, by clicking: two fine-tunes, a merge of both, four answers side by side, and their scores."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_lab import RunningLab

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(420)]

STARTER = "smollm2-135m-instruct"
POINTS = """() => {
  const plot = document.querySelector('#lab-tune-chart .js-plotly-plot');
  return plot && plot.data ? Math.max(0, ...plot.data.map((line) => line.x.length)) : 0;
}"""
STREAMING = """() => [...document.querySelectorAll('.lab-answer')]
  .filter((answer) => answer.textContent.length > 15).length"""
QUESTIONS = [
    {"question": "What colour is the sky on a clear day?", "choices": ["green", "blue"], "answer": 1},
    {"question": "How many legs has a dog?", "choices": ["four", "nine"], "answer": 0},
    {"question": "What do cows drink?", "choices": ["water", "petrol"], "answer": 0},
    {"question": "Which one is a fruit?", "choices": ["a hammer", "an apple"], "answer": 1},
]
BARS = """() => [...document.querySelectorAll('[id^=lab-chart-] .js-plotly-plot')]
  .map((plot) => plot.data.reduce((sum, bars) => sum + bars.x.length, 0))"""


def test_a_person_tunes_twice_merges_compares_and_scores(lab: RunningLab, page: Page, tmp_path: Path) -> None:
    lab.open(page, "models")
    expect(page.locator("#lab-models")).to_contain_text(STARTER, timeout=120_000)
    fine_tune(lab, page, "pirate", steps=4)
    fine_tune(lab, page, "sums", steps=3)
    look_into_the_weights(lab, page)
    merge(lab, page, "story-merge")
    ask_and_reload(lab, page)
    score(page, tmp_path)
    the_jobs_page_says_what_the_database_says(lab, page)


def fine_tune(lab: RunningLab, page: Page, dataset: str, steps: int) -> None:
    lab.open(page, "finetune")
    expect(page.locator("#lab-tune-model input")).to_have_value(STARTER)
    page.get_by_role("button", name=f"Use the {dataset} examples").click()
    expect(page.get_by_text(re.compile(r"\d+ rows kept"))).to_be_visible()
    page.get_by_role("button", name="Show as tokens").click()
    expect(page.locator(".lab-trained").first).to_be_visible()
    page.get_by_label("Max steps").fill(str(steps))
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Batch", exact=True).fill("2")
    page.get_by_label("Held out").fill("2")
    expect(page.locator("#lab-tune-estimate")).to_contain_text(f"{steps} steps of 2 rows")
    page.locator("#lab-tune-start").click()
    page.wait_for_function(f"({POINTS})() >= 2", timeout=120_000)
    expect(page.locator("#lab-tune-running")).to_contain_text("done", timeout=120_000)
    page.wait_for_function(f"({POINTS})() >= {steps}")
    assert f"{dataset}-lora" in [row.name for row in lab.store.models.list()]


def look_into_the_weights(lab: RunningLab, page: Page) -> None:
    lab.open(page, "merge")
    expect(page.locator("#lab-merge-plan")).to_contain_text("134.5 M")  # the models are chosen
    page.get_by_role("button", name="Look into the weights").click()
    told = page.locator("#lab-before")
    expect(told).to_contain_text("pirate-lora has barely moved", timeout=120_000)
    expect(told).to_contain_text("slerp is linear here")
    page.locator("#lab-before-map .nsewdrag").first.click()
    expect(page.locator("#lab-before-cell")).to_contain_text("Layer ")
    page.reload()
    expect(told).to_contain_text("pirate-lora has barely moved", timeout=60_000)


def merge(lab: RunningLab, page: Page, name: str) -> None:
    lab.open(page, "merge")
    expect(page.locator("#lab-merge-plan")).to_contain_text("134.5 M")
    page.locator("#lab-merge-name textarea, #lab-merge-name input").fill(name)
    page.keyboard.press("Tab")
    expect(page.locator("#lab-merge-start")).to_be_enabled()
    page.locator("#lab-merge-start").click()
    done = page.locator("#lab-merge-running")
    expect(done.get_by_text("Compare with its parents")).to_be_visible(timeout=120_000)
    after = page.locator("#lab-after")
    expect(after).to_contain_text("Foretold")
    after.get_by_role("button", name="See what the merge changed").click()
    expect(after).to_contain_text(f"Every tensor of {name} is as long as", timeout=120_000)
    lab.open(page, "models")
    row = page.locator("#lab-models tr, #lab-models [role=row]").filter(has_text=name)
    expect(row).to_contain_text("pirate-lora")
    expect(row).to_contain_text("sums-lora")


def ask_and_reload(lab: RunningLab, page: Page) -> None:
    lab.open(page, "compare")
    expect(page.locator(".lab-column")).to_have_count(4)
    page.get_by_label("Longest answer").fill("48")
    page.locator("#lab-question textarea").fill("Tell me about the sea and its ships.")
    page.locator("#lab-ask-button").click()
    page.wait_for_function(f"({STREAMING})() >= 2")
    before = page.locator(".lab-answer").first.inner_text()
    page.reload()
    expect(page.locator(".lab-column")).to_have_count(4)
    page.wait_for_function(
        "(start) => document.querySelector('.lab-answer')?.textContent.startsWith(start)", arg=before[:15]
    )
    expect(page.locator('.lab-column[data-phase="done"]')).to_have_count(4, timeout=120_000)
    job = lab.store.jobs.list(kinds=["compare"])[0]
    said = [column["text"].split() for column in job.result["columns"]]
    shown = [text.split() for text in page.locator(".lab-answer").all_inner_texts()]
    assert [words[:5] for words in shown] == [words[:5] for words in said]
    for chips in page.locator(".lab-column .lab-chips").all_inner_texts():
        assert re.search(r"first token .*tok/s.*token", chips, re.DOTALL)


def score(page: Page, tmp_path: Path) -> None:
    questions = tmp_path / "my-questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    page.locator("input[type=file]:has(+ #lab-score-questions-file)").set_input_files(questions)
    expect(page.locator("#lab-score-questions input")).to_have_value(re.compile("^my-questions"))
    page.locator("#lab-score").click()
    page.wait_for_function(f"({BARS})().some((bars) => bars >= 1)", timeout=120_000)
    expect(page.get_by_text(re.compile("against")).first).to_be_visible(timeout=180_000)
    page.wait_for_function(f"({BARS})().every((bars) => bars >= 4)")


def the_jobs_page_says_what_the_database_says(lab: RunningLab, page: Page) -> None:
    lab.open(page, "jobs")
    for job in lab.store.jobs.list():
        row = (
            page.locator("#lab-jobs tr, #lab-jobs [role=row], #lab-jobs article")
            .filter(has_text=job.title[:40])
            .first
        )
        expect(row).to_contain_text(re.compile("done|succeeded", re.IGNORECASE))
