"""All figures: drawn from the tables they name, explained to the last column, left out with a sentence."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Drawing

from moemui.key_neurons.settings import Setting
from moemui.report import views
from moemui.report.figures import FIGURES, collect, mui_performance, page_style, trajectories
from moemui.report.figures.figure import Figure
from moemui.report.figures.looks import COLOURS, looks, task_looks
from moemui.report.views import MEAN, Choice, NothingToShow

EVERY = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)


@pytest.fixture(scope="module")
def shown(untouched_tables, choice):
    """What each figure shows of the made-up study."""
    return collect(untouched_tables, choice)[0]


def marks(drawing: Drawing, axes: int = 0) -> set[tuple[float, float]]:
    """All marks of one panel on paper."""
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in drawing.axes[axes].lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def layers(specification: dict) -> dict[str, str]:
    """The named layers of a view, with the data set that each draws; a single layer is the view itself."""
    found = [{"data": specification.get("data")} | layer for layer in specification.get("layer", [specification])]
    return {
        layer["name"]: layer["data"]["name"] for layer in found if not re.match(r"view_|None", str(layer.get("name")))
    }


def test_empty_tables_leave_every_figure_out_with_a_sentence(empty_tables, choice):
    drawn, left_out = collect(empty_tables, choice)
    assert drawn == {}
    assert list(left_out) == list(FIGURES)
    assert left_out["saturation"] == "The table saturation is empty."
    assert all(reason.endswith(".") for reason in left_out.values())


def test_a_setting_that_was_not_stored_is_named(study_tables, choice):
    other = Choice(curves=Setting("activation", "pairs", 0.01), experts=choice.experts, masking=choice.masking)
    with pytest.raises(NothingToShow, match=r"no rows at activation/pairs/0.01, only at projection/pairs/0.01"):
        FIGURES["saturation"].data(study_tables, other)


@EVERY
def test_figures_use_no_more_than_the_tables_they_name(study_tables, empty_tables, choice, figure: Figure, shown):
    if figure.name not in shown:
        pytest.skip(f"the made-up study has nothing for {figure.name}; its own tests make its tables")
    needed = {table: frame for table, frame in study_tables.items() if table in figure.tables}
    for name, rows in figure.data(empty_tables | needed, choice).items():
        pd.testing.assert_frame_equal(rows, shown[figure.name][name])


@EVERY
def test_every_word_beside_a_figure_is_there_and_names_its_settings(choice, figure: Figure):
    caption = figure.caption_for(choice)
    assert "{" not in caption
    assert all(text.endswith(".") for text in (caption, figure.definition, figure.alt))
    assert figure.title
    assert figure.name == next(name for name, one in FIGURES.items() if one is figure)


@EVERY
def test_every_column_has_a_meaning_and_every_data_set_of_rows_a_layer(choice, figure: Figure, shown):
    if figure.name not in shown:
        pytest.skip(f"the made-up study has nothing for {figure.name}; its own tests make its tables")
    data = shown[figure.name]
    chart = figure.page(data, choice)
    named: dict[str, str] = {}
    for view in chart.views:
        named |= layers(dict(view))
    assert all(layer == source for layer, source in named.items())
    assert set(named) <= set(data)
    assert next(iter(data)) in named
    assert set(data) <= set(figure.table_titles)
    for rows in data.values():
        assert all(column.meaning for column in figure.columns(rows))
        assert "note" not in rows or rows["note"].notna().all()
    if chart.series is not None:
        values = set().union(
            *(rows[chart.series.column].astype(str) for rows in data.values() if chart.series.column in rows)
        )
        assert values <= set(chart.series.looks)


@EVERY
def test_hovering_shows_no_more_than_is_read_at_a_glance(choice, figure: Figure, shown):
    if figure.name not in shown:
        pytest.skip(f"the made-up study has nothing for {figure.name}; its own tests make its tables")
    for view in figure.page(shown[figure.name], choice).views:
        for layer in view["layer"]:
            told = layer["encoding"].get("tooltip", {})
            assert str(told).count("isValid(") <= page_style.MOST_TOLD


def test_views_below_each_other_begin_at_one_place_and_share_their_zoom(shown, choice):
    *above, strip = trajectories.page(shown["trajectories"], choice).views
    places = [layer["encoding"]["y"]["axis"] for view in above for layer in view["layer"] if layer.get("name")]
    steps = next(layer["encoding"]["y"]["axis"] for layer in strip["layer"] if layer.get("name"))
    assert len(places) == 2
    assert places[0]["minExtent"] == places[1]["minExtent"] == steps["minExtent"]
    assert places[0]["titleX"] == places[1]["titleX"]  # a title of its own place, else it moves the view
    zooms = [one["select"] for view in above for one in view["params"] if one["name"] == "zoom"]
    assert [zoom["encodings"] for zoom in zooms] == [["y"], ["y"]]  # the strip can't follow along x


def test_changes_are_points_with_a_sign():
    chart = page_style.said(page_style.marks("rows"), ["d_mui"], points=True).mark_point()
    [step] = chart.to_dict()["transform"]
    assert "format(100 * datum.d_mui, '+.1f') + ' points'" in step["calculate"]
    assert "%" not in step["calculate"]


def test_fields_that_a_row_leaves_empty_are_not_told():
    told = page_style.hover(task="Task", note="Note")
    view = page_style.view(page_style.marks("rows").mark_point().encode(tooltip=told), zoomed=False)
    encoding = view["layer"][0]["encoding"]
    told_if = """isValid(datum["note"]) && datum["note"] !== '' ? """
    assert f"""{told_if}{{"Note": datum["note"]}} : {{}}""" in encoding["tooltip"]["value"]["expr"]
    assert f"""{told_if}"Note" + ': '""" in encoding["description"]["value"]["expr"]  # what a screen reader says


def test_no_task_is_black_like_all_together():
    found = task_looks([f"task-{number}" for number in range(20)])
    assert COLOURS[-1] not in {look.colour for look in found.values()}
    assert len({(look.colour, look.marker, str(look.dash)) for look in found.values()}) == 20


def test_a_column_that_nobody_explains_is_named():
    with pytest.raises(ValueError, match=r"figure saturation: nothing says what its column 'riddle' means; tables "):
        FIGURES["saturation"].columns(pd.DataFrame({"riddle": [1.0]}))


def test_mui_performance_marks_each_checkpoint_at_its_means(study_tables, choice, shown):
    drawn = marks(mui_performance.paper(shown["mui_performance"], choice))
    cells = views.trajectory(study_tables, choice)
    means = cells[cells["task"] == MEAN]
    assert len(means) == 8
    for row in means.itertuples():
        assert (round(row.mui, 6), round(row.accuracy, 6)) in drawn
    rows = shown["mui_performance"]["points"]
    assert len(rows) == 8 + 2 * 3  # and the three tasks of each model's last checkpoint


def test_mui_against_performance_takes_both_means_over_the_same_tasks(study_tables, choice):
    table = study_tables["performance"]
    gap = (table["task"] == "facts") & (table["order"] == 1)
    table.loc[gap, ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    rows = mui_performance.data(study_tables, choice)["points"]
    means = rows[rows["task"] == MEAN]
    assert set(means["n_tasks"]) == {2}
    last = rows[(rows["model"] == "tiny-olmoe") & (rows["order"] == 3)].set_index("task")
    assert last.loc[MEAN, "mui"] == pytest.approx(last.loc[["addition", "brackets"], "mui"].mean())
    assert last.loc[MEAN, "n_samples"] == 400


def test_the_untrained_checkpoint_is_hollow_and_not_joined(shown, choice):
    panel = trajectories.paper(shown["trajectories"], choice).axes[0]
    joined = [line for line in panel.lines if len(line.get_xdata()) > 1]
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in joined] == [[1, 2, 3]] * 2
    assert [list(line.get_xdata()) for line in hollow] == [[0]] * 2


def test_each_step_stands_in_the_strip_with_the_phase_of_the_table(study_tables, choice, shown):
    steps = shown["trajectories"]["phases"]
    table = study_tables["phases"]
    table = table[(table["phase"] != "") & (table["threshold"] == choice.curves.threshold)]
    key = ["model", "task", "from_checkpoint", "to_checkpoint"]
    assert len(steps) == len(table) > 0
    assert steps.set_index(key)["phase"].to_dict() == table.set_index(key)["phase"].to_dict()


def test_a_single_checkpoint_has_no_trajectory(study_tables, choice):
    for name in ("utilization", "performance"):
        study_tables[name] = views.last(study_tables[name])
    with pytest.raises(NothingToShow, match="No model has two checkpoints"):
        trajectories.data(study_tables, choice)


def test_a_task_without_grades_has_a_trajectory_of_mui_alone(study_tables, choice):
    table = study_tables["performance"]
    table.loc[table["task"] == "facts", ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    data = trajectories.data(study_tables, choice)
    assert "facts" not in set(data["accuracy"]["task"])
    assert (data["mui"]["task"] == "facts").sum() == 8
    axes = [axes for axes in trajectories.paper(data, choice).axes if axes.get_visible()]
    empty = [panel for panel in axes if [text.get_text() for text in panel.texts] == ["not measured"]]
    assert [panel.get_title() for panel in empty] == ["facts"]
    assert not empty[0].lines


def test_models_never_look_alike():
    families = {f"a{i}": "a" for i in range(7)}
    found = looks([*families, *(f"m{i}" for i in range(20))], families)
    assert len({(look.colour, look.marker, str(look.dash)) for look in found.values()}) == 27
    assert len({found[model].colour for model in families}) == 1
