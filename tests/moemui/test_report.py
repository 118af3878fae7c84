"""The report is one file that needs no other, says what the tables say, and escapes what it is given."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_page import drawing

from moemui.laws import published
from moemui.report.figure_block import embedded, image
from moemui.report.figures import FIGURES, collect
from moemui.report.findings import findings
from moemui.report.headline import headline
from moemui.report.page import NEEDED, write_report
from moemui.report.page_parts import unbroken

PROVENANCE = {
    "commit": "0123abc",
    "dirty": True,
    "packages": {"numpy": "2.1.0"},
    "stage_seconds": {"responses": 12.34},
    "conservation_error_max": 1.2e-7,
    "identity_error_max": None,
}
MADE = {
    "stage": "gather",
    "record": "records/tables/performance.json",
    "run": "20261122T1",
    "inputs": "3 files",
    "digest": "abcdefabcdef0123",
    "code": "c0de",
    "commit": "0123abc",
    "dirty": True,
    "path": "results/demo/tables/performance.parquet",
}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements, ids, references and visible text of a page; raises where tags don't close as they open."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("th", "td", "dt", "dd", "br"):
            self.words.append(" ")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.references.append(value)
            if name == "aria-label":
                self.labels.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


def write(path, tables, choice, **changes) -> Page:
    arguments = {
        "study": {"name": "demo", "description": "Made up.", "settings": {"analysis": {"threshold": 0.001}}},
        "tables": tables,
        "figures": {},
        "drawings": {},
        "left_out": {},
        "choice": choice,
        "provenance": PROVENANCE,
        "files": {"performance": ["tables/performance.parquet", "tables/performance.csv"]},
        "made": {"performance": MADE},
        "drawn": {},
    } | changes
    write_report(path, **arguments)
    return Page(path.read_text())


@pytest.fixture(scope="module")
def drawn(untouched_tables, choice) -> dict:
    """All figures that the made-up study has, and their drawings as text."""
    shown, _ = collect(untouched_tables, choice)
    drawings = {name: drawing(FIGURES[name].paper(data, choice)) for name, data in shown.items()}
    return {"figures": shown, "drawings": drawings}


def test_the_full_report_stands_alone(study_tables, choice, drawn, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice, **drawn)
    assert page.tags.count("figure") == page.tags.count("img") == len(drawn["figures"]) > 12
    assert len(page.ids) == len(set(page.ids))
    inside = [reference[1:] for reference in page.references if reference.startswith("#")]
    assert set(inside) <= set(page.ids)
    outside = {reference for reference in page.references if not reference.startswith(("#", "data:image/svg+xml,"))}
    assert outside == {"tables/performance.parquet", "tables/performance.csv", "records/tables/performance.json"}
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=[\"']?(https?:|//)", text)
    for scheme in ("@import", "url(http", "url(//"):
        assert scheme not in text
    assert len(text) < 10_000_000


def test_every_chart_has_its_data_its_definition_and_its_twin(study_tables, choice, drawn, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice, **drawn)
    text = (tmp_path / "report.html").read_text()
    payloads = re.findall(r'<script type="application/json" class="payload">(.*?)</script>', text, re.DOTALL)
    assert len(payloads) == len(drawn["figures"])
    for payload, (name, data) in zip(map(json.loads, payloads), drawn["figures"].items(), strict=True):
        assert set(payload["data"]) == set(data)
        for part, rows in data.items():
            held = payload["data"][part]
            assert held["columns"] == list(rows.columns)
            assert len(held["rows"]) == len(rows)
            for column in rows.select_dtypes("float64"):
                place = held["columns"].index(column)
                own = np.array([np.nan if row[place] is None else row[place] for row in held["rows"]], dtype=float)
                np.testing.assert_allclose(own, rows[column].to_numpy(), rtol=1e-5)
        assert FIGURES[name].definition in page.text
        assert FIGURES[name].alt in page.text
    assert page.tags.count("math") == sum(bool(FIGURES[name].formula) for name in drawn["figures"])


def test_headings_go_down_without_gaps(study_tables, choice, drawn, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice, **drawn)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_every_finding_and_provenance_is_on_the_page(study_tables, choice, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice)
    for finding in findings(study_tables, choice):
        for sentence in finding.sentences:
            assert sentence in page.text
    for said in (
        "0123abc with uncommitted changes",
        "1.2e-07",
        "Identity error, largest not recorded",
        "responses 12.3",
    ):
        assert said in page.text
    assert "analysis.threshold 0.001" in page.text
    assert "What these models do and do not show" in page.text
    assert "tiny-olmoe step-00800, tasks: 3" in page.text
    assert "80.0 % [76.5, 82.8]" in page.text
    assert all(sentence in page.text for sentence in headline(study_tables, choice))


def test_a_threshold_that_masking_chose_is_printed_with_its_number(study_tables, choice, tmp_path):
    settings = {"analysis": {"threshold": "auto", "curve_threshold": "auto", "expert_threshold": 0.6}}
    page = write(
        tmp_path / "report.html", study_tables, choice, study={"name": "x", "description": "", "settings": settings}
    )
    assert "analysis.threshold auto (0.001)" in page.text
    assert "analysis.curve_threshold auto (0.01)" in page.text
    assert "analysis.expert_threshold 0.6" in page.text


def test_the_first_table_has_mui_without_grades_and_every_number_of_tasks(study_tables, choice, tmp_path):
    table = study_tables["performance"]
    columns = ["accuracy", "accuracy_low", "accuracy_high"]
    table.loc[(table["model"] == "tiny-olmoe") & (table["task"] != "addition"), columns] = np.nan
    table.loc[table["model"] == "tiny-deepseek", columns] = np.nan
    page = write(tmp_path / "report.html", study_tables, choice)
    assert "tiny-olmoe step-00800, tasks: accuracy 1, MUI 3, key experts 3 " in page.text
    assert " 75.0 % [68.6, 80.5] 27.5 % [27.1, 27.9] " in page.text
    assert "tiny-deepseek step-00800, tasks: accuracy 0, MUI 3, key experts 3 " in page.text
    assert " – 27.3 % [" in page.text


def test_captions_say_which_intervals_they_show(study_tables, choice, drawn, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice, **drawn)
    assert "95 % intervals (over samples, for the controls over samples and seeds)" in page.text
    assert "jackknife over samples, which holds up to half of a task's samples" in page.text


def test_an_empty_study_says_why_nothing_is_shown(empty_tables, choice, tmp_path):
    _, left_out = collect(empty_tables, choice)
    page = write(tmp_path / "report.html", empty_tables, choice, left_out=left_out)
    assert "There is no figure." in page.text
    assert "Saturation of MUI: The table saturation is empty." in page.text
    assert page.text.count("The table is empty.") == len(empty_tables)


def test_long_tables_are_cut_and_say_so(study_tables, choice, tmp_path):
    page = write(tmp_path / "report.html", study_tables, choice)
    rows = len(study_tables["utilization"])
    assert f"The first 30 of {rows} rows." in page.text
    assert "All rows: tables/performance.parquet, tables/performance.csv." in page.text


def test_tables_and_figures_say_how_they_were_made_and_how_to_check_it(study_tables, choice, drawn, tmp_path):
    made = {
        "stage": "report",
        "record": "records/report.json",
        "code": "d4a3",
        "path": "results/demo/figures/layers.svg",
    }
    page = write(tmp_path / "report.html", study_tables, choice, **drawn, drawn={"layers": made})
    assert page.text.count("How it was made") == 2  # where nothing is known, nothing is said
    assert (
        "By the stage gather (run record of run 20261122T1) from 3 files, by code c0de, commit 0123abc with "
        "uncommitted changes. Its SHA-256 begins with abcdefabcdef. Trace and check it: "
        "make audit FILE=results/demo/tables/performance.parquet"
    ) in page.text
    assert (
        "(run record), by code d4a3. Trace and check it: make audit FILE=results/demo/figures/layers.svg" in page.text
    )
    assert {"records/tables/performance.json", "records/report.json"} <= set(page.references)


def test_text_is_escaped(study_tables, choice, tmp_path):
    evil = "<script>alert(1)</script>"
    study_tables["performance"]["note"] = evil
    study = {"name": evil, "description": evil, "settings": {evil: evil}}
    made = {"performance": dict.fromkeys(MADE, evil)}
    write(tmp_path / "report.html", study_tables, choice, study=study, provenance={"commit": evil}, made=made)
    text = (tmp_path / "report.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_data_can_not_end_the_element_that_holds_it():
    held = embedded({"name": "</script><script>alert(1)</script>", "note": "a\u2028b"})
    assert "<" not in held
    assert json.loads(held) == {"name": "</script><script>alert(1)</script>", "note": "a\u2028b"}
    with pytest.raises(ValueError, match="Out of range float"):
        embedded([float("nan")])


def test_mistakes_are_named(study_tables, choice, tmp_path):
    with pytest.raises(ValueError, match=r"unknown figure 'layer'; there are mui_performance, "):
        write(tmp_path / "report.html", study_tables, choice, figures={"layer": {}})
    with pytest.raises(ValueError, match=r"unknown table or figure 'mui'; there are "):
        write(tmp_path / "report.html", study_tables, choice, files={"mui": []})
    with pytest.raises(ValueError, match=r"unknown table 'mui'; there are "):
        write(tmp_path / "report.html", study_tables, choice, made={"mui": MADE})
    del study_tables["phases"]
    with pytest.raises(ValueError, match=r"missing: phases$"):
        write(tmp_path / "report.html", study_tables, choice)
    assert "phases" in NEEDED


def test_an_image_keeps_what_is_drawn_and_loses_what_is_not():
    svg = """<?xml version="1.0"?><svg width="9pt"><metadata>x</metadata><!-- y --><g id="axes_1">
  <path id="p" d="M 1.23456 100" transform="scale(0.015625 -0.015625)"/><use xlink:href="#p"/></g></svg>"""
    address = image(svg, "f")
    assert address.startswith("data:image/svg+xml,<svg width='9pt'><g><path id='p' d='M 1.23 100'")
    assert "scale(0.015625 -0.015625)" in address
    assert "xlink:href='%23p'" in address
    with pytest.raises(ValueError, match="figure f: found no <svg> element in 'nothing'; save it by "):
        image("nothing", "f")


def test_intervals_stay_on_one_line():
    assert unbroken("step = 1 (p = 0.03)") == "step = 1 (p\u00a0=\u00a00.03)"
    assert unbroken("so 1.0 % [0.9, 1.1] is") == "so 1.0\u00a0% [0.9,\u00a01.1] is"


def test_published_values_stand_beside_own_of_the_same_name(study_tables, choice, tmp_path):
    for name in ("performance", "utilization", "key_experts", "expert_frequency"):
        table = study_tables[name]
        table["model"] = table["model"].replace({"tiny-olmoe": "OLMoE", "tiny-deepseek": "DeepSeek-V2-Lite"})
        table["checkpoint"] = table["checkpoint"].replace({"step-00400": "1T"})
        table["task"] = table["task"].replace({"facts": "math"})
    study_tables["published"], study_tables["published_agreement"] = published.rows(
        **{name: study_tables[name] for name in ("utilization", "performance", "key_experts", "expert_frequency")},
        curve_setting=choice.curves, expert_setting=choice.experts, expert_threshold=choice.expert_threshold,
    )  # fmt: skip
    pairs = FIGURES["published"].data(study_tables, choice)["pairs"]
    row = pairs[(pairs["model"] == "OLMoE") & (pairs["metric"] == "performance") & (pairs["task"] == "mean")]
    assert sorted(row["value"]) == pytest.approx([0.174, 0.55])  # own: 100, 110, 120 of 200
    page = write(tmp_path / "report.html", study_tables, choice)
    assert "value in common; own less published is" in page.text


def test_published_figures_are_shares_or_percent():
    table = published.load()
    assert list(table.columns) == ["figure", "model", "task", "metric", "value"]
    percent = table["metric"].str.endswith("_percent")
    assert table[percent]["value"].between(1, 100).all()
    assert table[~percent]["value"].between(0, 1).all()
    assert isinstance(table, pd.DataFrame)
