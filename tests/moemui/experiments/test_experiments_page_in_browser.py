"""The page of the experiments in a real browser: a mark for each row, hovering, the legend, and no need of anything."""

from __future__ import annotations

import re

import pytest
from browser import browser, keep  # noqa: F401
from made_up_experiments import made_up
from report_page import opened

from moemui.report.experiments.figures import collect
from moemui.report.experiments.page import write_page
from moemui.report.figures.paper_style import save

STATIC = "crowded-effects"  # the one that is drawn on paper here, which takes a while, for all
NOT_COUNTED = {("crowded-course", "seeds"), ("contrary-loss", "seeds")}  # lines of single seeds


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of the made-up experiments."""
    folder = tmp_path_factory.mktemp("experiments")
    plans, tables = made_up()
    figures, left_out = collect(plans, tables)
    save(figures[STATIC].paper(), folder / "static.svg")
    write_page(
        folder / "experiments.html", study="made-up", experiments=plans, tables=tables, figures=figures,
        drawings=dict.fromkeys(figures, (folder / "static.svg").read_text()), left_out=left_out, provenance={},
        files={}, made={}, drawn={},
    )  # fmt: skip
    return folder / "experiments.html"


@pytest.mark.parametrize(("width", "scheme"), [("laptop", "light"), ("phone", "dark")])
def test_every_row_has_a_mark_and_the_page_needs_nothing(browser, file, width, scheme, tmp_path):  # noqa: F811
    with opened(browser, file, width=width, scheme=scheme) as report:
        report.draw_all()
        drawn = report.marks()
        assert len(drawn) == 7
        for name, marks in drawn.items():
            rows = {part: len(table["rows"]) for part, table in report.shown(name).items()}
            assert marks == {part: number for part, number in rows.items() if (name, part) not in NOT_COUNTED}, name
        assert report.complaints == []
        assert [url for url in report.requests if not url.startswith(("file://", "data:", "blob:"))] == []
        assert sum(url.startswith("file://") for url in report.requests) == 1
        assert report.overflow() == 0
        assert report.violations() == []
        keep(report.page, f"experiments-{width}-{scheme}", tmp_path)


def test_marks_are_worked_and_each_table_opens(browser, file):  # noqa: F811
    with opened(browser, file) as report:
        report.page.get_by_role("link", name="Contrary").first.click()
        assert report.page.evaluate("() => location.hash") == "#contrary"
        effects = report.page.locator("#figure-contrary-effects")
        effects.locator(".panel").first.scroll_into_view_if_needed()
        effects.locator(".view[data-drawn]").first.wait_for()
        headings = [re.sub(r"\\s+", " ", text) for text in effects.locator("h4").all_inner_texts()]
        assert headings == ["✗ Later: refuted", "? Grown: undecided", "✓ Started: confirmed"]
        first = effects.locator(".panel").first
        first.locator(".means_marks > *").hover()
        told = report.page.locator("#vg-tooltip-element")
        assert "−114 [−128, −100]" in told.inner_text()
        assert "refuted" in told.inner_text()
        first.locator(".seeds_marks > *").nth(2).hover()
        told.get_by_text("−114").wait_for()
        first.locator(".regions_marks > *").first.hover(position={"x": 3, "y": 3})
        told.get_by_text("above 10 steps").wait_for()
        gaps = report.page.locator("#figure-crowded-gaps")
        gaps.locator(".panel").scroll_into_view_if_needed()
        gaps.locator(".view[data-drawn]").wait_for()
        gaps.locator(".means_marks > *").last.hover()
        told.get_by_text("as many <i>random</i> ones doubled").wait_for()
        box = gaps.locator(".legend").get_by_label("all tasks")
        box.focus()
        report.page.keyboard.press("Space")
        report.page.wait_for_function(
            "() => document.querySelectorAll('#figure-crowded-gaps .means_marks > *').length === 3"
        )
        report.page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        report.page.wait_for_function(
            "() => [...document.querySelectorAll('details.data')].every((one) => one.querySelector('tbody tr'))"
        )
        assert report.overflow() == 0
        assert report.complaints == []


def test_it_prints_with_static_figures_and_reads_without_scripts(browser, file):  # noqa: F811
    with opened(browser, file, java_script_enabled=False) as report:
        own = report.page.locator(f"#figure-{STATIC}")
        assert not own.locator(".interactive").is_visible()
        assert own.locator("details.static img").bounding_box()["height"] > 100
        report.page.emulate_media(media="print")
        assert own.locator("details.static img").is_visible()
        assert report.page.locator("#contrary-decisions").is_visible()
        assert not report.page.locator("nav").is_visible()
