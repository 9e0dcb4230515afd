"""The Merge page by pasting: a recipe that cannot work is refused at its box and kept."""

import re

import pytest
import yaml
from playwright.sync_api import Page, Route, expect
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


CELLS = """() => {
  const map = document.querySelector('#lab-merge-heat .js-plotly-plot');
  return map?.data?.[0]?.z?.[0]?.length || 0;
}"""


@pytest.fixture
def merge(lab: RunningLab, page: Page) -> Page:
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


def test_a_pasted_recipe_with_slices_and_gradients_is_planned_and_merged(
    lab: RunningLab, merge: Page
) -> None:
    merge.locator("#lab-merge-name input, #lab-merge-name textarea").fill("four-layers")
    paste(merge, GRADIENT)
    expect(merge.get_by_label("Use the YAML below")).to_be_checked()
    expect(merge.locator("#lab-merge-yaml-line")).to_contain_text("This recipe is used")
    expect(merge.locator("#lab-merge-plan")).to_contain_text(re.compile(r"Layers\s*4"))
    merge.wait_for_function(f"({CELLS})() === 8")  # embedding, gap, 4 layers, gap, norm
    expect(merge.locator("#lab-merge-yaml textarea")).to_have_value(GRADIENT)
    merge.locator("#lab-merge-start").click()
    done = merge.locator("#lab-merge-running")
    expect(done.get_by_text("Compare with its parents")).to_be_visible(timeout=90_000)
    row = next(row for row in lab.store.models.list() if row.name == "four-layers")
    assert row.facts["layers"] == 4
    lab.open(merge, "models")
    expect(merge.locator("#lab-models")).to_contain_text("four-layers")


def test_a_pasted_mixture_of_experts_is_planned(merge: Page) -> None:
    expert = f"  - {{source_model: {STARTER}, positive_prompts: [%s]}}\n"
    flag = "i_understand_this_is_not_useful_without_training: true\n"
    paste(
        merge,
        f"base_model: {STARTER}\ngate_mode: hidden\n{flag}experts:\n{expert % 'rhymes'}{expert % 'sums'}",
    )
    plan = merge.locator("#lab-merge-plan")
    expect(plan).to_contain_text("2 experts as mixtral, 2 for a token")
    expect(merge.locator("#lab-merge-start")).to_be_enabled()
    expect(merge.locator("#lab-merge-heat")).to_be_hidden()


@pytest.mark.slow
def test_merges_on_the_way_are_listed_too_where_somebody_ticks_that(lab: RunningLab, merge: Page) -> None:
    keep = merge.locator("#lab-merge-keep")
    expect(keep).to_be_hidden()
    merge.locator("#lab-merge-name input, #lab-merge-name textarea").fill("tall")
    last = GRADIENT.replace(STARTER, "short").replace("28, 30", "2, 4").replace("27, 29", "1, 3")
    paste(merge, f"name: short\n{GRADIENT}---\n{last}")
    expect(keep).to_be_visible()
    keep.get_by_role("checkbox").check()
    expect(merge.locator("#lab-merge-plan")).to_contain_text("one merge is made first")
    merge.locator("#lab-merge-start").click()
    expect(merge.get_by_text("Compare with its parents")).to_be_visible(timeout=90_000)
    expect(merge.get_by_role("link", name="Open tall-short")).to_be_visible()
    assert {"tall", "tall-short"} <= {row.name for row in lab.store.models.list()}


def test_on_a_slow_machine_a_name_typed_while_the_page_opens_stays(lab: RunningLab, page: Page) -> None:
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    held: list[Route] = []
    is_typed = False

    def hold(asked: Route) -> None:
        """Let the server take its time until the name is typed."""
        asked.continue_() if is_typed else held.append(asked)

    page.route("**/queue/join*", hold)
    lab.open(page, "merge")
    name = page.locator("#lab-merge-name input, #lab-merge-name textarea")
    name.fill("mine")
    is_typed = True
    for asked in held:
        asked.continue_()
    expect(page.locator("#lab-merge-plan")).not_to_be_empty()
    expect(name).to_have_value("mine")


def test_what_the_form_wrote_comes_back_the_same(merge: Page) -> None:
    paste(merge, MODELS)
    expect(merge.locator("#lab-merge-plan")).to_contain_text(re.compile(r"Layers\s*30"))
    merge.get_by_label("Use the YAML below").uncheck()
    box = merge.locator("#lab-merge-yaml textarea")
    merge.locator("#lab-merge-method input").click()
    merge.get_by_role("option", name="passthrough", exact=True).click()
    expect(merge.locator("#lab-merge-plan")).to_contain_text(re.compile(r"Layers\s*44"))
    expect(box).to_have_value(re.compile("passthrough"))
    expect(merge.locator("#lab-merge-heat")).to_contain_text("21 meets 8")
    expect(merge.get_by_text("not in the list of choices")).to_have_count(
        0
    )  # what was drawn before is no error
    exported = box.input_value()
    assert [part["sources"][0]["layer_range"] for part in yaml.safe_load(exported)["slices"]] == [
        [0, 22],
        [8, 30],
    ]
    paste(merge, exported.replace("22", "20"))
    expect(merge.locator("#lab-merge-plan")).to_contain_text(re.compile(r"Layers\s*42"))
    paste(merge, exported)
    expect(merge.locator("#lab-merge-plan")).to_contain_text(re.compile(r"Layers\s*44"))
    expect(box).to_have_value(exported)


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
