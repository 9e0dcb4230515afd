"""Every page opens, wide and narrow, without a word on the console or a bar to scroll sideways."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect
from running_lab import RunningLab

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(180)]

PAGES = {"models": "Models", "merge": "Merge", "finetune": "Fine-tune", "compare": "Compare", "jobs": "Jobs"}
WIDE, NARROW = (1440, 960), (390, 844)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("view", PAGES)
def test_a_page_opens_from_its_address_and_fits(
    lab: RunningLab, page: Page, view: str, size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    lab.open(page, view)
    expect(page.get_by_role("heading", level=1)).to_have_text(PAGES[view])
    expect(page.get_by_role("tab", name=PAGES[view])).to_have_attribute("aria-selected", "true")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_tabs_are_reached_by_keyboard_and_stay_after_a_reload(lab: RunningLab, page: Page) -> None:
    lab.open(page, "models")
    page.get_by_role("tab", name="Compare").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare")
    expect(page).to_have_url(re.compile("view=compare"))
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare")


def test_the_bar_says_who_is_here_and_what_the_lab_runs_on(lab: RunningLab, page: Page) -> None:
    lab.open(page, "jobs")
    expect(page.locator("#lab-bar")).to_contain_text(re.compile(r"you \(local\) · .*(CPU|GPU)"))


def test_a_new_lab_says_what_to_do_next_and_offers_it(lab: RunningLab, page: Page) -> None:
    lab.open(page, "models")
    offer = page.get_by_role("link", name=re.compile("Fine-tune it on"))
    expect(offer).to_be_visible(timeout=120_000)
    offer.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Fine-tune")
    expect(page.get_by_text(re.compile(r"\d+ rows kept"))).to_be_visible()


def test_a_wrong_path_is_answered_beside_its_field_and_the_form_is_kept(lab: RunningLab, page: Page) -> None:
    lab.open(page, "models")
    page.get_by_role("button", name="Add a model from a folder").click()
    page.get_by_label("Path").fill("/there/is/nothing")
    page.get_by_label("Name", exact=False).first.fill("nothing")
    page.get_by_role("button", name="Check and add").click()
    expect(page.get_by_role("alert").first).to_contain_text("/there/is/nothing")
    expect(page.get_by_label("Path")).to_have_value("/there/is/nothing")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(lab: RunningLab, browser: Browser, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    lab.open(page, "jobs")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    tokens = page.evaluate(
        "() => Object.fromEntries(['ink', 'muted', 'accent', 'wrong', 'right', 'warm', 'panel', 'ground']"
        ".map((name) => [name, getComputedStyle(document.body).getPropertyValue('--lab-' + name).trim()]))"
    )
    page.close()
    for name in ("ink", "muted", "accent", "wrong", "right", "warm"):
        for ground in ("panel", "ground"):
            assert contrast(tokens[name], tokens[ground]) >= 4.5, (scheme, name, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1: (lighter + 0.05) / (darker + 0.05) of the relative luminances."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
