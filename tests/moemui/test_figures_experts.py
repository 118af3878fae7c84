"""Figures of experts: the most frequent ones, experts by task, co-activation, enrichment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from moemui.experts import enrichment as tests_of_enrichment
from moemui.report import views
from moemui.report.figures import coactivation, enrichment, expert_axis, expert_tasks, top_experts
from moemui.report.figures.figure import Figure
from moemui.report.views import NothingToShow
from moemui.statistics.intervals import wilson

MODULES = (top_experts, expert_tasks, coactivation, enrichment)
PAIR = {"model": "tiny-deepseek", "checkpoint": "step-00800", "tokens": 3e6, "order": 3, "n_samples": 600}


@pytest.fixture(scope="module")
def pairs(choice, fill):
    """Pairs among 24 experts of a model at two checkpoints, those of layer 10 more frequent, and their means."""
    experts = [f"L{layer}-E{number}" for layer in (10, 2) for number in range(11)] + ["L10-S1", "L2-S1"]
    often = {expert: 100 + expert_axis.place(expert)[0] * 20 + number for number, expert in enumerate(experts)}
    rows = []
    for order, (i, a) in ((order, pair) for order in (0, 3) for pair in enumerate(experts)):
        for j, b in enumerate(experts[i + 1 :], i + 1):
            phi = np.nan if {a, b} == {"L10-E9", "L10-E10"} else (i - j) / 30 if (i + j) % 2 else 0.9
            together = {"verdict_within": "together", "q_within": 0.01} if phi == 0.9 else {"q_within": 0.2}
            rows.append(
                PAIR
                | {"order": order, "checkpoint": f"step-00{order}00"}
                | choice.experts._asdict()
                | {"expert_a": a, "expert_b": b, "n_a": often[a], "n_b": often[b], "n_both": 7, "phi_within": phi}
                | {"kind_a": kind(a), "kind_b": kind(b), "verdict_within": "undecided", "note": "made up"}
                | together
            )
    means = [
        PAIR | choice.experts._asdict() | {"pairs": pairs, "mean_phi_within": mean, "p_within": 0.04, "note": "made up"}
        for pairs, mean in (("all", 0.1), ("same_layer", np.nan), ("across_layers", 0.2))
    ]
    made = {"coactivation": rows, "coactivation_summary": means}
    return {name: fill(name, made[name]) for name in made}


@pytest.fixture
def expert_tables(study_tables, pairs):
    """The study with pairs of experts of one model."""
    return study_tables | {name: frame.copy() for name, frame in pairs.items()}


def kind(expert: str) -> str:
    return "shared" if "-S" in expert else "routed"


def named_layers(figure: Figure, data, choice) -> set[str]:
    return {layer["name"] for view in figure.page(data, choice).views for layer in view["layer"] if "name" in layer}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.FIGURE.name)
def test_every_column_is_explained_and_every_data_set_has_its_marks(expert_tables, choice, module):
    figure = module.FIGURE
    data = figure.data(expert_tables, choice)
    assert all(column.meaning for rows in data.values() for column in figure.columns(rows))
    assert {name for name, rows in data.items() if len(rows)} <= named_layers(figure, data, choice)
    chart = figure.page(data, choice)
    rows = next(iter(data.values()))
    assert set(chart.series.looks) == set(rows[chart.series.column])
    assert set(chart.titles) == set(rows["model"])


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.FIGURE.name)
def test_a_figure_needs_no_more_than_the_tables_it_names(expert_tables, empty_tables, choice, module):
    needed = {name: expert_tables[name] for name in module.FIGURE.tables}
    data = module.data(empty_tables | needed, choice)
    assert module.paper(data, choice).axes
    with pytest.raises(NothingToShow, match=r"\.$"):
        module.data(empty_tables, choice)


@pytest.mark.parametrize("module", [top_experts, expert_tasks, coactivation], ids=lambda module: module.FIGURE.name)
def test_what_lies_on_a_mark_tells_the_same(expert_tables, choice, module):
    """Numbers, diamonds and triangles cover bars and cells, so they would else hide what these tell."""
    data = module.data(expert_tables, choice)
    layers = module.page(data, choice).views[0]["layer"]
    below = next(layer for layer in layers if layer.get("name") == next(iter(data)))["encoding"]["tooltip"]
    above = [layer["encoding"] for layer in layers if "name" not in layer and "value" not in layer["encoding"]["x"]]
    assert above
    assert all(encoding["tooltip"] == below for encoding in above)


def test_places_follow_the_model_not_the_alphabet():
    names = ["L10-E2", "L2-S1", "L2-E10", "L2-E9"]
    assert sorted(names, key=expert_axis.place) == ["L2-E9", "L2-E10", "L2-S1", "L10-E2"]
    with pytest.raises(ValueError, match="'E7' is no expert's name; they are like L17-E8"):
        expert_axis.place("E7")


def test_top_experts_have_the_frequency_and_interval_of_all_samples(study_tables, choice):
    rows = study_tables["expert_frequency"]
    rows.loc[rows["task"] == "facts", "n_samples"] = 600  # of 1,000
    top = top_experts.data(study_tables, choice)["experts"]
    best = top[top["model"] == "tiny-olmoe"].iloc[0]
    active = round(0.60 * 200 + 0.62 * 200 + 0.64 * 600)
    assert (best["expert"], best["rank"], best["n_samples"], best["n_tasks"]) == ("L2-E3", 1, 1000, 3)
    assert best["frequency"] == pytest.approx(active / 1000)
    assert (best["frequency_low"], best["frequency_high"]) == pytest.approx(wilson(successes=active, trials=1000))
    assert list(top.groupby("model", sort=False).size()) == [10, 10]


def test_bars_and_diamonds_are_at_the_values(study_tables, choice):
    data = top_experts.data(study_tables, choice)
    figure = top_experts.paper(data, choice)
    for axes, (_, own) in zip(figure.axes, data["experts"].groupby("model", sort=False), strict=True):
        widths = {round(bar.get_y() + bar.get_height() / 2): bar.get_width() for bar in axes.patches}
        assert [widths[place] for place in range(10)] == pytest.approx(list(own["frequency"]))
        diamonds = next(line for line in axes.lines if line.get_marker() == "D")
        assert list(diamonds.get_xdata()) == pytest.approx(list(own["expert_mui"]))
        bold = {label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"}
        assert bold == set(own.loc[own["kind"] == "shared", "expert"])


def test_experts_by_task_are_those_frequent_on_any_task(study_tables, choice):
    """tiny-olmoe has 12 experts; the two least frequent of every task are the same, until one leads a task."""
    rows = study_tables["expert_frequency"]
    cells = expert_tasks.data(study_tables, choice)["cells"]
    own = cells[cells["model"] == "tiny-olmoe"]
    chosen = set(own["expert"])
    assert len(chosen) == 10
    assert set(own["places"]) == {10}
    missing = sorted({f"L{layer}-E{number}" for layer in range(3) for number in range(4)} - chosen)[0]
    at = (
        (rows["model"] == "tiny-olmoe") & (rows["expert"] == missing) & (rows["task"] == "facts") & (rows["order"] == 3)
    )
    rows.loc[at, ["rank", "frequency"]] = 1, 0.99
    rows = expert_tasks.data(study_tables, choice)["cells"]
    shown = views.names(rows[rows["model"] == "tiny-olmoe"], "expert")
    cells = rows.set_index(["model", "expert", "task"]).sort_index()
    assert cells.loc[("tiny-olmoe", missing, "facts"), "frequency"] == 0.99
    assert set(cells.xs(("tiny-olmoe", missing)).index) == {"addition", "brackets", "facts"}
    assert shown == sorted(shown, key=expert_axis.place)


def test_too_many_experts_leave_each_task_the_same_number():
    """Eight tasks with experts of their own: 5 of each make 40, 6 would make 48."""
    rows = pd.DataFrame([{"expert": f"L{task}-E{rank}", "rank": rank} for task in range(8) for rank in range(1, 20)])
    assert expert_tasks.places(rows) == 5
    alike = pd.DataFrame([{"expert": f"L0-E{rank}", "rank": rank} for _ in range(8) for rank in range(1, 20)])
    assert expert_tasks.places(alike) == 10
    many = pd.DataFrame([{"expert": f"L{task}-E{rank}", "rank": rank} for task in range(50) for rank in (1, 2)])
    assert expert_tasks.places(many) == 1


def test_the_heat_map_holds_each_cell_at_its_place(study_tables, choice):
    data = expert_tasks.data(study_tables, choice)
    axes = expert_tasks.paper(data, choice).axes[1]
    experts, tasks = (
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    for cell in data["cells"][data["cells"]["model"] == "tiny-deepseek"].itertuples():
        value = axes.images[0].get_array()[experts.index(cell.expert), tasks.index(cell.task)]
        assert value == cell.frequency


def test_pairs_are_of_the_most_frequent_experts_in_the_models_order(expert_tables, choice):
    data = coactivation.data(expert_tables, choice)
    both = pd.concat([data["pairs"], data["untested"]])
    experts = set(both["expert_a"]) | set(both["expert_b"])
    assert len(experts) == 20
    assert {f"L2-E{number}" for number in range(4)} & experts == set()  # the least frequent four
    assert len(both) == 20 * 19 / 2
    assert all(
        expert_axis.place(a) < expert_axis.place(b) for a, b in zip(both["expert_a"], both["expert_b"], strict=True)
    )
    assert set(both["checkpoint"]) == {"step-00300"}
    turned = both[(both["expert_a"] == "L2-S1") & (both["expert_b"] == "L10-S1")].iloc[0]
    table = expert_tables["coactivation"]
    row = table[(table["expert_a"] == "L10-S1") & (table["expert_b"] == "L2-S1")].iloc[-1]
    assert (turned["n_a"], turned["n_b"], turned["kind_a"]) == (row["n_b"], row["n_a"], "shared")


def test_pairs_without_a_test_are_told_apart_from_pairs_without_correlation(expert_tables, choice):
    data = coactivation.data(expert_tables, choice)
    assert list(data["untested"][["expert_a", "expert_b"]].itertuples(index=False)) == [("L10-E9", "L10-E10")]
    assert data["pairs"]["phi_within"].notna().all()
    axes = coactivation.paper(data, choice).axes[0]
    names = sorted({*data["pairs"]["expert_a"], *data["pairs"]["expert_b"]}, key=expert_axis.place)
    image = np.asarray(axes.images[0].get_array())
    unknown = image[names.index("L10-E9"), names.index("L10-E10")]
    assert unknown == pytest.approx([200 / 255] * 3 + [1], abs=0.01)  # grey
    pair = data["pairs"].iloc[0]
    known = image[names.index(pair["expert_a"]), names.index(pair["expert_b"])]
    assert known[3] == 1
    assert not known[0] == known[1] == known[2]
    triangles = next(line for line in axes.lines if line.get_marker() == "^")
    assert len(triangles.get_xdata()) == (data["pairs"]["verdict_within"] == "together").sum() > 0


def test_means_over_pairs_that_are_not_known_are_left_out(expert_tables, choice):
    means = coactivation.data(expert_tables, choice)["means"]
    assert list(zip(means["pairs"], means["mean_phi_within"], strict=True)) == [("all", 0.1), ("across_layers", 0.2)]
    assert list(means["p_mean"]) == [0.04, 0.04]
    meanings = {column.name: column.meaning for column in coactivation.FIGURE.columns(means)}
    assert meanings["p_mean"].startswith("chance of a mean_phi_within")


def test_coactivation_without_any_test_is_left_out(expert_tables, choice):
    expert_tables["coactivation"]["phi_within"] = np.nan
    with pytest.raises(NothingToShow, match="No two experts of a model both vary within a task"):
        coactivation.data(expert_tables, choice)


def test_enrichment_without_shared_experts_is_left_out(study_tables, choice):
    rows = study_tables["enrichment"]
    study_tables["enrichment"] = rows[rows["model"] == "tiny-olmoe"]
    with pytest.raises(NothingToShow, match="No model has shared and routed experts"):
        enrichment.data(study_tables, choice)


def test_enrichment_shows_the_last_checkpoint_beside_the_untrained_one(study_tables, choice):
    tests = enrichment.data(study_tables, choice)["tests"]
    assert set(tests["model"]) == {"tiny-deepseek"}  # tiny-olmoe has no shared experts
    assert list(tests.groupby(["state", "checkpoint"]).size().items()) == [
        (("trained", "step-00800"), 4), (("untrained", "step-00000"), 4)
    ]  # fmt: skip
    assert list(tests["task_set"].unique()) == ["all tasks", "addition", "brackets", "facts"]
    row = tests[(tests["state"] == "trained") & (tests["task_set"] == "all tasks")].iloc[0]
    a, b, c, d = (row[name] + 0.5 for name in enrichment.CELLS)
    ratio, error = a * d / b / c, np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
    ends = [ratio * np.exp(sign * 1.959964 * error) for sign in (-1, 1)]
    assert [row[name] for name in enrichment.RATIO] == pytest.approx([ratio, *ends])
    assert row["n_experts"] == 3 * (4 + 1)
    assert row["odds_ratio_note"] == "infinite"  # all shared experts are key, and the table's own ratio has no value


def test_forests_have_a_mark_at_each_odds_ratio(study_tables, choice):
    data = enrichment.data(study_tables, choice)
    axes = enrichment.paper(data, choice).axes[0]
    drawn = {round(float(line.get_xdata()[0]), 6) for line in axes.lines if line.get_marker() in ("o", "D")}
    assert drawn == {round(value, 6) for value in data["tests"]["odds_ratio_corrected"]}
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 4
    low, high = axes.get_xlim()
    assert low < data["tests"][enrichment.RATIO[1]].min()
    assert high > data["tests"][enrichment.RATIO[2]].max()
    assert low < 1 < high


def test_a_test_without_odds_ratio_is_said(study_tables, choice):
    """On brackets no expert is key, so there is nothing to compare, while the other tasks have an odds ratio."""
    rows = study_tables["expert_frequency"]
    rows.loc[rows["task"] == "brackets", "frequency"] = 0.0
    rows.loc[rows["task"] == "brackets", "is_key"] = False
    study_tables["enrichment"] = tests_of_enrichment.rows(frequencies=rows)
    data = enrichment.data(study_tables, choice)
    assert set(data["tests"]["task_set"]) == {"addition", "facts"}
    assert set(data["without"]["task_set"]) == {"all tasks", "brackets"}
    assert set(data["without"]["p_greater"]) == {1.0}
    assert "without" in named_layers(enrichment.FIGURE, data, choice)
    texts = [text.get_text().strip() for text in enrichment.paper(data, choice).axes[0].texts]
    assert texts == ["no odds ratio"] * len(data["without"])


@pytest.mark.parametrize(
    ("ends", "labels"),
    [((0.5, 2000.0), ["1", "10", "100", "1000"]), ((1e-5, 1e7), ["10⁻³", "1", "1000", "10⁶"]), ((0.9, 1.2), ["1"])],
)
def test_ticks_are_powers_of_ten_around_one(ends, labels):
    assert [enrichment._power(power) for power in enrichment._ticks(*ends)] == labels


def test_figures_show_the_last_checkpoint(expert_tables, choice):
    for module, name in ((top_experts, "experts"), (expert_tasks, "cells")):
        assert set(module.data(expert_tables, choice)[name]["checkpoint"]) == {"step-00800"}
    assert views.TOP == 10
