"""The report that a real study wrote, opened as its readers do: the smoke study's, and any that is named.

`make check-report` names the study of CONFIG in MOEMUI_REPORT, a folder results/STUDY.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from browser import browser, keep  # noqa: F401
from report_page import Report, opened

pytestmark = pytest.mark.slow
NAMED = "MOEMUI_REPORT"
LOOKS = [("laptop", "light"), ("phone", "dark")]
if os.environ.get(NAMED):
    LOOKS += [("phone", "light"), ("laptop", "dark")]
ALL_FIGURES = 16  # of a study with all stages, but for the paper's models


@pytest.fixture(scope="module", params=["smoke", NAMED])
def results(request) -> Path:
    """The results folder of a finished study."""
    if request.param == "smoke":
        if os.environ.get(NAMED):
            pytest.skip(f"{NAMED} names another study; its report is looked at")
        return request.getfixturevalue("smoke") / "results/smoke"
    if not os.environ.get(NAMED):
        pytest.skip(f"{NAMED} names no study; `make check-report` looks at the embedded one after `make results`")
    return Path(os.environ[NAMED]).resolve()


def lines(file: Path) -> int:
    with file.open(newline="") as rows:
        return sum(1 for _ in csv.reader(rows)) - 1


def kept(report: Report, name: str, folder: Path) -> None:
    """Pictures of the first screen and of every figure."""
    report.page.evaluate("() => window.scrollTo(0, 0)")
    keep(report.page, f"{name}-top", folder)
    for figure in report.figures():
        place = report.page.locator(f"#figure-{figure}")
        place.scroll_into_view_if_needed()
        keep(place, f"{name}-{figure}", folder)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_figure_is_drawn_as_its_table_says(browser, results, width, scheme, tmp_path):  # noqa: F811
    with opened(browser, results / "report.html", width=width, scheme=scheme) as report:
        report.draw_all()
        figures = report.figures()
        assert len(figures) >= ALL_FIGURES
        for name in figures:
            marks, shown = report.marks(name), report.shown(name)
            assert marks, name
            files = {part: f"{name}.csv" if len(shown) == 1 else f"{name}-{part}.csv" for part in shown}
            assert marks == {part: lines(results / "figures" / files[part]) for part in marks}, name
        assert report.complaints == []
        assert report.requests == [f"file://{results / 'report.html'}"]
        assert report.overflow() == 0
        kept(report, f"{results.name}-{width}-{scheme}", tmp_path)


def test_toggles_and_filters_work_in_every_figure(browser, results):  # noqa: F811
    with opened(browser, results / "report.html") as report:
        report.draw_all()
        for name in report.figures():
            own, before = report.page.locator(f"#figure-{name}"), dict(report.marks(name))
            boxes = own.locator(".legend input")
            if boxes.count() > 1:
                boxes.first.uncheck()
                report.settled()
                fewer = dict(report.marks(name))
                assert sum(fewer.values()) < sum(before.values()), name
                boxes.first.check()
                report.settled()
                assert dict(report.marks(name)) == before, name
            details = own.locator("details.data").first
            details.locator("summary").first.click()
            total = len(next(iter(report.shown(name).values()))["rows"])
            details.get_by_text(f"of {total:,} entr").first.wait_for()
            details.get_by_label("Filter:").fill("no such row")
            details.get_by_text("No matching records found").wait_for()
            details.get_by_label("Filter:").fill("")
            details.get_by_text(f"of {total:,} entr").first.wait_for()
        assert report.complaints == []


@pytest.mark.parametrize(("width", "scheme"), LOOKS[: 2 if os.environ.get(NAMED) else 1])
def test_nothing_serious_keeps_anybody_from_reading_it(browser, results, width, scheme):  # noqa: F811
    with opened(browser, results / "report.html", width=width, scheme=scheme) as report:
        report.draw_all()
        assert report.violations() == []
