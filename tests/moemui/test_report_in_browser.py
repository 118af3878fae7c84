"""The report in a real browser: drawn as its tables say, and worked as a reader does, by mouse and keyboard."""

from __future__ import annotations

import csv
import re

import pytest
from browser import browser, keep  # noqa: F401
from report_page import Report, drawing, opened

from moemui.report.figures import FIGURES, collect
from moemui.report.page import write_report

MODELS = ("tiny-olmoe", "tiny-deepseek")


def written(folder, tables, choice):
    """The report of tables, in a folder."""
    shown, left_out = collect(tables, choice)
    write_report(
        folder / "report.html",
        study={"name": "made-up", "description": "Made up.", "settings": {}},
        tables=tables, figures=shown, left_out=left_out, choice=choice, provenance={},
        drawings={name: drawing(FIGURES[name].paper(data, choice)) for name, data in shown.items()},
        files={}, made={}, drawn={},
    )  # fmt: skip
    return folder / "report.html"


@pytest.fixture(scope="module")
def file(untouched_tables, choice, tmp_path_factory):
    """The report of the made-up study."""
    return written(tmp_path_factory.mktemp("report"), untouched_tables, choice)


@pytest.fixture
def report(browser, file):  # noqa: F811
    with opened(browser, file) as one:
        yield one


TICKS = (
    "(name) => [...document.querySelectorAll(`#figure-${name} .view .role-axis-label text`)]"
    ".map((one) => one.textContent).sort().join()"
)


def ticks(report: Report, name: str) -> str:
    return report.page.evaluate(TICKS, name)


def figure(report: Report, name: str):
    return report.page.locator(f"#figure-{name}")


@pytest.mark.parametrize(("width", "scheme"), [("laptop", "light"), ("phone", "dark")])
def test_every_figure_has_a_mark_for_each_row_and_the_page_needs_nothing(browser, file, width, scheme, tmp_path):  # noqa: F811
    with opened(browser, file, width=width, scheme=scheme) as report:
        report.draw_all()
        for name, drawn in report.marks().items():
            rows = {part: len(table["rows"]) for part, table in report.shown(name).items()}
            assert drawn, name
            assert drawn == {part: rows[part] for part in drawn}, name
        assert report.complaints == []
        assert [url for url in report.requests if not url.startswith(("file://", "data:", "blob:"))] == []
        assert sum(url.startswith("file://") for url in report.requests) == 1
        assert report.overflow() == 0
        if scheme == "dark":
            assert report.violations() == []
        report.page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        report.page.wait_for_function(
            "() => [...document.querySelectorAll('details.data')].every((one) => one.querySelector('tbody tr'))",
            timeout=20_000,
        )
        assert report.overflow() == 0
        if scheme == "light":  # with all that can be opened, which takes a while
            assert report.violations() == []
        keep(report.page, f"report-{width}-{scheme}", tmp_path)


def test_the_legend_switches_models_off_and_on(report):
    own = figure(report, "mui_performance")
    own.locator(".panel").scroll_into_view_if_needed()
    own.locator(".view[data-drawn]").wait_for()
    rows = report.shown("mui_performance")["points"]
    column = rows["columns"].index("model")
    number = sum(row[column] == MODELS[0] for row in rows["rows"])
    box = own.locator(".legend").get_by_label(MODELS[0])
    box.focus()
    report.page.keyboard.press("Space")  # by keyboard, as by mouse
    report.page.wait_for_function(
        "([name, n]) => document.querySelectorAll(`#figure-${name} .points_marks > *`).length === n",
        arg=["mui_performance", len(rows["rows"]) - number],
    )
    box.check()
    report.page.wait_for_function(
        "([name, n]) => document.querySelectorAll(`#figure-${name} .points_marks > *`).length === n",
        arg=["mui_performance", len(rows["rows"])],
    )


def test_a_table_sorts_filters_and_is_downloaded_whole(report):
    own = figure(report, "mui_performance")
    held = report.shown("mui_performance")["points"]
    details = own.locator("details.data").first
    details.locator("summary").first.click()
    column = held["columns"].index("mui")
    assert f"of {len(held['rows'])} entries" in details.locator(".dt-info").inner_text()
    details.get_by_label("Filter:").fill("tiny-deepseek step-00800")
    kept = [row for row in held["rows"] if row[0] == "tiny-deepseek" and row[1] == "step-00800"]
    details.get_by_text(f"of {len(kept)} entries").wait_for()
    details.get_by_label("Filter:").fill("")
    details.get_by_text(f"of {len(held['rows'])} entries").wait_for()
    order = details.locator("thead th").nth(column).get_by_role("button").first
    first = details.locator("tbody tr").first.locator("td").nth(column)
    values = [float(f"{row[column]:.4g}") for row in held["rows"]]  # as the table prints them
    for value in (max(values), min(values)):
        order.click()
        first.filter(has_text=f"{value:g}").wait_for()
    with report.page.expect_download() as download:
        details.get_by_text("Download CSV").click()
    lines = list(csv.reader(download.value.path().read_text(encoding="utf-8-sig").splitlines()))
    assert lines[0] == held["columns"]
    assert len(lines) == 1 + len(held["rows"])
    assert sorted(float(line[column]) for line in lines[1:]) == sorted(row[column] for row in held["rows"])


def test_zooming_changes_the_axes_and_reset_brings_them_back(report):
    own = figure(report, "mui_performance")
    own.locator(".panel").scroll_into_view_if_needed()
    own.locator(".view[data-drawn]").wait_for()
    before = ticks(report, "mui_performance")
    own.get_by_label("Zoom in").click()
    report.page.wait_for_function(f"(old) => ({TICKS})('mui_performance') !== old", arg=before)
    own.get_by_label("Reset zoom").click()
    report.page.wait_for_function(f"(old) => ({TICKS})('mui_performance') === old", arg=before)


def test_hovering_tells_the_cell_its_interval_and_its_samples(report):
    own = figure(report, "mui_performance")
    own.locator(".panel").scroll_into_view_if_needed()
    own.locator(".view[data-drawn]").wait_for()
    own.locator(".points_marks > *").last.hover()
    words = report.page.locator("#vg-tooltip-element").inner_text()
    rows = report.shown("mui_performance")["points"]
    last = dict(zip(rows["columns"], rows["rows"][-1], strict=True))
    assert f"{100 * last['mui']:.1f} [{100 * last['mui_low']:.1f}, {100 * last['mui_high']:.1f}] %" in words
    assert last["model"] in words
    assert str(last["n_samples"]) in words


def test_dark_and_light_follow_the_system_and_the_button(browser, file):  # noqa: F811
    colour = "() => getComputedStyle(document.body).backgroundColor"
    with opened(browser, file) as light, opened(browser, file, scheme="dark") as dark:
        assert light.page.evaluate(colour) != dark.page.evaluate(colour)
        night = dark.page.evaluate(colour)
        light.page.get_by_role("button", name="Dark").click()
        assert light.page.evaluate(colour) == night


def test_names_and_notes_are_text_whatever_they_contain(browser, untouched_tables, choice, tmp_path):  # noqa: F811
    nasty = """<img src=x onerror="window.struck = 1">a'b"c</script>{x}$\\"""
    tables = {name: table.copy() for name, table in untouched_tables.items()}
    for table in tables.values():
        for column in table.select_dtypes("str"):
            table[column] = table[column].replace({"tiny-olmoe": nasty})
    file = written(tmp_path, tables, choice)
    with opened(browser, file) as report:
        own = figure(report, "mui_performance")
        details = own.locator("details.data").first
        details.locator("summary").first.click()
        details.locator("tbody").get_by_text(nasty).first.wait_for()
        report.draw_all()
        own.locator(".points_marks > *").first.hover()
        assert nasty in own.locator(".legend").inner_text()
        with report.page.expect_download() as download:
            details.get_by_text("Download CSV").click()
        with download.value.path().open(newline="", encoding="utf-8-sig") as rows:
            assert nasty in {row["model"] for row in csv.DictReader(rows)}
        assert report.page.evaluate("() => window.struck") is None
        assert report.complaints == []
        rows = {part: len(table["rows"]) for part, table in report.shown("mui_performance").items()}
        assert report.marks("mui_performance") == rows


def test_it_prints_dark_on_light_with_every_static_figure(browser, file):  # noqa: F811
    with opened(browser, file, scheme="dark") as report:
        report.page.emulate_media(media="print")
        report.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
        colour = report.page.evaluate("() => getComputedStyle(document.body).color")
        assert max(int(part) for part in re.findall(r"\d+", colour)[:3]) < 100
        assert figure(report, "mui_performance").locator("details.static img").is_visible()
        assert not figure(report, "mui_performance").locator(".interactive").is_visible()
        report.page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
        assert not figure(report, "mui_performance").locator("details.static img").is_visible()


def test_without_scripts_the_static_figures_are_there(browser, file):  # noqa: F811
    with opened(browser, file, java_script_enabled=False) as report:
        own = figure(report, "mui_performance")
        assert not own.locator(".interactive").is_visible()
        assert not own.locator("details.data").first.is_visible()
        picture = own.locator("details.static img")
        assert picture.is_visible()
        assert picture.bounding_box()["height"] > 100
        assert report.page.get_by_role("heading", name="Findings").is_visible()
