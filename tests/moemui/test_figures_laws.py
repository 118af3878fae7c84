"""The figures of the laws draw the points, the fits and the curves that the tables hold."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.laws import laws
from moemui.report import figures_laws
from moemui.report.figure_style import save
from moemui.report.views import NothingToShow
from moemui.tables import laws as tables


def marks(axes):
    """All points of one panel."""
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_the_utility_law_marks_own_and_published_points_apart(study_tables, choice):
    left, right = figures_laws.utility_law(study_tables, choice).axes
    cells = laws.cells(
        utilization=study_tables["utilization"], performance=study_tables["performance"], setting=choice.curves
    )
    for _, group in cells[cells["tokens"] != 0].groupby("model"):
        for row in laws.means(cells=group).itertuples():
            assert (round(row.mui, 6), round(row.accuracy, 6)) in marks(left)
    assert (0.091, 0.805) in marks(right)  # GPT-OSS-20B as printed
    assert (0.385, 0.267) in marks(right)  # OLMoE-5T
    assert (0.091, 0.805) not in marks(left)
    assert "GPT-OSS-20B" in {text.get_text() for text in right.texts}


def test_the_fits_are_those_of_the_table(study_tables, choice):
    left, right = figures_laws.utility_law(study_tables, choice).axes
    rows = study_tables["utility_law"].query("scope == 'published' and model == '' and form == 'linear'")
    row = rows.iloc[0]
    lines = [line for line in right.lines if len(line.get_xdata()) == 40 and line.get_color() == "black"]
    assert np.asarray(lines[0].get_xdata())[[0, -1]].tolist() == pytest.approx([0.091, 0.434])
    assert lines[0].get_ydata()[0] == pytest.approx(row["intercept"] + row["slope"] * 0.091)
    # three trained checkpoints of two models are too few for a fit of the study's own
    assert not [line for line in left.lines if len(line.get_xdata()) == 40]


def test_decay_draws_every_curve_and_the_fit(study_tables, choice):
    figure = figures_laws.utilization_decay(study_tables, choice)
    assert [axes.get_title() for axes in figure.axes] == ["tiny-olmoe, step-00800", "tiny-deepseek, step-00800"]
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    curve = study_tables["decay_curve"].query("model == 'tiny-olmoe' and order == 3 and task == 'facts'")
    assert {(round(r, 6), round(i, 6)) for r, i in zip(curve["rank"], curve["incidence"], strict=True)} <= marks(axes)
    assert len(axes.lines) == 2 + 1 + 2  # tasks, untrained, all tasks with its fit
    row = study_tables["decay"].query("model == 'tiny-olmoe' and order == 3 and task == 'all'").iloc[0]
    assert axes.texts[0].get_text().startswith(f"α = {row['alpha']:.2f} [")
    assert row["best"] in axes.texts[0].get_text()


def test_without_a_fit_the_panel_says_why(study_tables, choice):
    gaps = dict.fromkeys(("alpha", "alpha_low", "alpha_high"), np.nan)
    study_tables["decay"] = study_tables["decay"].assign(**gaps, note="needs 50 key neurons, found 3")
    study_tables["decay_curve"] = study_tables["decay_curve"].assign(fitted=np.nan)
    axes = figures_laws.utilization_decay(study_tables, choice).axes[0]
    assert axes.texts[0].get_text() == "no power law fitted: needs 50 key neurons, found 3"


def test_empty_tables_are_left_out_with_a_sentence(empty_tables, choice):
    empty = empty_tables | {
        table.name: table.frame([])
        for table in (tables.UTILITY_LAW, tables.UTILITY_CURVE, tables.DECAY, tables.DECAY_CURVE)
    }
    with pytest.raises(NothingToShow, match="No trained checkpoint has a task with both"):
        figures_laws.utility_law(empty, choice)
    with pytest.raises(NothingToShow, match="The table decay_curve is empty"):
        figures_laws.utilization_decay(empty, choice)


@pytest.mark.parametrize(
    ("spec", "name"), [(figures_laws.UTILITY_LAW, "utility_law"), (figures_laws.DECAY, "utilization_decay")]
)
def test_specs_name_their_settings_and_tables(study_tables, empty_tables, choice, spec, name):
    assert spec.name == name
    assert "{" not in spec.caption_for(choice)
    assert spec.alt.endswith(".")
    needed = {table: study_tables[table] for table in spec.tables}
    assert getattr(figures_laws, name)(empty_tables | needed, choice).axes


def test_files_are_the_same_every_time(study_tables, choice, tmp_path):
    for number in (1, 2):
        save(figures_laws.utility_law(study_tables, choice), tmp_path / f"{number}.svg")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
