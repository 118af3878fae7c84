"""How large the report of a study of published size is, and how soon a browser has opened it.

    OMP_NUM_THREADS=1 python benchmarks/report.py [results/demo/report.html]

13 models × 7 tasks × 7 checkpoints of made-up tables (tests/published_size) become a report as the workflow writes it.
Chromium opens it from disk five times, each in a new window: until the page is loaded, and until the first chart is
drawn. An empty page opened in turns with it says what the browser takes by itself. The last lines are for machines to
read. A report given by name is opened as well.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import published_size  # noqa: E402 - no package
from browser import NAMES  # noqa: E402
from report_page import opened  # noqa: E402

from moemui.report.figures import FIGURES, collect  # noqa: E402
from moemui.report.figures.paper_style import save  # noqa: E402
from moemui.report.page import write_report  # noqa: E402

ROUNDS = 5
FIRST = "#figure-mui_performance"


def main() -> None:
    """Print every figure, those for machines last."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        sys.exit(f"none of {', '.join(NAMES)} is there to open reports with; apt-get install chromium")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        empty = folder / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>")
        began = time.perf_counter()
        report = write(folder)
        print(f"13 models × 7 tasks × 7 checkpoints, written in {time.perf_counter() - began:.0f} s with its figures")
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for file in [*(Path(path).resolve() for path in sys.argv[1:]), report]:
            rounds = [opening(browser, file, empty) for _ in range(ROUNDS)]
            loaded, drawn, nothing = (median(times) for times in zip(*rounds, strict=True))
            megabytes = file.stat().st_size / 1e6
            print(f"{file}: {megabytes:.1f} MB, loaded in {loaded:.2f} s, first chart in {drawn:.2f} s")
        print(f"megabytes {megabytes:.2f}")
        print(f"seconds_to_open {loaded:.2f}")
        print(f"seconds_to_first_chart {drawn:.2f}")
        print(f"over_empty_page {loaded / nothing:.1f}")


def opening(browser, file: Path, empty: Path) -> tuple[float, float, float]:
    """Seconds until a report is loaded, until its first chart is drawn, and until an empty page is loaded."""
    began = time.perf_counter()
    with opened(browser, file) as report:
        loaded = time.perf_counter() - began
        report.page.locator(FIRST).scroll_into_view_if_needed()
        report.page.locator(f"{FIRST} .view[data-drawn]").wait_for()
        drawn = time.perf_counter() - began
    began = time.perf_counter()
    with opened(browser, empty):
        return loaded, drawn, time.perf_counter() - began


def write(folder: Path) -> Path:
    """The report of the study of published size, in a folder."""
    tables, choice = published_size.tables(), published_size.CHOICE
    data, left_out = collect(tables, choice)
    for name, parts in data.items():
        save(FIGURES[name].paper(parts, choice), folder / f"{name}.svg")
    path = folder / "report.html"
    write_report(
        path, tables=tables, figures=data, left_out=left_out, choice=choice, drawn={}, **published_size.page_inputs(),
        drawings={name: (folder / f"{name}.svg").read_text() for name in data},
    )  # fmt: skip
    return path


if __name__ == "__main__":
    main()
