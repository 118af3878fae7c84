"""Figures of MUI and of key experts draw what the tables say: saturation, layers, key experts, comparisons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from moemui.report import views
from moemui.report.figures import comparisons, key_experts, layers, saturation
from moemui.report.figures.comparisons import UNSHOWN
from moemui.report.views import MEAN, Choice, NothingToShow

MODULES = {module.FIGURE.name: module for module in (saturation, layers, key_experts, comparisons)}
TASKS = ["addition", "brackets", "facts"]


@pytest.fixture(params=MODULES)
def module(request):
    return MODULES[request.param]


def layers_of(chart, name):
    """The layers of all views with a name."""
    return [layer for view in chart.views for layer in view["layer"] if layer.get("name") == name]


def marks(axes):
    """All marks of one panel."""
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_every_data_set_has_a_layer_of_marks_and_says_what_its_columns_mean(module, study_tables, choice):
    data = module.data(study_tables, choice)
    chart = module.page(data, choice)
    for name, rows in data.items():
        assert len(rows)
        assert all(column.meaning for column in module.FIGURE.columns(rows))
        [layer] = layers_of(chart, name)
        told = layer["encoding"]["tooltip"]["value"]["expr"]
        assert any(f'datum["{samples}"]' in told for samples in ("n_samples", "samples"))  # the panel names the model
    assert set(views.names(next(iter(data.values())), chart.panel)) == {"tiny-olmoe", "tiny-deepseek"}


def test_the_legend_switches_what_the_data_tell_apart(module, study_tables, choice):
    data = module.data(study_tables, choice)
    series = module.page(data, choice).series
    assert set(series.looks) == set(pd.concat([rows[series.column] for rows in data.values()]))
    assert set(series.labels) >= {name for name in series.looks if name in ("models", "routed", MEAN)}


def test_panels_are_headed_by_their_checkpoint_and_captions_by_their_settings(module, study_tables, choice):
    chart = module.page(module.data(study_tables, choice), choice)
    if module is not key_experts:  # its panels have all checkpoints
        assert chart.titles["tiny-olmoe"] == "tiny-olmoe, step-00800"
    shown = choice.experts if module is key_experts else choice.curves
    assert shown.label in module.FIGURE.caption_for(choice)


def test_curves_end_at_the_mui_of_all_samples_and_go_on_to_their_asymptote(study_tables, choice):
    data = saturation.data(study_tables, choice)
    totals = views.last(views.total_mui(study_tables["utilization"], choice.curves)).set_index(["model", "task"])
    ends = data["curves"][data["curves"]["m"] == data["curves"]["n_samples"]].set_index(["model", "task"])
    asymptotes = data["asymptotes"].set_index(["model", "task"])
    assert len(ends) == len(asymptotes) == 6
    for cell in totals.index:
        assert ends.loc[cell, "mui"] == pytest.approx(totals.loc[cell, "mui"]) == asymptotes.loc[cell, "mui"]
        for name in ("chao2", "chao2_low", "chao2_high"):
            assert asymptotes.loc[cell, name] == totals.loc[cell, name]
    figure = saturation.paper(data, choice)
    for panel, model in enumerate(["tiny-olmoe", "tiny-deepseek"]):
        lines = figure.axes[panel].lines
        assert {round(float(line.get_ydata()[-1]), 6) for line in lines if len(line.get_xdata()) == 5} == {
            round(value, 6) for value in totals.loc[model, "mui"]
        }
        beyond = [line for line in lines if line.get_marker() in ("o", "s", "^") and line.get_xdata()[0] > 250]
        assert [float(line.get_ydata()[0]) for line in beyond] == pytest.approx(list(totals.loc[model, "chao2"]))


def test_asymptotes_stand_beside_each_other_beyond_all_samples(study_tables, choice):
    data = saturation.data(study_tables, choice)
    places = saturation._places(data)
    assert list(places) == TASKS
    assert sorted(places.values()) == list(places.values())
    assert min(places.values()) > 200 * saturation.EDGE
    assert max(places.values()) < 200 * saturation.END
    single = {name: rows[rows["task"] == "facts"] for name, rows in data.items()}
    assert list(saturation._places(single)) == ["facts"]
    assert saturation.paper(single, choice).axes


def test_a_task_without_an_asymptote_has_a_curve_alone(study_tables, choice):
    table = study_tables["utilization"]
    estimates = ["chao2", "chao2_low", "chao2_high"]
    table.loc[table["task"] == "facts", estimates] = np.nan
    table.loc[table["task"] == "brackets", estimates] = 0.0  # no key neuron
    data = saturation.data(study_tables, choice)
    assert views.names(data["curves"], "task") == TASKS
    assert views.names(data["asymptotes"], "task") == ["addition"]
    study_tables["utilization"] = table.iloc[:0]
    data = saturation.data(study_tables, choice)
    assert data["asymptotes"].empty
    assert saturation.paper(data, choice).axes
    assert saturation.page(data, choice).views


@pytest.mark.parametrize(
    ("most", "ticks"), [(1, [1]), (2, [1, 2]), (15, [1, 15]), (200, [1, 10, 200]), (400, [1, 10, 100, 400])]
)
def test_the_axis_of_samples_names_powers_of_ten_and_the_last(most, ticks):
    assert saturation._ticks({"curves": pd.DataFrame({"n_samples": [1, most]})}) == ticks


def test_layers_hold_tasks_and_their_mean_by_kind(study_tables, choice):
    rows = study_tables["expert_frequency"]
    rows.loc[rows["task"] == "facts", "n_samples"] = 600
    data = layers.data(study_tables, choice)
    tasks = data["tasks"].set_index(["model", "layer", "kind", "task"]).sort_index()
    # routed experts of layer 0, task 0: frequencies 0.1, 0.2, 0.3, 0.4, expert MUI half of it
    assert tasks.loc[("tiny-olmoe", 0, "routed", "addition"), "mui"] == pytest.approx(0.125)
    assert list(tasks.loc[("tiny-deepseek", 1, "shared"), "n_samples"]) == [200, 200, 600]
    means = data["means"].set_index(["model", "layer", "kind"])
    mean = means.loc[("tiny-olmoe", 0, "routed")]
    assert mean["mui"] == pytest.approx((0.125 + 0.135 + 0.145) / 3)
    assert (mean["n_tasks"], mean["n_samples"]) == (3, 1000)
    drawn = marks(layers.paper(data, choice).axes[0])
    assert (0.0, round(0.135, 6)) in drawn
    assert len(means) == 3 + 6  # tiny-olmoe has no shared experts


def test_the_axis_of_layers_holds_all_shares_and_names_three_at_least(study_tables, choice):
    data = layers.data(study_tables, choice)
    shares = data["tasks"]["mui"]
    for low, high in ((0.0, 1.0), (0.02, 0.9), (0.12, 0.14), (0.0, 0.0), (0.3, 0.3)):
        wide = float(shares.max() - shares.min())
        spread = low + (shares - shares.min()) / wide * (high - low)
        scale = layers._scale(data | {"tasks": data["tasks"].assign(mui=spread)})
        assert scale.low <= spread.min() <= spread.max() <= scale.high
        assert scale.constant > 0
        named = [tick for tick in scale.ticks if scale.low <= tick <= scale.high]
        assert len(named) >= (3 if high > low else 1), (low, high)
        assert (0.0 in named) == (low == 0)


def test_many_layers_are_numbered_sparsely():
    assert layers._numbered(pd.DataFrame({"layer": range(10)})) == list(range(10))
    assert layers._numbered(pd.DataFrame({"layer": range(1, 28)})) == list(range(1, 28, 3))


def test_key_experts_are_those_of_the_table_and_their_mean(study_tables, choice):
    table = study_tables["key_experts"]
    table["n_undecided"] = table["task"].map({"addition": 1, "brackets": 2, "facts": 4})
    data = key_experts.data(study_tables, choice)
    last = data["means"].set_index(["model", "checkpoint"]).loc[("tiny-olmoe", "step-00800")]
    own = views.key_experts(table, choice)
    own = own[(own["model"] == "tiny-olmoe") & (own["order"] == 3)]
    assert last["proportion"] == pytest.approx(own["proportion"].mean())
    # MOVER: the tasks' distances of 0.05 each add in quadrature
    assert last["proportion_high"] - last["proportion"] == pytest.approx(np.sqrt(3 * 0.05**2) / 3)
    assert (last["n_undecided"], last["n_samples"], last["n_tasks"], last["task"]) == (7, 600, 3, MEAN)
    assert len(data["tasks"]) == 2 * 4 * 3
    chart = key_experts.page(data, choice)
    for name in ("means", "tasks"):
        [layer] = layers_of(chart, name)
        assert 'datum["n_undecided"]' in layer["encoding"]["tooltip"]["value"]["expr"]


def test_untrained_key_experts_are_hollow_and_not_joined(study_tables, choice):
    axes = key_experts.paper(key_experts.data(study_tables, choice), choice).axes[0]
    joined = [line for line in axes.lines if len(line.get_xdata()) > 1]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in joined] == [[1, 2, 3]] * 4  # three tasks and the mean
    assert [list(line.get_xdata()) for line in hollow] == [[0]] * 4


def test_no_task_looks_like_the_mean(study_tables, choice):
    data = key_experts.data(study_tables, choice)
    many = pd.concat([data["tasks"].assign(task=f"task-{number}") for number in range(9)])
    looks = key_experts._looks({"means": data["means"], "tasks": many})
    assert list(looks) == [MEAN, *(f"task-{number}" for number in range(9))]
    assert looks[MEAN].colour not in {look.colour for task, look in looks.items() if task != MEAN}


def test_a_threshold_that_was_not_stored_is_named(study_tables, choice):
    other = Choice(curves=choice.curves, experts=choice.experts, masking=choice.masking, expert_threshold=0.7)
    with pytest.raises(NothingToShow, match=r"no rows at η_expert = 0.7"):
        key_experts.data(study_tables, other)


def set_difference(table, model_a, checkpoint_a, model_b, value, verdict):
    """Write one row's difference of means, 2 points wide on the left and 1 on the right."""
    rows = (table["model_a"] == model_a) & (table["checkpoint_a"] == checkpoint_a) & (table["model_b"] == model_b)
    rows &= table["task_a"] == MEAN
    assert rows.sum() == 1
    ends = {"difference": value, "difference_low": value - 0.02, "difference_high": value + 0.01, "verdict": verdict}
    table.loc[rows, list(ends)] = list(ends.values())


def test_a_pair_of_models_is_seen_from_both_sides(study_tables, choice):
    table = study_tables["comparisons"]
    set_difference(table, "tiny-olmoe", "step-00800", "tiny-deepseek", 0.1, "higher")
    set_difference(table, "tiny-olmoe", "step-00100", "tiny-olmoe", -0.005, UNSHOWN)
    rows = comparisons.data(study_tables, choice)["differences"]
    against = rows[["model", "kind", "other_model", "other_checkpoint"]].itertuples(index=False, name=None)
    assert list(against) == [
        ("tiny-olmoe", "models", "tiny-deepseek", "step-00800"),
        ("tiny-olmoe", "checkpoints", "tiny-olmoe", "step-00100"),  # in training order, without the untrained one
        ("tiny-olmoe", "checkpoints", "tiny-olmoe", "step-00400"),
        ("tiny-deepseek", "models", "tiny-olmoe", "step-00800"),
        ("tiny-deepseek", "checkpoints", "tiny-deepseek", "step-00100"),
        ("tiny-deepseek", "checkpoints", "tiny-deepseek", "step-00400"),
    ]
    columns = ["difference", "difference_low", "difference_high"]
    assert list(rows.loc[3, columns]) == pytest.approx([0.1, 0.08, 0.11])  # tiny-deepseek less tiny-olmoe
    assert list(rows.loc[0, columns]) == pytest.approx([-0.1, -0.11, -0.08])
    assert (rows.loc[3, "verdict"], rows.loc[0, "verdict"]) == ("higher", "lower")
    assert (rows.loc[3, "mui"], rows.loc[3, "mui_other"]) == (0.3, 0.2)
    assert (rows.loc[0, "mui"], rows.loc[0, "mui_other"]) == (0.2, 0.3)
    assert list(rows.loc[1, columns]) == pytest.approx([-0.005, -0.025, 0.005])
    assert rows.loc[1, "verdict"] == UNSHOWN


def test_what_is_not_shown_to_differ_is_hollow(study_tables, choice):
    set_difference(study_tables["comparisons"], "tiny-olmoe", "step-00100", "tiny-olmoe", -0.005, UNSHOWN)
    data = comparisons.data(study_tables, choice)
    figure = comparisons.paper(data, choice)
    hollow = {
        round(float(place)): line.get_markerfacecolor() == "white"
        for line in figure.axes[0].lines
        if line.get_marker() in ("o", "D")
        for place in line.get_ydata()
    }
    assert hollow == {0: False, 1: True, 2: False}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "tiny-deepseek", "at step-00100", "at step-00400",
    ]  # fmt: skip
    assert "no difference shown" in [text.get_text() for text in figure.legends[0].get_texts()]
    [layer] = layers_of(comparisons.page(data, choice), "differences")
    assert layer["encoding"]["fill"]["condition"]["test"] == f"datum.verdict === '{UNSHOWN}'"


def test_models_are_sorted_by_how_far_they_lie(study_tables, choice):
    table = study_tables["comparisons"]
    pair = table[(table["kind"] == "models") & (table["task_a"] == MEAN)]
    others = [pair.assign(model_b=f"m{at}", difference=value) for at, value in enumerate((0.01, -0.2, 0.3))]
    study_tables["comparisons"] = pd.concat(others)
    cells = study_tables["utilization"]
    more = [cells[cells["model"] == "tiny-deepseek"].assign(model=f"m{at}") for at in range(3)]
    study_tables["utilization"] = pd.concat([cells, *more])
    rows = comparisons.data(study_tables, choice)["differences"]
    assert list(rows[rows["model"] == "tiny-olmoe"]["other_model"]) == ["m2", "m0", "m1"]  # the highest MUI first


def test_nothing_to_compare_is_said(study_tables, choice):
    table = study_tables["comparisons"]

    def refused(rows):
        with pytest.raises(NothingToShow) as reason:
            comparisons.data(study_tables | {"comparisons": rows}, choice)
        return str(reason.value)

    assert refused(table[table["kind"] == "tasks"]) == (
        "No two models, and no two checkpoints of a model, have a task in common."
    )
    untrained = table["checkpoint_a"] == "step-00000"
    assert refused(table[untrained]).startswith("All that could be compared is untrained")
    assert refused(table.assign(verdict="", note="too few samples")) == (
        "No comparison of mean MUI has an outcome: too few samples."
    )


def test_one_model_with_one_pair_is_drawn(study_tables, choice):
    table = study_tables["comparisons"]
    rows = table[(table["model_a"] == "tiny-olmoe") & (table["checkpoint_a"] == "step-00400")]
    data = comparisons.data(study_tables | {"comparisons": rows}, choice)
    assert len(data["differences"]) == 1
    assert comparisons.paper(data, choice).axes
    assert list(comparisons.page(data, choice).series.looks) == ["checkpoints"]
