"""The Fine-tune page by clicking: a recipe pasted in, and a fine-tune that is stopped and kept."""

import re

import pytest
from playwright.sync_api import Page, expect
from running_lab import RunningLab

from lab.tune.recipe import read_recipe, write_recipe

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(240)]

STARTER = "smollm2-135m-instruct"
RECIPE = """
model: smollm2-135m-instruct
dataset: sums
name: stopped-lora
rank: 4
learning_rate: 0.00012345
batch: 4
held_out: 0
max_steps: 400
max_length: 48
dropout: 0.055
alpha: 12.5
"""


def test_a_pasted_recipe_fills_the_form_and_a_stopped_fine_tune_is_kept(lab: RunningLab, page: Page) -> None:
    lab.open(page, "models")
    expect(page.locator("#lab-models")).to_contain_text(STARTER, timeout=120_000)
    lab.open(page, "finetune", sample="sums")
    expect(page.locator("#lab-tune-data input")).to_have_value("sums")
    expect(page.locator("#lab-tune-model input")).to_have_value(STARTER)
    page.get_by_role("button", name="Use the pirate examples").click()
    expect(page.locator("#lab-tune-name textarea, #lab-tune-name input")).to_have_value(
        re.compile("pirate-lora")
    )
    page.get_by_role("button", name="Recipe (YAML)").click()
    text = page.locator("#lab-tune-yaml textarea")
    expect(text).to_have_value(re.compile("dataset: pirate\n(.*\n)*learning_rate"))

    page.get_by_label("Rank", exact=True).fill("8")
    expect(text).to_have_value(re.compile("rank: 8"))
    expect(page.locator("#lab-tune-estimate")).to_contain_text("2.4 M trained weights")
    text.fill("rnk: 4")
    page.get_by_label("Rank", exact=True).fill(
        "16"
    )  # the form is checked again, and writes no recipe over ours
    expect(page.locator("#lab-tune-estimate")).to_contain_text("4.9 M trained weights")
    page.locator("#lab-tune-use-yaml").click()
    expect(page.get_by_role("alert").filter(has_text="rnk")).to_contain_text("rank")
    expect(text).to_have_value("rnk: 4")
    text.fill(RECIPE)
    page.locator("#lab-tune-use-yaml").click()
    expect(page.get_by_label("Rank", exact=True)).to_have_value("4")
    expect(page.locator("#lab-tune-name textarea, #lab-tune-name input")).to_have_value("stopped-lora")
    expect(page.locator("#lab-tune-estimate")).to_contain_text("400 steps of 4 rows")
    expect(text).to_have_value(write_recipe(read_recipe(RECIPE)))

    page.locator("#lab-tune-start").click()
    stop = page.locator("#lab-tune-running").get_by_role("button", name="Stop and keep")
    page.wait_for_function(
        "() => document.querySelector('#lab-tune-chart .js-plotly-plot')?.data?.some((one) => one.x.length)",
        timeout=120_000,
    )
    stop.click()
    expect(page.locator("#lab-tune-running")).to_contain_text("stopped, kept")
    job = lab.store.jobs.list(kinds=["tune"])[0]
    assert (job.state, job.stopped_early) == ("succeeded", True)
    assert read_recipe(RECIPE).model_dump(mode="json") == job.spec
    lab.open(page, "models")
    expect(page.locator("#lab-models")).to_contain_text("stopped-lora")
