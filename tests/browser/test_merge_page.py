"""The Merge page by pasting: a recipe that cannot work is refused at its box and kept."""

import pytest
from playwright.sync_api import Page, expect
from running_lab import RunningLab

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.starter, pytest.mark.timeout(180)]

STARTER = "smollm2-135m-instruct"
GRADIENT = f"""\
slices:
  - sources:
      - {{model: {STARTER}, layer_range: [0, 2], parameters: {{weight: [0.2, 0.8]}}}}
      - model: {STARTER}
        layer_range: [1, 3]
        parameters: {{weight: [{{filter: mlp, value: 0.5}}, {{value: 1}}]}}
  - sources:
      - {{model: {STARTER}, layer_range: [28, 30]}}
      - {{model: {STARTER}, layer_range: [27, 29]}}
merge_method: linear
parameters: {{weight: 1.0}}
dtype: bfloat16
"""
MODELS = (
    f"models:\n- model: {STARTER}\n- model: {STARTER}\nmerge_method: linear\nparameters: {{weight: 1.0}}\n"
)


@pytest.fixture
def merge(lab: RunningLab, page: Page) -> Page:
    lab.open(page, "compare")  # which chooses the starter model as soon as it is there
    expect(page.locator("#lab-compare-models")).to_contain_text(STARTER, timeout=120_000)
    lab.open(page, "merge")
    page.get_by_role("button", name="Advanced").click()
    expect(page.locator("#lab-merge-yaml textarea")).to_be_visible()
    expect(page.locator("#lab-merge-plan")).not_to_be_empty()
    return page


def paste(page: Page, text: str) -> None:
    """Put text into the box in one go, as the clipboard does."""
    box = page.locator("#lab-merge-yaml textarea")
    box.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(text)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("models: [\n  - model: x", "The recipe can't be read"),
        (MODELS.replace("merge_method", "merge_metod"), "Did you mean 'merge_method'"),
        (MODELS.replace("weight", "wieght"), "parameters.wieght"),
        (GRADIENT.replace("28, 30", "29, 31").replace("27, 29", "26, 28"), "30 layers"),
        (MODELS.replace(STARTER, "nobody", 1), "nobody"),
    ],
    ids=["broken", "unknown key", "unknown parameter", "layers", "unknown model"],
)
def test_a_recipe_that_cannot_work_is_refused_at_the_box_and_kept(
    merge: Page, recipe: str, said: str
) -> None:
    paste(merge, recipe)
    line = merge.locator("#lab-merge-yaml-line")
    expect(line.get_by_role("alert")).to_contain_text(said)
    expect(line).to_be_in_viewport()
    expect(merge.locator("#lab-merge-start")).to_be_disabled()
    expect(merge.locator("#lab-merge-yaml textarea")).to_have_value(recipe)
    expect(merge.get_by_text("Traceback")).to_have_count(0)
