"""The figures of the laws show the points, the fits and the curves that the tables hold."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from moemui.laws import laws
from moemui.report.figures import utility_law, utilization_decay
from moemui.report.figures.panel_domains import panel_domain
from moemui.report.views import NothingToShow, last
from moemui.tables import laws as tables


def marks(axes):
    """All points of one panel."""
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def drawn(module, study, choice):
    figure = module.FIGURE
    return figure.paper(figure.data(study, choice), choice)


def layers(chart, shown):
    """The layers that have a mark for each row of a data set, by its name."""
    return {layer["name"]: layer for view in chart.views for layer in view["layer"] if layer.get("name") in shown}


def test_the_utility_law_marks_own_and_published_points_apart(study_tables, choice):
    left, right = drawn(utility_law, study_tables, choice).axes
    cells = laws.cells(
        utilization=study_tables["utilization"], performance=study_tables["performance"], setting=choice.curves
    )
    for _, group in cells[cells["tokens"] != 0].groupby("model"):
        for row in laws.means(cells=group).itertuples():
            assert (round(row.mui, 6), round(row.accuracy, 6)) in marks(left)
    assert (0.091, 0.805) in marks(right)  # GPT-OSS-20B as printed
    assert (0.385, 0.267) in marks(right)  # OLMoE-5T
    assert (0.091, 0.805) not in marks(left)
    texts = {text.get_text(): text for text in right.texts}
    assert len(texts) == 9
    assert texts["GPT-OSS-20B"].xy == (0.091, 0.805)
    assert texts["OLMoE in training"].xy == (0.365, 0.154)


def test_points_are_those_that_laws_are_fitted_to(study_tables, choice):
    points = utility_law.data(study_tables, choice)["points"]
    # three trained checkpoints of two models, and the last of each again as one of the models
    assert points.groupby("scope", sort=False).size().to_dict() == {"checkpoints": 6, "models": 2, "published": 14}
    own = points[points["panel"] == utility_law.OWN]
    assert set(own["n_tasks"]) == {3}
    assert set(own["common_m"]) == {200}
    assert own[["mui_low", "mui_high", "accuracy_low", "accuracy_high"]].notna().all(axis=None)
    ends = own[own["scope"] == "models"]
    assert list(ends["checkpoint"]) == ["step-00800"] * 2
    assert ends["accuracy"].iloc[0] == pytest.approx((150 + 160 + 170) / 3 / 200)


def test_over_models_means_are_over_the_tasks_that_all_have(study_tables, choice):
    table = study_tables["performance"]
    lacking = (table["model"] == "tiny-olmoe") & (table["task"] == "facts")
    table.loc[lacking, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    points = utility_law.data(study_tables, choice)["points"]
    of = points[points["model"] == "tiny-deepseek"].set_index(["scope", "checkpoint"])
    assert of.loc[("checkpoints", "step-00800"), "accuracy"] == pytest.approx((155 + 165 + 175) / 3 / 200)
    assert of.loc[("models", "step-00800"), "accuracy"] == pytest.approx((155 + 165) / 2 / 200)


def test_the_fits_are_those_of_the_table(study_tables, choice):
    left, right = drawn(utility_law, study_tables, choice).axes
    rows = study_tables["utility_law"].query("scope == 'published' and model == '' and form == 'linear'")
    row = rows.iloc[0]
    lines = [line for line in right.lines if len(line.get_xdata()) == 40 and line.get_color() == "#000000"]
    assert np.asarray(lines[0].get_xdata())[[0, -1]].tolist() == pytest.approx([0.091, 0.434])
    assert lines[0].get_ydata()[0] == pytest.approx(row["intercept"] + row["slope"] * 0.091)
    # three trained checkpoints of two models are too few for a fit of the study's own
    assert not [line for line in left.lines if len(line.get_xdata()) == 40]


def test_own_fits_are_drawn_beside_their_points(study_tables, choice):
    curve = study_tables["utility_curve"].query("scope == 'published' and task == 'mean' and model == ''")
    own = [curve.assign(scope="models"), curve.assign(scope="checkpoints", model="tiny-olmoe")]
    study_tables["utility_curve"] = pd.concat([study_tables["utility_curve"], *own])
    fits = utility_law.data(study_tables, choice)["fits"]
    assert set(fits.loc[fits["panel"] == utility_law.OWN, "line"]) == {utility_law.OVER_MODELS, "tiny-olmoe"}
    left, _ = drawn(utility_law, study_tables, choice).axes
    assert len([line for line in left.lines if len(line.get_xdata()) == 40]) == 4  # two forms each


def test_the_page_of_the_utility_law_names_the_papers_models(study_tables, choice):
    shown = utility_law.data(study_tables, choice)
    chart = utility_law.FIGURE.page(shown, choice)
    assert list(chart.titles) == list(shown["points"]["panel"].unique())
    assert list(chart.series.looks) == list(shown["points"]["line"].unique())
    assert list(layers(chart, shown)) == ["points"]
    texts = [layer for layer in chart.views[0]["layer"] if layer["mark"]["type"] == "text"]
    said = " ".join(json.dumps(layer["transform"]) for layer in texts)
    for name in shown["points"].loc[shown["points"]["line"] == "the paper's models", "model"]:
        assert said.count(f'\\"{name}\\": \\"{name}\\"') == 1
    assert said.count("OLMoE in training") == 1


def test_a_panel_has_the_ends_that_its_data_set_names():
    scale = panel_domain("points", "panel", {"a": (0, 1), "it's": (0.5, 2)})
    assert scale.expr == """({"a": [0.0, 1.0], "it's": [0.5, 2.0]})[data('points')[0]['panel']]"""


def test_decay_draws_every_curve_and_the_fit(study_tables, choice):
    figure = drawn(utilization_decay, study_tables, choice)
    assert [axes.get_title() for axes in figure.axes] == ["tiny-olmoe, step-00800", "tiny-deepseek, step-00800"]
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    curve = study_tables["decay_curve"].query("model == 'tiny-olmoe' and order == 3 and task == 'facts'")
    assert {(round(r, 6), round(i, 6)) for r, i in zip(curve["rank"], curve["incidence"], strict=True)} <= marks(axes)
    assert len(axes.lines) == 2 + 1 + 2  # tasks, untrained, all tasks with its fit
    row = study_tables["decay"].query("model == 'tiny-olmoe' and order == 3 and task == 'all'").iloc[0]
    said = axes.texts[0].get_text().split("\n")
    assert said[0] == f"α = {row['alpha']:.2f} [{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]"
    assert " ".join(said[1:]) == f"best: {row['best']}"


def test_decay_shows_the_last_checkpoint_and_all_tasks_untrained(study_tables, choice):
    shown = utilization_decay.data(study_tables, choice)
    table = study_tables["decay_curve"]
    end, start = last(table), table[(table["order"] == 0) & (table["task"] == "all")]
    assert len(shown["curves"]) == len(end) + len(start)
    assert len(shown["fitted"]) == end.query("task == 'all'")["fitted"].notna().sum() > 0
    assert list(shown["fits"]["checkpoint"]) == ["step-00800"] * 2
    lines = shown["curves"].groupby("line", sort=False)["checkpoint"].unique().map(list).to_dict()
    assert lines.pop("all tasks, untrained") == ["step-00000"]
    assert lines == {line: ["step-00800"] for line in ("addition", "facts", "all tasks")}


def test_a_study_of_untrained_models_alone_draws_them_once(study_tables, choice):
    for name in ("decay", "decay_curve"):
        study_tables[name] = study_tables[name].query("order == 0")
    shown = utilization_decay.data(study_tables, choice)
    assert len(shown["curves"]) == len(study_tables["decay_curve"])
    assert "all tasks, untrained" not in set(shown["curves"]["line"])


def test_the_page_of_decay_marks_every_point_and_says_the_fit(study_tables, choice):
    shown = utilization_decay.data(study_tables, choice)
    chart = utilization_decay.FIGURE.page(shown, choice)
    assert list(chart.series.looks) == ["addition", "facts", "all tasks", "all tasks, untrained"]
    assert chart.titles == {"tiny-olmoe": "tiny-olmoe, step-00800", "tiny-deepseek": "tiny-deepseek, step-00800"}
    found = layers(chart, shown)
    assert list(found) == ["curves", "fits"]
    for channel, column in (("x", "rank"), ("y", "incidence")):
        scale = found["curves"]["encoding"][channel]["scale"]
        assert scale["type"] == "log"
        assert 0 < scale["domain"][0] < shown["curves"][column].min()
        assert shown["curves"][column].max() < scale["domain"][1]
    row = shown["fits"].iloc[0]
    assert f"[{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]" in json.dumps(found["fits"]["transform"])


def test_without_a_fit_the_panel_says_why(study_tables, choice):
    gaps = dict.fromkeys(("alpha", "alpha_low", "alpha_high"), np.nan)
    study_tables["decay"] = study_tables["decay"].assign(**gaps, note="needs 50 key neurons, found 3")
    study_tables["decay_curve"] = study_tables["decay_curve"].assign(fitted=np.nan)
    axes = drawn(utilization_decay, study_tables, choice).axes[0]
    assert " ".join(axes.texts[0].get_text().split()) == "no power law fitted: needs 50 key neurons, found 3"


def test_many_tasks_share_one_look_on_paper_and_none_on_the_page(study_tables, choice):
    curve = study_tables["decay_curve"].query("task == 'facts'")
    more = [curve.assign(task=f"task-{number}") for number in range(10)]
    study_tables["decay_curve"] = pd.concat([study_tables["decay_curve"], *more])
    shown = utilization_decay.data(study_tables, choice)
    figure = utilization_decay.FIGURE.paper(shown, choice)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["all tasks", "all tasks, untrained", "power law"]
    looks = utilization_decay.FIGURE.page(shown, choice).series.looks
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == len(looks) == 14


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (utility_law, "No trained checkpoint has a task with both"),
        (utilization_decay, "The table decay_curve is empty"),
    ],
)
def test_empty_tables_are_left_out_with_a_sentence(empty_tables, choice, module, reason):
    assert {table.name for table in (tables.UTILITY_LAW, tables.DECAY)} <= set(empty_tables)
    with pytest.raises(NothingToShow, match=reason):
        module.data(empty_tables, choice)


@pytest.mark.parametrize("module", [utility_law, utilization_decay])
def test_figures_need_the_tables_they_name_and_explain_every_column(study_tables, empty_tables, choice, module):
    figure = module.FIGURE
    needed = {table: study_tables[table] for table in figure.tables}
    shown = figure.data(empty_tables | needed, choice)
    assert figure.paper(shown, choice).axes
    assert all(column.meaning for rows in shown.values() for column in figure.columns(rows))
    assert "{" not in figure.caption_for(choice)
