"""The report of a study as large as the published one: small enough to send, all of it drawn."""

from __future__ import annotations

import published_size
import pytest
from browser import browser  # noqa: F401
from report_page import opened

from moemui.report.figures import FIGURES, collect
from moemui.report.figures.paper_style import save
from moemui.report.page import write_report

pytestmark = pytest.mark.simulation
MEGABYTES = 10


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The report of 13 models × 7 tasks × 7 checkpoints."""
    folder = tmp_path_factory.mktemp("published")
    tables, choice = published_size.tables(), published_size.CHOICE
    data, left_out = collect(tables, choice)
    assert left_out == {}
    for name, parts in data.items():
        save(FIGURES[name].paper(parts, choice), folder / f"{name}.svg")
    write_report(
        folder / "report.html", tables=tables, figures=data, left_out=left_out, choice=choice, drawn={},
        drawings={name: (folder / f"{name}.svg").read_text() for name in data}, **published_size.page_inputs(),
    )  # fmt: skip
    return folder / "report.html"


def test_it_stays_below_ten_megabytes(file):
    assert file.stat().st_size < MEGABYTES * 1e6


def test_every_row_of_every_figure_is_drawn_on_a_phone_too(browser, file):  # noqa: F811
    with opened(browser, file, width="phone") as report:
        assert report.overflow() == 0
        report.draw_all()
        for name, drawn in report.marks().items():
            rows = {part: len(table["rows"]) for part, table in report.shown(name).items()}
            assert drawn, name
            assert drawn == {part: rows[part] for part in drawn}, name
        assert list(report.marks()) == list(FIGURES)
        assert report.complaints == []
        assert report.overflow() == 0
