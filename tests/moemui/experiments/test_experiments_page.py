"""The page of the experiments says what the tables hold, adds no verdict to theirs, and escapes what it is given."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_experiments import BEFORE, EXPERIMENTS, REASON, made_up
from matplotlib.figure import Figure

from moemui.experiments.hypotheses import Hypothesis, Region, over_seeds
from moemui.experiments.measurements import Meaning, Measured
from moemui.experiments.picture import Picture
from moemui.report.experiments import wording
from moemui.report.experiments.arms import draw
from moemui.report.experiments.effects_figure import LEAST
from moemui.report.experiments.figures import collect, of
from moemui.report.experiments.page import write_page
from moemui.report.experiments.picture_figure import Laid, looks
from moemui.report.experiments.plan import Plan
from moemui.report.experiments.rows import rows
from moemui.report.figures.page_style import MOST_TOLD
from moemui.report.figures.paper_style import save
from moemui.report.views import Estimate, NothingToShow
from moemui.tables.experiments import MEASUREMENTS

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="10pt"></svg>'
NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+−-]?\d+)?")


@pytest.fixture(scope="module")
def study():
    return made_up()


@pytest.fixture(scope="module")
def shown(study):
    return collect(*study)


def written(path, plans, tables, shown, **others):
    figures, left_out = shown
    write_page(
        path, study="made-up", experiments=plans, tables=tables, figures=figures, left_out=left_out,
        drawings=dict.fromkeys(figures, EMPTY), **{"provenance": {}, "files": {}, "made": {}, "drawn": {}} | others,
    )  # fmt: skip
    return Page(path.read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Cells of the tables that a reader sees in each section, ids, references, and all visible words."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self._rows: list[list[str]] = []
        self._cell = self._silent = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.references += [given[key] for key in ("href", "src") if key in given]
        self._silent = tag in ("script", "style") or self._silent
        if tag == "table":
            self._rows = self.tables.setdefault(given.get("aria-labelledby", ""), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        self._silent = self._silent and tag not in ("script", "style")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self._rows[-1][-1] += data.replace("\u00a0", " ")
        if not self._silent:
            self.words += data.replace("\u00a0", " ")

    def body(self, name):
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[name][1:]]


@pytest.fixture(scope="module")
def page(study, shown, tmp_path_factory):
    return written(tmp_path_factory.mktemp("page") / "experiments.html", *study, shown)


def numbers(text):
    """The numbers of a printed estimate, as numbers."""
    found = NUMBER.findall(text.split(" seed")[0])
    return [float(one.replace("−", "-").replace(",", "")) for one in found]


def agrees(text, row):
    """Whether a printed estimate is that of a table's row: in points for shares, rounded by at most half a digit."""
    factor = 100 if row["unit"] == "share" else 1
    expected = [factor * row[name] for name in ("mean", "mean_low", "mean_high") if np.isfinite(row[name])]
    found = numbers(text)[: len(expected)]
    size = max((row["mean_high"] - row["mean_low"]) * factor, 1e-12) if len(expected) == 3 else abs(expected[0])
    return len(found) == len(expected) and np.allclose(found, expected, rtol=0, atol=0.05 * size)


def test_decisions_and_effects_are_those_of_the_tables(study, page):
    plans, tables = study
    for plan in plans:
        own = of(plan, tables)
        decisions = own["experiment_decisions"].to_dict("records")
        printed = page.body(f"{plan.name}-decisions")
        assert len(printed) == len(decisions)
        for cells, row in zip(printed, decisions, strict=True):
            claim, effect, seeds, rule, decision, paper = cells
            assert claim.startswith(row["claim"])
            assert ("primary" in claim) == row["primary"]
            assert decision.split()[1] == row["decision"]
            assert decision[0] == {"confirmed": "✓", "refuted": "✗", "undecided": "?"}[row["decision"]]
            assert row["for_paper"] in paper
            assert not row["for_paper"] or paper == f"{row['for_paper']} the paper"
            assert seeds.split()[0] == str(row["n_seeds"])
            assert "confirmed" in rule
            assert "refuted" in rule
            if np.isnan(row["mean"]):
                assert effect.startswith("not known")
            else:
                assert agrees(effect, row)
                assert ("points" in effect) == (row["unit"] == "share")
            assert row["rule"] in page.words
        effects = own["experiment_effects"].to_dict("records")
        for cells, row in zip(page.body(f"{plan.name}-all"), effects, strict=True):
            assert row["meaning"][1:] in cells[1]
            assert np.isnan(row["mean"]) or agrees(cells[2], row)


def test_the_head_says_of_each_experiment_what_its_primary_hypothesis_came_to(study, page):
    plans, tables = study
    primary = tables["experiment_decisions"].query("primary")
    printed = page.body("decided")
    assert [cells[0] for cells in printed] == [plan.title for plan in plans]
    for cells, row in zip(printed, primary.to_dict("records"), strict=True):
        assert cells[1] == row["claim"]
        assert agrees(cells[2], row)
        assert cells[3].split()[1] == row["decision"]
        assert (row["for_paper"] or "neither") in cells[4]
        assert cells[5].split()[0] == str(row["n_seeds"])
    assert "#crowded" in page.references
    assert {"crowded", "contrary", "sparse"} <= set(page.ids)
    assert "don't settle the matter for large models" in page.words


def test_the_made_up_rules_come_out_as_they_were_made(study):
    """What the other tests rest on: every outcome occurs."""
    found = study[1]["experiment_decisions"].set_index("hypothesis")
    assert dict(found["decision"]) == {
        "wider": "confirmed", "unmoved": "undecided", "later": "refuted", "grown": "undecided", "started": "confirmed",
        "better": "undecided", "seen": "undecided",
    }  # fmt: skip
    assert found.loc["later", "for_paper"] == "contradicts"


def test_rules_that_are_younger_than_runs_are_said_to_be(page):
    assert f"{BEFORE['crowded']} runs were made before the rules read as they do now." in page.words
    assert "1 run was made before the rules read as they do now." in page.words
    assert page.words.count("All runs came after the rules that decide here.") == 1


def test_words_are_escaped_and_every_reference_is_there(page):
    assert "more than one point & <b>more</b>" in page.words
    assert REASON in page.words
    assert not {"b", "i"} & page.tags
    inside = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert inside <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert not [one for one in page.references if re.match(r"\w+://|//", one) and not one.startswith("data:")]


def test_what_is_missing_is_said(page):
    assert f"1 value of 600 is not known and not shown: {REASON}." in page.words
    assert "What nobody could measure: No value of what it would show was measured." in page.words


def test_numbers_of_seeds_are_said_where_some_have_no_value(page):
    assert [cells[2] for cells in page.body("sparse-decisions")] == ["2", "0 of 2"]


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [
        ((0.034, 0.021, 0.047), "share", "+3.4 points [+2.1, +4.7]"),
        ((0.034, np.nan, np.nan), "share", "+3.4 points (no interval)"),
        ((0.02, 0.02, 0.02), "share", "+2.0 points (the same on every seed)"),
        ((-114.0, -127.74, -100.26), "steps", "−114 [−128, −100] steps"),
        ((2222200.0, -3201443.0, 7645843.0), "", "2,222,200 [−3,201,443, 7,645,843]"),
        ((9.3e-7, 3.2e-7, 1.54e-6), "nats", "9.3e−07 [3.2e−07, 1.5e−06] nats"),
        ((0.01434, 0.01238, 0.0163), "bits", "0.0143 [0.0124, 0.0163] bits"),
        ((12.0, np.nan, np.nan), "steps", "12.0 steps (no interval)"),
        ((0.0, 0.0, 0.0), "", "0 (the same on every seed)"),
        ((np.nan, np.nan, np.nan), "bits", "not known"),
    ],
)
def test_effects_in_words(number, unit, words):
    assert wording.measured(Estimate(*number), unit) == words


@pytest.mark.parametrize(
    ("bounds", "unit", "words"),
    [
        ({"above": 0.01}, "share", "above 1 point"),
        ({"below": -0.015}, "share", "below −1.5 points"),
        ({"above": -0.02, "below": 0.02}, "share", "between −2 and 2 points"),
        ({"above": 10}, "steps", "above 10 steps"),
        ({"below": 0}, "", "below 0"),
    ],
)
def test_regions_in_words(bounds, unit, words):
    assert wording.region(Region(**bounds), unit) == words


def test_means_over_seeds_are_t_intervals_of_the_measurements(study, shown):
    measurements = study[1]["measurements"]
    means = shown[0]["crowded-course"].data["means"]
    own = measurements[(measurements["experiment"] == "crowded") & (measurements["quantity"] == "mui")]
    for task, step in (("parity", 400), ("sorting", 0)):
        values = own[(own["task"] == task) & (own["step"] == step)]["value"]
        row = means.query("quantity == 'mui' and task == @task and step == @step").iloc[0]
        expected = over_seeds(list(values))
        assert row["n_seeds"] == values.notna().sum() == (4 if task == "parity" else 5)
        assert np.allclose([row["mean"], row["mean_low"], row["mean_high"]], expected[:3], rtol=1e-12)


def test_each_figure_explains_its_columns_and_has_room_for_its_marks(shown):
    figures = shown[0]
    assert len(figures) == 7
    for one in figures.values():
        for data in one.data.values():
            assert all(column.meaning for column in one.words.columns(data))
        assert set(one.data) == set(one.words.table_titles)
        assert all(text.endswith(".") for text in (one.words.caption, one.words.definition, one.words.alt))
        for views in (one.chart.views, *one.chart.own_views.values()):
            for layer in views[0]["layer"]:
                told = layer.get("encoding", {}).get("tooltip", {})
                assert str(told).count("isValid(") <= MOST_TOLD


def test_regions_are_drawn_where_the_rule_has_them_with_room_for_their_words(study, shown):
    for plan in study[0]:
        drawn = shown[0][f"{plan.name}-effects"].data["regions"]
        for hypothesis in plan.hypotheses:
            for name in ("confirmed", "refuted"):
                rows = drawn[(drawn["hypothesis"] == hypothesis.name) & (drawn["region"] == name)].to_dict("records")
                for row, region in zip(rows, getattr(hypothesis, name), strict=True):
                    assert row["drawn_from"] == (row["panel_from"] if region.above is None else region.above)
                    assert row["drawn_to"] == (row["panel_to"] if region.below is None else region.below)
                    wide, middle = row["panel_to"] - row["panel_from"], (row["drawn_from"] + row["drawn_to"]) / 2
                    assert middle - row["panel_from"] >= LEAST * wide
                    assert row["panel_to"] - middle >= LEAST * wide


def test_on_paper_every_seed_and_mean_stands_at_its_value(study, shown, tmp_path):
    drawing = shown[0]["crowded-effects"].paper()
    seeds = study[1]["experiment_seeds"].query("effect == 'gap_change'")["value"]
    drawn = [line for line in drawing.axes[0].lines if line.get_marker() == "o"]
    assert np.allclose(drawn[0].get_xdata(), seeds)
    save(drawing, tmp_path / "effects.svg")
    assert (tmp_path / "effects.pdf").is_file()
    figure = shown[0]["crowded-course"]
    means = figure.data["means"].query("quantity == 'mui' and task == 'sums'")
    lines = [line.get_ydata() for line in figure.paper().axes[1].lines if line.get_marker() != "None"]
    assert any(len(line) == len(means) and np.allclose(line, means["mean"]) for line in lines)
    arms = shown[0]["crowded-gaps"]
    drawn = [one for one in arms.paper().axes[0].lines if one.get_marker() != "None" and one.get_markersize() == 3.5]
    marks = [one.get_ydata() for one in drawn]
    assert np.allclose(np.concatenate(marks), arms.data["means"].sort_values("task", kind="stable")["mean"])


def test_ten_series_are_told_apart_and_all_together_is_black():
    found = looks(["", *map(str, range(24))])
    assert found[""].colour == "#000000"
    assert len(set(found.values())) == 25


def test_a_picture_that_says_too_little_is_refused(study):
    plans, tables = study
    measurements = of(plans[0], tables)["measurements"]
    picture = Picture("gaps", "Gaps", "Gaps.", "arms", ("gap",), x="arm")
    with pytest.raises(
        ValueError, match=r"gaps: gap has 2 values at one point, which differ in task; name it in where"
    ):
        rows(picture, measurements, plans[0].quantities)
    with pytest.raises(ValueError, match="there is no quantity 'gaps'"):
        rows(Picture("x", "X", "X.", "arms", ("gaps",), x="arm"), measurements, plans[0].quantities)
    with pytest.raises(ValueError, match="where names 'tasks'"):
        rows(
            Picture("x", "X", "X.", "arms", ("gap",), x="arm", where={"tasks": ("",)}),
            measurements,
            plans[0].quantities,
        )
    with pytest.raises(NothingToShow):
        rows(
            Picture("x", "X", "X.", "arms", ("gap",), x="arm", where={"task": ("none",)}),
            measurements,
            plans[0].quantities,
        )


def test_one_scale_is_for_all_panels_and_takes_one_unit(study):
    plans, tables = study
    measurements = of(plans[0], tables)["measurements"]
    own, one = (
        Picture("both", "Both", "Both.", "course", ("accuracy", "mui"), series="task", one_scale=one)
        for one in (False, True)
    )
    data, _ = rows(one, measurements, plans[0].quantities)
    assert Laid(own, data).domain("accuracy") != Laid(own, data).domain("mui")
    assert Laid(one, data).domain("accuracy") == Laid(one, data).domain("mui")
    shown = data["seeds"]["value"]
    low, high = Laid(one, data).domain("mui")
    assert low <= shown.min() < shown.max() <= high
    steps = {**plans[0].quantities, "mui": Meaning("the step at which it turns", "steps")}
    with pytest.raises(ValueError, match="both: one_scale with quantities in share, steps; their units are the same"):
        rows(one, measurements, steps)


def test_names_along_a_panel_are_broken_between_words_alone():
    """Six names of which each has room for seven letters: longer ones are turned, not cut."""

    def ticks(names):
        found = Measured("x", 0, {"q": Meaning("a number")})
        for name in names:
            found.add("q", 1.0, task=name)
        data, _ = rows(Picture("p", "P", "P.", "arms", ("q",), x="task"), found.frame(), found.quantities)
        axes = Figure().subplots()
        draw(axes, Laid(Picture("p", "P", "P.", "arms", ("q",), x="task"), data), "")
        return [(tick.get_text(), tick.get_rotation()) for tick in axes.get_xticklabels()]

    long = ["sorting", "boolean", "counting", "reversal", "brackets", "facts"]
    assert ticks(long) == [(name, 35) for name in long]
    assert ticks(["sorting", "no facts", "a b c"]) == [("sorting", 0), ("no facts", 0), ("a b c", 0)]
    assert ticks(["random neurons doubled", "untouched", "places"])[0] == ("random neurons\ndoubled", 0)


def test_where_keeps_its_rows_and_their_order(study):
    plans, tables = study
    picture = Picture(
        "gaps", "Gaps", "Gaps.", "arms", ("gap",), x="arm", where={"task": ("",), "arm": ("random", "plain")}
    )
    data, missing = rows(picture, of(plans[0], tables)["measurements"], plans[0].quantities)
    assert set(data["means"]["arm"]) == {"random", "plain"}
    assert len(data["seeds"]) == 10
    assert missing == ""


def test_tables_that_do_not_belong_to_the_plans_are_refused(study, shown, tmp_path):
    plans, tables = study
    with pytest.raises(ValueError, match="experiment 'sparse', which is not given"):
        written(tmp_path / "a.html", plans[:2], tables, shown)
    with pytest.raises(ValueError, match="the page is made of the tables"):
        written(tmp_path / "a.html", plans, {"measurements": tables["measurements"]}, shown)
    decisions = tables["experiment_decisions"].assign(rule="confirmed whatever comes")
    with pytest.raises(ValueError, match="crowded: unmoved and wider have another rule in the table"):
        written(tmp_path / "a.html", plans, {**tables, "experiment_decisions": decisions}, shown)


def test_a_plan_has_one_primary_hypothesis_and_names_that_are_files():
    experiment, _, planned = EXPERIMENTS["contrary"]
    with pytest.raises(ValueError, match="becomes a file"):
        Plan.of("con/trary", planned, experiment)
    two = {**planned["hypotheses"], "grown": {**planned["hypotheses"]["grown"], "primary": True}}
    with pytest.raises(ValueError, match="found 2 primary hypotheses"):
        Plan.of("contrary", {**planned, "hypotheses": two}, experiment)
    named = SimpleNamespace(QUANTITIES={}, PICTURES=(Picture("a b", "A", "A.", "course", ("q",)),))
    with pytest.raises(ValueError, match="'a b' becomes a file"):
        Plan.of("contrary", planned, named)


def test_a_study_without_experiments_has_a_page(study, tmp_path):
    tables = {name: table.iloc[:0] for name, table in study[1].items()}
    page = written(tmp_path / "none.html", [], tables, ({}, {}))
    assert "There is no experiment." in page.words


def test_the_paper_is_neither_supported_nor_contradicted_without_a_decision():
    region = {"confirmed": (Region(above=0.0),), "refuted": (Region(below=0.0),), "needs": {}}
    about = Hypothesis("a", "A", "e", **region, paper="confirmed")
    assert wording.for_paper(about, "") == "neither, undecided"
    assert wording.for_paper(about, "contradicts") == "contradicts the paper"
    assert wording.for_paper(Hypothesis("a", "A", "e", **region), "") == "the paper says nothing"


def test_rounds_that_end_at_steps_of_their_own_meet_at_the_mean_step():
    """Two seeds, three rounds each: 10 and 20, 12 and 24; an arm that kept another number of steps stays as it is."""
    quantities = {"accuracy": Meaning("share of exact answers", "share")}
    steps = {("mui", 0): (0, 10, 20), ("mui", 1): (0, 12, 24), ("static", 0): (0, 10), ("static", 1): (0, 11, 12)}
    parts = []
    for (arm, seed), own in steps.items():
        measured = Measured("loop", seed, quantities)
        for place, step in enumerate(own):
            measured.add("accuracy", 0.1 * place + 0.02 * seed, arm=arm, step=step)
        parts += measured.rows
    picture = Picture("course", "Course", "Course.", "course", ("accuracy",), series="arm")
    data, said = rows(picture, MEASUREMENTS.frame(parts), quantities)
    means = data["means"][data["means"]["arm"] == "mui"]
    assert means["step"].tolist() == [0, 11, 22]
    assert means["mean"].tolist() == pytest.approx([0.01, 0.11, 0.21])
    assert means["n_seeds"].tolist() == [2, 2, 2]
    assert sorted(data["means"][data["means"]["arm"] == "static"]["step"]) == [0, 10, 11, 12]
    assert said == "Steps of one round differ between seeds by up to 4 and are drawn at their mean."
