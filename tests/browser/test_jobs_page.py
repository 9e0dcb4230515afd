"""The Jobs page: the line of waiting jobs is read, changed and paused; a log is read."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect
from running_lab import RunningLab, start_lab, stop_lab

from lab.core.events import NewEvent
from lab.core.lastwords import log_of
from lab.core.settings import Settings
from lab.core.store import NewJob, Store, Success, open_store
from lab.core.store.rows import JobRow, ModelRow
from lab.merge.spec import merge_of
from lab.models.spec import StarterSpec

pytestmark = pytest.mark.browser

LOCAL = "local"


def queue(store: Store, title: str, owner: str = LOCAL, **fields: object) -> JobRow:
    spec = merge_of("linear", [("left", 1.0), ("right", 1.0)], name=title.replace(" ", "-"))
    new = NewJob(
        owner,
        title,
        "merge",
        "batch",
        title,
        spec.model_dump(mode="json"),
        "0" * 64,
        resumable=True,
        **fields,
    )  # type: ignore[arg-type]
    return store.jobs.insert(new)[0]


def begin(store: Store) -> JobRow:
    job = store.jobs.claim("batch", "w", "CPU, 2 threads")
    assert job is not None
    return job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    """A lab without workers: one job has failed, one runs, five wait, two of them somebody else's."""
    data = tmp_path_factory.mktemp("line")
    store = open_store(Settings(data=data))
    queue(store, "a merge that fails")
    failed = begin(store)
    log = log_of(data / "jobs", failed.id, 1)
    log.parent.mkdir(parents=True)
    log.write_text("reading left\nthe disk said no\n")
    starter = ModelRow(StarterSpec().name, "base", LOCAL, (), "", {}, 1, "0" * 64, None, 0.0)
    queue(store, "the starter")
    store.jobs.succeed(begin(store).id, 1, Success(models=[starter]))  # so that the lab fetches none
    store.jobs.fail(failed.id, 1, "disk_full", "The disk is full. Delete models.")
    queue(store, "a long merge")
    held = begin(store)
    told = {"fraction": 0.2, "words": "shard 2 of 9", "seconds_left": 170.0}
    store.jobs.append(held.id, 1, [NewEvent("progress", told)])
    for name in ("apples", "bananas", "cherries"):
        queue(store, name)
    for name in ("dates", "elderberries"):
        queue(store, name, owner="ada")
    store.close()
    running = start_lab(data, LAB_WORKERS="0")
    yield running
    stop_lab(running)


def row(page: Page, title: str) -> Locator:
    named = page.locator(".lab-job-title", has_text=re.compile(f"^{title}$"))
    return page.locator("#lab-jobs .lab-job").filter(has=named)


def waiting(page: Page) -> list[str]:
    """Return the titles of the waiting jobs as they stand on the page."""
    rows = page.locator('#lab-jobs .lab-job:has([data-state="queued"]) .lab-job-title')
    return rows.all_text_contents()


def test_the_line_is_read_and_own_jobs_are_moved_by_keyboard(home: RunningLab, page: Page) -> None:
    home.store.workers.beat("w", "batch", "host", "CPU", places=(1, 1))
    home.open(page, "jobs")
    expect(row(page, "dates")).to_contain_text("next in line, starts in about 3 min")
    expect(row(page, "apples")).to_contain_text("second in line, starts in about")
    assert waiting(page) == ["dates", "apples", "elderberries", "bananas", "cherries"]

    up = page.get_by_role("button", name="Move up: cherries")
    up.focus()
    page.keyboard.press("Enter")
    expect(row(page, "cherries")).to_contain_text("fourth in line")
    expect(up).to_be_focused()  # though it was drawn anew in another place
    page.keyboard.press("Enter")
    expect(row(page, "cherries")).to_contain_text("second in line")
    assert waiting(page) == ["dates", "cherries", "elderberries", "apples", "bananas"]
    expect(up).to_be_disabled()
    expect(page.get_by_role("button", name="Move down: cherries")).to_be_focused()
    expect(page.get_by_role("button", name=re.compile("Move .*: dates"))).to_have_count(0)

    row(page, "bananas").locator(".lab-job-row").click()
    row(page, "bananas").get_by_role("button", name="High").click()
    expect(row(page, "bananas")).to_contain_text("second in line")
    row(page, "bananas").get_by_role("button", name="Run before all others").click()
    expect(row(page, "bananas")).to_contain_text("next in line")
    expect(row(page, "bananas")).to_contain_text("put first by an operator")


def test_a_paused_queue_is_told_on_every_page_and_starts_nothing(home: RunningLab, page: Page) -> None:
    home.open(page, "jobs")
    page.get_by_role("button", name="everything").click()
    expect(page.locator("#lab-jobs [role=status]")).to_contain_text("waiting jobs do not start")
    expect(row(page, "dates")).to_contain_text("in line; the queue is paused")
    expect(page.locator("#lab-running")).to_contain_text("5 waiting, the queue is paused")
    assert home.store.jobs.claim("batch", "w", "cpu") is None
    page.get_by_role("tab", name="Models").click()
    making = page.locator("#lab-models [data-job]").filter(has_text="apples")
    expect(making).to_contain_text("the queue is paused")
    page.get_by_role("tab", name="Jobs").click()
    page.get_by_role("button", name="Resume everything").click()
    expect(page.locator("#lab-jobs [role=status]")).not_to_contain_text("waiting jobs do not start")
    expect(row(page, "dates")).not_to_contain_text("paused")
    assert home.store.line.pauses() == {}


def test_a_log_stays_open_while_the_list_is_drawn_anew_and_all_fits_a_phone(
    home: RunningLab, page: Page
) -> None:
    home.open(page, "jobs")
    failed = row(page, "a merge that fails")
    failed.locator(".lab-job-row").click()
    failed.get_by_text("Log of attempt 1").click()
    expect(failed.get_by_text("the disk said no")).to_be_visible()
    home.store.line.pause(["chat"], "ada")
    expect(page.locator("#lab-jobs [role=status]")).to_contain_text("comparisons and previews")
    expect(failed.get_by_text("the disk said no")).to_be_visible()
    expect(failed.get_by_text("The disk is full.").first).to_be_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
