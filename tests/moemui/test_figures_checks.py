"""Figures of what checks a study: settings, masking, diagnostics, published figures. They show what the tables say."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from moemui.laws import diagnostics as flags
from moemui.laws import published as paper_figures
from moemui.report.figures import diagnostics, masking, published, settings
from moemui.report.findings.flags import FLAGS
from moemui.report.views import NothingToShow

FIGURES = (settings.FIGURE, masking.FIGURE, diagnostics.FIGURE, published.FIGURE)


@pytest.fixture(scope="module")
def checked(untouched_tables, choice):
    """The made-up study with two thresholds masked, its flags, and one model under a name that the paper has."""
    made = dict(untouched_tables)
    effect = made["masking_effect"]
    more = effect.assign(threshold=0.01, n_masked=600, share_masked=0.5, loss_key=effect["loss_key"] + 0.1)
    more = more.assign(loss_key_low=effect["loss_key_low"] + 0.1, loss_key_high=effect["loss_key_high"] + 0.1)
    effect = effect.assign(share_masked=0.05, n_masked_control=30)
    made["masking_effect"] = pd.concat([effect, more.assign(n_masked_control=600)], ignore_index=True)
    made["diagnostics"] = flags.rows(
        **{name: made[name] for name in ("utilization", "key_experts", "masking_effect", "phases")},
        curve_setting=choice.curves, expert_setting=choice.experts, masking_setting=choice.masking,
        expert_threshold=0.6,
    )  # fmt: skip
    names = {
        "tiny-olmoe": "OLMoE", "tiny-deepseek": "DeepSeek-V2-Lite", "facts": "MATH",
        "step-00100": "1T", "step-00400": "2T", "step-00800": "3T",
    }  # fmt: skip
    sources = ("performance", "utilization", "key_experts", "expert_frequency")
    made["published"], made["published_agreement"] = paper_figures.rows(
        **{name: made[name].replace(names) for name in sources},
        curve_setting=choice.curves, expert_setting=choice.experts, expert_threshold=0.6,
    )  # fmt: skip
    return made


@pytest.fixture
def tables(checked):
    """The same; a test may change its copy."""
    return {name: frame.copy() for name, frame in checked.items()}


def named_layers(chart):
    """Layers by the name of their data set, over all views."""
    found = {}
    for layer in itertools.chain.from_iterable(view["layer"] for view in chart.views):
        if layer.get("data", {}).get("name") == layer.get("name") and "name" in layer:
            found.setdefault(layer["name"], []).append(layer)
    return found


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_data_set_is_drawn_and_explained(tables, choice, figure):
    data = figure.data(tables, choice)
    chart = figure.page(data, choice)
    assert set(named_layers(chart)) == set(data)
    for rows in data.values():
        assert len(rows)
        assert all(column.meaning for column in figure.columns(rows))
    if chart.panel:
        assert all(chart.panel in rows for rows in data.values())
    if chart.series:
        assert set(chart.series.looks) == set(next(iter(data.values()))[chart.series.column])


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_a_study_without_any_says_so(empty_tables, choice, figure):
    with pytest.raises(NothingToShow, match=r"\.$"):
        figure.data(empty_tables, choice)


def test_settings_stand_by_formulation_then_threshold():
    labels = [
        "activation/pairs/0.001",
        "projection/pairs/0.01",
        "projection/pairs/0.002",
        "projection/pairs/0.002/no_gate",
    ]
    assert settings.in_order([*labels, labels[0]]) == [
        "projection/pairs/0.002", "projection/pairs/0.01", "projection/pairs/0.002/no_gate", "activation/pairs/0.001",
    ]  # fmt: skip


def test_short_names_tell_what_is_not_as_usual():
    assert settings.short("projection/pairs/0.0008") == "proj 0.08 %"
    assert settings.short("activation/neurons/0.01/global_topk/no_gate") == "act 1 % neurons global no_gate"


def test_each_pair_of_settings_is_one_cell_of_the_tables_spearman_and_cosine(tables, choice):
    pairs = settings.data(tables, choice)["pairs"]
    table = tables["sensitivity"]
    assert len(pairs) == table[["measure", "setting_a"]].notna().all(axis=1).sum() == len(table)
    names = settings.in_order([*table["setting_a"], *table["setting_b"]])
    for row in pairs.to_dict("records"):
        assert names.index(row["setting_a"]) < names.index(row["setting_b"])
        of = table[(table["measure"] == row["measure"])]
        own = of[
            [{row["setting_a"], row["setting_b"]} == {a, b} for a, b in zip(of.setting_a, of.setting_b, strict=True)]
        ]
        statistic = {"mui": "spearman", "key_expert_proportion": "cosine"}[row["measure"]]
        assert row["agreement"] == own[statistic].item()
        assert row["agreement_low"] == own[f"{statistic}_clustered_low"].item()


def test_on_paper_mui_lies_below_the_diagonal_and_key_experts_above(tables, choice):
    data = settings.data(tables, choice)
    axes = settings.paper(data, choice).axes[0]
    matrix = np.ma.filled(np.ma.asarray(axes.collections[0].get_array()), np.nan)
    names = settings.in_order([*data["pairs"]["setting_a"], *data["pairs"]["setting_b"]])
    for row in data["pairs"].to_dict("records"):
        first, second = names.index(row["setting_a"]), names.index(row["setting_b"])
        assert matrix[(second, first) if row["measure"] == "mui" else (first, second)] == row["agreement"]
    assert np.isfinite(matrix).sum() == len(data["pairs"])


def test_settings_without_a_value_are_empty_cells_with_their_reason(tables, choice):
    table = tables["sensitivity"]
    table.loc[table.index[0], ["spearman", "note"]] = [np.nan, "all values are equal"]
    data = settings.data(tables, choice)
    assert list(data["missing"]["note"]) == ["all values are equal"]
    assert len(data["pairs"]) == len(table) - 1
    assert "missing" in named_layers(settings.page(data, choice))


def test_masking_sets_key_neurons_beside_both_controls(tables, choice):
    rows = masking.data(tables, choice)["tasks"].set_index(["model", "task", "condition"])
    key, same, often = masking.LOOKS
    assert len(rows) == 2 * 3 * 3
    # 0.30 − 0.05 with shared experts; the controls lose 0.01 and 0.02
    assert rows.loc[("tiny-deepseek", "addition", key), "loss"] == pytest.approx(0.25)
    assert rows.loc[("tiny-olmoe", "addition", same), "loss"] == pytest.approx(0.01)
    assert rows.loc[("tiny-olmoe", "addition", often), "loss_high"] == pytest.approx(0.05)
    assert rows.loc[("tiny-olmoe", "addition", often), "nll_increase"] == pytest.approx(0.1)
    # 60 key neurons are 5 %, of which the controls found 30 others
    assert rows.loc[("tiny-olmoe", "facts", key), ["n_masked", "share_masked", "n_seeds"]].tolist() == [60, 0.05, 0]
    assert rows.loc[("tiny-olmoe", "facts", same), ["n_masked", "share_masked", "n_seeds"]].tolist() == [30, 0.025, 5]


def test_masking_curves_are_means_over_tasks_at_each_threshold(tables, choice):
    means = masking.data(tables, choice)["means"].set_index(["model", "condition", "threshold"])
    assert len(means) == 2 * 3 * 2
    row = means.loc[("tiny-olmoe", masking.KEY, 0.01)]
    assert row["loss"] == pytest.approx((0.4 + 0.4 + 0.12) / 3)
    # three independent intervals of ± 0.03: √3 · 0.03 / 3
    assert row["loss_high"] - row["loss"] == pytest.approx(0.03 / np.sqrt(3))
    assert (row["share_masked"], row["n_tasks"], row["n_samples"]) == (0.5, 3, 600)


def test_masking_curves_compare_the_same_tasks(tables, choice):
    effect = tables["masking_effect"]
    gap = (effect["task"] == "facts") & (effect["threshold"] == 0.01) & (effect["model"] == "tiny-olmoe")
    effect.loc[gap, ["loss_key", "loss_key_low", "loss_key_high"]] = np.nan
    means = masking.data(tables, choice)["means"].set_index(["model", "condition", "threshold"]).sort_index()
    assert set(means.loc["tiny-olmoe", "n_tasks"]) == {2}
    assert set(means.loc["tiny-deepseek", "n_tasks"]) == {3}
    assert means.loc[("tiny-olmoe", masking.KEY, 0.001), "loss"] == pytest.approx(0.30)


def test_one_masked_threshold_has_no_curve(study_tables, choice):
    data = masking.data(study_tables, choice)
    assert list(data) == ["tasks"]
    assert len(masking.page(data, choice).views) == 1


def test_thresholds_of_another_formulation_are_no_curve(tables, choice):
    effect = tables["masking_effect"]
    effect.loc[effect["threshold"] == 0.01, "formulation"] = "glu"
    assert list(masking.data(tables, choice)) == ["tasks"]


def test_masking_on_paper_marks_every_loss(tables, choice):
    data = masking.data(tables, choice)
    drawing = masking.paper(data, choice)
    marks = [
        {(round(float(x), 6), round(float(y), 6)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        for axes in drawing.axes
        for line in axes.lines
        if axes.get_visible()
    ]
    drawn = set().union(*marks)
    tasks = ["addition", "brackets", "facts"]
    for row in data["tasks"].to_dict("records"):
        height = tasks.index(row["task"]) + 0.24 * (list(masking.LOOKS).index(row["condition"]) - 1)
        assert (round(row["loss"], 6), round(height, 6)) in drawn
    for row in data["means"].to_dict("records"):
        assert (round(100 * row["share_masked"], 6), round(row["loss"], 6)) in drawn


def test_masking_without_grades_is_left_out(tables, choice):
    effect = tables["masking_effect"]
    effect[["loss_key", "loss_random"]] = np.nan
    with pytest.raises(NothingToShow, match="on no task that is graded"):
        masking.data(tables, choice)


def test_every_model_has_a_tile_for_each_flag_in_order(tables, choice):
    rows = diagnostics.data(tables, choice)["flags"]
    assert list(zip(rows["model"], rows["flag"], strict=True)) == [
        (model, flag) for model in ("tiny-olmoe", "tiny-deepseek") for flag in FLAGS
    ]
    table = tables["diagnostics"].set_index(["model", "flag"])
    for row in rows.to_dict("records"):
        assert row["outcome"] == table.loc[(row["model"], row["flag"]), "outcome"]
        assert row["evidence"] == table.loc[(row["model"], row["flag"]), "evidence"]


def test_tiles_tell_figure_interval_and_limit(tables, choice, fill):
    tables["diagnostics"] = fill("diagnostics", [
        {"model": "m", "checkpoint": "c", "flag": "mui_without_decline", "outcome": "raised", "limit": 0.3,
         "value": 0.4, "value_low": 0.35, "value_high": 0.45, "second_limit": 0.0, "second": 0.0123},
        {"model": "m", "checkpoint": "c", "flag": "shared_and_total_mui_high", "outcome": "not measured", "limit": 0.5,
         "second": 0.4, "second_low": 0.35, "second_high": 0.45, "second_limit": 0.3},
        {"model": "m", "checkpoint": "c", "flag": "few_key_experts", "outcome": "undecided", "limit": 0.05,
         "value": 0.049, "value_low": 0.04, "value_high": 0.06},
    ])  # fmt: skip
    data = diagnostics.data(tables, choice)
    assert list(data["flags"]["figures"]) == [
        "MUI 40.0 % [35.0, 45.0] (limit 30); last step 1.2 points (no interval)",
        "key 4.9 % [4.0, 6.0] (limit 5)",
        "shared not measured (limit 50); all 40.0 % [35.0, 45.0] (limit 30)",
    ]
    said = {text.get_text() for text in diagnostics.paper(data, choice).axes[0].texts}
    assert {"▲ raised", "? undecided", "– not measured"} < said  # symbols and words, not colour alone


def test_every_outcome_has_a_symbol_of_its_own():
    assert len({symbol for symbol, *_ in diagnostics.OUTCOMES.values()}) == 4
    assert set(diagnostics.FIGURES) == set(FLAGS)


def test_each_published_value_stands_beside_the_own_one(tables, choice):
    rows = published.data(tables, choice)["pairs"]
    table = tables["published"]
    assert len(rows) == 2 * len(table) > 0
    place = ["figure", "metric", "published_model", "model", "checkpoint", "task", "expert"]
    for _, pair in rows.groupby(place, sort=False):
        assert list(pair["source"]) == [published.OWN, published.PRINTED]
        own, printed = pair["value"]
        assert pair["difference"].tolist() == pytest.approx([own - printed] * 2)
        assert pair["value_low"].isna().iloc[1]
    printed = rows[(rows["source"] == published.PRINTED) & (rows["task"] == "mean")]
    printed = printed.set_index(["figure", "published_model", "metric"])["value"]
    assert printed["mui_performance", "DeepSeek-V2-Lite", "mui"] == pytest.approx(0.293)  # as on the project page
    assert {"OLMoE-1T", "OLMoE-2T", "OLMoE-3T"} <= set(rows["published_model"])


def test_published_on_paper_marks_both_values(tables, choice):
    data = published.data(tables, choice)
    axes = next(axes for axes in published.paper(data, choice).axes if axes.get_title() == "MUI")
    drawn = {round(float(x), 6) for line in axes.lines for x in line.get_xdata()}
    assert drawn == {round(value, 6) for value in data["pairs"].query("metric == 'mui'")["value"]}
    assert axes.get_yticklabels()[0].get_text() == "DeepSeek-V2-Lite"


def test_a_study_of_other_models_is_not_set_beside_the_paper(study_tables, choice):
    with pytest.raises(NothingToShow, match="have the names of ones that the paper printed"):
        published.data(study_tables, choice)
