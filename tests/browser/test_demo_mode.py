"""A hosted demo as a visitor has it: the forms start within the limits, and every page works."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from running_lab import RunningLab, move_in, start_lab, stop_lab
from servers import free_port

from lab.house import LIMITS
from lab.tune.spec import TuneSpec

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(300)]

STARTER = "smollm2-135m-instruct"
VIEWS = ("models", "merge", "finetune", "compare", "jobs")
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def demo(settled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab as a hosted Space runs it."""
    data = move_in(settled, tmp_path_factory.mktemp("demo"))
    running = start_lab(data, SPACE_ID="ada/crucible", GRADIO_SERVER_PORT=str(free_port()))
    yield running
    stop_lab(running)


@pytest.mark.slow
def test_a_visitor_fine_tunes_merges_and_compares(demo: RunningLab, page: Page) -> None:
    the_first_click_is_a_fine_tune(demo, page)
    the_adapter_is_merged(demo, page)
    both_are_asked(demo, page)
    another_visitor_sees_none_of_it(demo, page)


def the_first_click_is_a_fine_tune(demo: RunningLab, page: Page) -> None:
    demo.open(page, "models")
    page.get_by_role("link", name=re.compile("Fine-tune it on")).click(timeout=120_000)
    limit = LIMITS[TuneSpec]["max_steps"]
    expect(page.get_by_label("Max steps")).to_have_value(str(limit.start))
    expect(page.locator("#lab-tune-estimate")).to_contain_text(f"{limit.start} steps of")
    page.get_by_label("Max steps").fill(str(limit.most + 1))
    expect(page.get_by_role("alert").first).to_contain_text(f"{limit.most} at most")
    expect(page.locator("#lab-tune-start")).to_be_disabled()
    page.get_by_label("Max steps").fill("2")
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Batch", exact=True).fill("2")
    page.get_by_label("Held out").fill("2")
    expect(page.locator("#lab-tune-estimate")).to_contain_text("2 steps of 2 rows")
    page.locator("#lab-tune-start").click()
    expect(page.locator("#lab-tune-running")).to_contain_text("done", timeout=120_000)


def test_one_model_alone_is_offered_a_fine_tune_before_a_merge(demo: RunningLab, page: Page) -> None:
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    demo.open(page, "merge")
    expect(page.locator("#lab-merge-plan")).to_contain_text("A merge takes two models")
    page.locator("#lab-merge-plan").get_by_role("link", name="Fine-tune a model").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Fine-tune")


def the_adapter_is_merged(demo: RunningLab, page: Page) -> None:
    demo.open(page, "merge")
    expect(page.locator("#lab-merge-plan")).to_contain_text("134.5 M")
    page.locator("#lab-merge-start").click()
    expect(page.locator("#lab-merge-running").get_by_text("Compare with its parents")).to_be_visible(
        timeout=120_000
    )


def both_are_asked(demo: RunningLab, page: Page) -> None:
    page.locator("#lab-merge-running").get_by_text("Compare with its parents").click()
    expect(page.locator("#lab-compare-models .token").nth(1)).to_be_visible()
    page.get_by_label("Longest answer").first.fill("12")
    page.locator("#lab-question textarea").fill("How are you?")
    page.locator("#lab-ask-button").click()
    columns = page.locator("#lab-compare-models .token").count()
    expect(page.locator('.lab-column[data-phase="done"]')).to_have_count(columns, timeout=120_000)
    expect(page.locator("#lab-compare-problems")).to_be_empty()
    assert {job.state for job in demo.store.jobs.list()} == {"succeeded"}


def another_visitor_sees_none_of_it(demo: RunningLab, page: Page) -> None:
    assert page.context.browser is not None
    other = page.context.browser.new_page()
    demo.open(other, "models")
    expect(other.locator("#lab-models")).to_contain_text(STARTER)
    expect(other.locator("#lab-models")).not_to_contain_text("merged")
    demo.open(other, "jobs")
    expect(other.locator("#lab-jobs")).to_contain_text("Nothing has run yet")
    other.close()


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_says_what_the_demo_allows_and_offers_no_import(
    demo: RunningLab, page: Page, view: str
) -> None:
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    demo.open(page, view)
    expect(page.get_by_text("This is a demo: one job at a time").filter(visible=True)).to_have_count(1)
    expect(page.get_by_text(re.compile("from a folder|Path"))).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_a_file_that_is_too_large_for_the_demo_is_refused_in_words(
    demo: RunningLab, page: Page, tmp_path: Path
) -> None:
    large = tmp_path / "large.jsonl"
    large.write_text('{"text": "' + "a" * 150_000 + '"}\n')
    demo.open(page, "compare")
    expect(page.locator("#lab-compare-models")).to_contain_text(STARTER, timeout=120_000)
    page.locator("input[type=file]:has(+ #lab-score-texts-file)").set_input_files(large)
    expect(page.locator("#lab-score-texts input")).to_have_value(re.compile("^large"))
    page.locator("#lab-score").click()
    expect(page.locator("#lab-score-problems")).to_contain_text("bytes to score on")
