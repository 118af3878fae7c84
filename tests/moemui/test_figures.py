"""Figures draw what the tables say, leave out what they don't, and look the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from moemui.key_neurons.settings import Setting
from moemui.report import figures, figures_experts, views
from moemui.report.figure_style import FigureSpec, looks, save
from moemui.report.figures import FIGURES, draw_all
from moemui.report.views import MEAN, Choice, NothingToShow

NAMES = [
    "mui_performance", "trajectories", "saturation", "layers", "key_experts", "top_experts", "enrichment",
    "settings", "masking", "diversity", "utility_law", "utilization_decay",
]  # fmt: skip


def points(figure: Figure, axes: int = 0) -> set[tuple[float, float]]:
    """All marks of one panel."""
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in figure.axes[axes].lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_every_figure_of_a_full_study_is_drawn(study_tables, choice):
    drawn, left_out = draw_all(study_tables, choice)
    assert list(drawn) == NAMES == list(FIGURES)
    assert left_out == {}


def test_empty_tables_leave_every_figure_out_with_a_sentence(empty_tables, choice):
    drawn, left_out = draw_all(empty_tables, choice)
    assert drawn == {}
    assert list(left_out) == NAMES
    assert left_out["saturation"] == "The table saturation is empty."
    assert all(reason.endswith(".") for reason in left_out.values())


def test_a_setting_that_was_not_stored_is_named(study_tables, choice):
    other = Choice(curves=Setting("activation", "pairs", 0.01), experts=choice.experts, masking=choice.masking)
    with pytest.raises(NothingToShow, match=r"no rows at activation/pairs/0.01, only at projection/pairs/0.01"):
        figures.saturation(study_tables, other)


@pytest.mark.parametrize("name", NAMES)
def test_figures_use_no_more_than_the_tables_they_name(study_tables, empty_tables, choice, name):
    spec, draw = FIGURES[name]
    needed = {table: frame for table, frame in study_tables.items() if table in spec.tables}
    assert draw(empty_tables | needed, choice).axes


@pytest.mark.parametrize("spec", [spec for spec, _ in FIGURES.values()], ids=NAMES)
def test_captions_name_their_settings(spec: FigureSpec, choice):
    caption = spec.caption_for(choice)
    assert "{" not in caption
    assert caption.endswith(".")
    assert spec.alt.endswith(".")
    assert spec.title


def test_mui_performance_marks_each_checkpoint_at_its_means(study_tables, choice):
    drawn = points(figures.mui_performance(study_tables, choice))
    cells = views.trajectory(study_tables, choice)
    means = cells[cells["task"] == MEAN]
    assert len(means) == 8
    for row in means.itertuples():
        assert (round(row.mui, 6), round(row.accuracy, 6)) in drawn


def test_saturation_ends_at_the_mui_of_all_samples(study_tables, choice):
    figure = figures.saturation(study_tables, choice)
    total = views.last(views.total_mui(study_tables["utilization"], choice.curves))
    for panel, model in enumerate(["tiny-olmoe", "tiny-deepseek"]):
        ends = {
            round(float(line.get_ydata()[-1]), 6) for line in figure.axes[panel].lines if len(line.get_xdata()) == 5
        }
        assert ends == {round(value, 6) for value in total[total["model"] == model]["mui"]}


def test_the_untrained_checkpoint_is_hollow_and_not_joined(study_tables, choice):
    figure = figures.trajectories(study_tables, choice)
    joined = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in joined] == [[1, 2, 3]] * 2
    assert [list(line.get_xdata()) for line in hollow] == [[0]] * 2


def test_a_single_checkpoint_has_no_trajectory(study_tables, choice):
    for name in ("utilization", "performance"):
        study_tables[name] = views.last(study_tables[name])
    with pytest.raises(NothingToShow, match="No model has two checkpoints"):
        figures.trajectories(study_tables, choice)


def test_enrichment_without_shared_experts_is_left_out(study_tables, choice):
    rows = study_tables["enrichment"]
    study_tables["enrichment"] = rows[rows["model"] == "tiny-olmoe"]
    with pytest.raises(NothingToShow, match="No model has shared and routed experts"):
        figures_experts.enrichment(study_tables, choice)


def test_layers_weigh_experts_of_a_kind_equally(study_tables, choice):
    rows = views.layers(study_tables["expert_frequency"], choice.curves).set_index(["model", "layer", "kind", "task"])
    # routed experts of layer 0, task 0: frequencies 0.1, 0.2, 0.3, 0.4, expert MUI half of it
    assert rows.loc[("tiny-olmoe", 0, "routed", "addition"), "mui"] == pytest.approx(0.125)
    assert rows.loc[("tiny-deepseek", 2, "shared", "facts"), "mui"] == pytest.approx(0.9)


def test_top_experts_pool_the_samples_of_all_tasks(study_tables, choice):
    rows = study_tables["expert_frequency"]
    rows.loc[rows["task"] == "facts", "n_samples"] = 600  # of 1,000
    top = views.top_experts(rows, choice.experts)
    best = top[top["model"] == "tiny-olmoe"].iloc[0]
    assert best["expert"] == "L2-E3"
    assert best["frequency"] == pytest.approx((0.60 * 200 + 0.62 * 200 + 0.64 * 600) / 1000)
    assert list(top.groupby("model", sort=False).size()) == [10, 10]


def test_mean_over_tasks_uses_tasks_complete_at_every_checkpoint(study_tables, choice):
    table = study_tables["performance"]
    gap = (table["model"] == "tiny-olmoe") & (table["task"] == "facts") & (table["order"] == 1)
    table.loc[gap, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    cells = views.trajectory(study_tables, choice)
    means = cells[(cells["task"] == MEAN) & (cells["model"] == "tiny-olmoe")]
    assert list(means["n_accuracy"]) == [2, 2, 2, 2]
    assert list(means["n_mui"]) == [3, 3, 3, 3]
    assert means["accuracy"].iloc[-1] == pytest.approx((150 + 160) / 2 / 200)
    single = cells[(cells["model"] == "tiny-olmoe") & (cells["order"] == 3)].set_index("task")
    assert means["mui"].iloc[-1] == pytest.approx(single["mui"].drop(MEAN).mean())
    assert list(single.loc[["addition", "facts"], "n_accuracy"]) == [1, 0]


def test_mui_against_performance_takes_both_means_over_the_same_tasks(study_tables, choice):
    table = study_tables["performance"]
    gap = (table["task"] == "facts") & (table["order"] == 1)
    table.loc[gap, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    cells = views.trajectory(study_tables, choice, both=True)
    means = cells[cells["task"] == MEAN]
    assert set(means["n_accuracy"]) == set(means["n_mui"]) == {2}
    last = cells[(cells["model"] == "tiny-olmoe") & (cells["order"] == 3)].set_index("task")
    assert last.loc[MEAN, "mui"] == pytest.approx(last.loc[["addition", "brackets"], "mui"].mean())
    drawn = [mark for line in figures.mui_performance(study_tables, choice).axes[0].lines for mark in line.get_xdata()]
    assert any(x == pytest.approx(last.loc[MEAN, "mui"]) for x in drawn)


def test_a_task_without_grades_has_a_trajectory_of_mui_alone(study_tables, choice):
    table = study_tables["performance"]
    table.loc[table["task"] == "facts", ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    axes = [axes for axes in figures.trajectories(study_tables, choice).axes if axes.get_visible()]
    assert len(axes) == 8  # a pair for the mean and each of three tasks
    empty = [panel for panel in axes if [text.get_text() for text in panel.texts] == ["not measured"]]
    assert [panel.get_title() for panel in empty] == ["facts"]
    assert not empty[0].lines


def test_models_never_look_alike():
    families = {f"a{i}": "a" for i in range(7)}
    found = looks([*families, *(f"m{i}" for i in range(20))], families)
    assert len({(look.colour, look.marker, str(look.dash)) for look in found.values()}) == 27
    assert len({found[model].colour for model in families}) == 1


def test_files_are_svg_and_pdf_the_same_every_time(study_tables, choice, tmp_path):
    for name in ("first", "second"):
        save(figures_experts.masking(study_tables, choice), tmp_path / f"{name}.svg")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert (tmp_path / "first.pdf").read_bytes() == (tmp_path / "second.pdf").read_bytes()
    assert b"<text" not in (tmp_path / "first.svg").read_bytes()  # letters are outlines, no font is needed
    with pytest.raises(ValueError, match=r"ends in '\.png'; a figure is saved as \.svg"):
        save(Figure(), tmp_path / "figure.png")
