"""`make screenshots`: the pictures of the README, taken of the lab that `make demo` filled.

Run with the folder for the pictures; every page is taken wide and narrow, light and dark.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from running_lab import RunningLab, start_lab, stop_lab

from lab.core.settings import read_settings

SIZES = {"wide": (1440, 960), "narrow": (390, 844)}
SCHEMES = ("light", "dark")


def main(folder: Path) -> int:
    """Take the pictures; 1 when the lab is still empty."""
    lab = start_lab(read_settings().data)
    try:
        addresses = addresses_of(lab)
        if "run" not in addresses["compare"]:
            sys.stderr.write("There is nothing to show yet: run `make demo` first.\n")
            return 1
        folder.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for view, address in addresses.items():
                take(lab, browser, folder, view, address)
            browser.close()
    finally:
        stop_lab(lab)
    return 0


def addresses_of(lab: RunningLab) -> dict[str, dict[str, str]]:
    """Return what each page shall show: the newest comparison and fine-tune, the lists."""
    newest = {job.kind: job.id for job in reversed(lab.store.jobs.list(states=("succeeded",)))}
    compare = {"run": newest["compare"]} if "compare" in newest else {}
    tune = {"job_tune": newest["tune"]} if "tune" in newest else {}
    return {"models": {}, "merge": {}, "finetune": tune, "compare": compare, "jobs": {}}


def take(lab: RunningLab, browser: Browser, folder: Path, view: str, address: dict[str, str]) -> None:
    """Take one page in both sizes and both schemes."""
    for size, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            lab.open(page, view, **address)
            page.wait_for_timeout(4000)  # charts draw themselves after the text
            page.screenshot(path=folder / f"{view}-{size}-{scheme}.png")
            page.close()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
