"""A headless browser for tests that look at pages as people do.

A test module takes the fixtures by importing them: `from browser import browser, look`. Without a browser its tests are
skipped with a sentence that says how to get one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1440, "height": 1000}
LONGEST = 60_000  # milliseconds that a page may take on a busy machine
SCREENSHOTS = "MOEMUI_SCREENSHOTS"  # environment variable: a folder that keeps what the tests saw


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A Chromium of the system, driven by Playwright."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright, which drives the browser; pip install playwright"
    )
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is there to look at pages with; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Without a sandbox, since tests run as root in containers; the pages are ours.
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def look(browser, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., object]]:
    """A function that opens an address, waits for texts to be seen, keeps a screenshot, and gives the page.

    Texts are those that a person sees. One that does not appear fails the test, with what is there instead.
    """
    pages = []

    def open_page(url: str, name: str, *, texts: tuple[str, ...] = (), within: int = LONGEST) -> object:
        page = browser.new_page(viewport=SIZE)
        pages.append(page)
        page.set_default_timeout(LONGEST)
        page.goto(url, wait_until="domcontentloaded")
        try:
            see(page, *texts, within=within)
        finally:
            keep(page, f"{request.node.name}-{name}", tmp_path)
        return page

    yield open_page
    for page in pages:
        page.close()


def see(page, *texts: str, within: int = LONGEST) -> None:
    """Wait until each text is seen on a page; fails with the first that is not, and the words that are."""
    from playwright.sync_api import TimeoutError as NotSeen

    for text in texts:
        try:
            page.get_by_text(text).filter(visible=True).first.wait_for(state="visible", timeout=within)
        except NotSeen:
            shown = " ".join(page.inner_text("body").split())
            pytest.fail(f"{text!r} is not to be seen on {page.url}, but: {shown[:600]!r}")


def keep(page, name: str, folder: Path) -> Path:
    """A screenshot in a folder, and in that of MOEMUI_SCREENSHOTS where it is set."""
    file = folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}.png"
    page.screenshot(path=str(file))
    if kept := os.environ.get(SCREENSHOTS):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, kept)
    return file
