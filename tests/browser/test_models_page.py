"""The Models page: a family picture, a card, a recipe run again, and a path to copy."""

import re
from collections.abc import Iterator

import pytest
from family_of_models import family
from playwright.sync_api import Page, expect
from running_lab import RunningLab, start_lab, stop_lab

from lab.ui.lineage import MOST_SHOWN

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab with a family of models and nobody to run jobs."""
    data = tmp_path_factory.mktemp("family")
    family(data).close()
    running = start_lab(data, LAB_WORKERS="0")
    yield running
    stop_lab(running)


def names_drawn(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("#lab-lineage .textpoint text").all_text_contents()]


def test_the_newest_that_was_made_is_shown_with_its_family(home: RunningLab, page: Page) -> None:
    home.open(page, "models")
    expect(page.locator("#lab-model h2")).to_contain_text("lost")
    expect(page.locator("#lab-lineage .textpoint text").first).to_be_visible()
    assert {"left", "right", "both", "lost"} <= set(names_drawn(page))
    assert len(names_drawn(page)) <= 2 * MOST_SHOWN


def test_a_row_and_a_parent_open_the_card_and_a_reload_keeps_it(home: RunningLab, page: Page) -> None:
    home.open(page, "models")
    page.locator("#lab-models").get_by_role("button", name="child", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#lab-model h2")).to_contain_text("child")
    page.locator("#lab-model").get_by_role("button", name="both", exact=True).click()
    expect(page.locator("#lab-model h2")).to_contain_text("both")
    expect(page).to_have_url(re.compile("model=both"))
    page.reload()
    expect(page.locator("#lab-model h2")).to_contain_text("both")
    expect(page.locator("#lab-model")).to_contain_text("Apache-2.0 (from left and right)")


def test_a_click_in_the_picture_chooses_a_model(home: RunningLab, page: Page) -> None:
    home.open(page, "models", model="both")
    expect(page.locator("#lab-model h2")).to_contain_text("both")
    page.locator("#lab-lineage .textpoint text", has_text=re.compile("^left$")).wait_for()
    box = page.locator("#lab-lineage .textpoint text", has_text=re.compile("^left$")).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#lab-lineage .hoverlayer .hovertext").first.wait_for()
    page.mouse.down()
    page.mouse.up()
    expect(page.locator("#lab-model h2")).to_contain_text("left")


def test_a_recipe_runs_again_and_its_progress_is_shown_here(home: RunningLab, page: Page) -> None:
    home.open(page, "models", model="both")
    page.get_by_role("button", name="Run again as both-2").click()
    expect(page.locator("#lab-models-problems")).to_contain_text("makes both-2")
    merging = page.locator("#lab-models [data-job]").filter(has_text="linear merge of left and right")
    expect(merging).to_have_count(1)
    expect(page.get_by_role("button", name="Run again as both-3")).to_be_visible()
    merging.get_by_role("button", name="Cancel").click()
    merging.get_by_role("button", name="Really cancel?").click()
    expect(merging).to_have_count(0)


def test_the_folder_is_copied(home: RunningLab, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    home.open(page, "models", model="both")
    page.get_by_role("button", name="Copy path").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == str(home.data / "models" / "both")


def test_it_fits_a_phone(home: RunningLab, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    home.open(page, "models", model="both")
    expect(page.locator("#lab-model h2")).to_contain_text("both")
    page.locator("#lab-lineage .textpoint text").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    edges = page.locator("#lab-lineage .textpoint text").evaluate_all(
        "(texts) => texts.map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right])"
    )
    assert all(left >= 0 and right <= 390 for left, right in edges)


def test_a_deleted_parent_stays_in_the_picture(home: RunningLab, page: Page) -> None:
    home.open(page, "models", model="right")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Really delete?").click()
    expect(page.locator("#lab-models").get_by_role("button", name="right", exact=True)).to_have_count(0)
    home.open(page, "models", model="both")
    expect(page.locator("#lab-model")).to_contain_text("deleted")
    assert not (home.data / "models" / "right").exists()
