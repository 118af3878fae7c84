"""Figures of studies that lack what a study usually has: nothing breaks, nothing vanishes, no n is another's."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report.figures import FIGURES, collect
from moemui.report.views import MEAN, NothingToShow

ACCURACY = ["accuracy", "accuracy_low", "accuracy_high"]


def no_tokens(tables):
    """A hub model of which nobody says how many tokens it has seen."""
    for table in tables.values():
        if "tokens" in table:
            table.loc[table.get("model") == "tiny-olmoe", "tokens"] = np.nan


def no_grades(tables):
    """Responses that were given, without references."""
    tables["performance"][ACCURACY] = np.nan
    tables["performance"]["n_graded"] = 0


def no_common_number(tables):
    columns = [name for name in tables["utilization"] if name.startswith("mui_at_m")]
    tables["utilization"][columns] = np.nan


def other_tasks(tables):
    """One model did not do the first task."""
    for name, table in tables.items():
        if {"model", "task"} <= set(table):
            tables[name] = table[~((table["model"] == "tiny-deepseek") & (table["task"] == "addition"))]


def no_phases(tables):
    tables["phases"] = tables["phases"].assign(phase="", note="made up")


def nasty_names(tables):
    for table in tables.values():
        for column in table.columns:
            if str(table[column].dtype) == "str":
                table[column] = table[column].replace({"tiny-olmoe": """a'b"c</script><b>{x}$\\ ü.1"""})


STUDIES = [no_tokens, no_grades, no_common_number, other_tasks, no_phases, nasty_names]


@pytest.mark.parametrize("change", STUDIES)
def test_every_figure_is_drawn_or_says_why_not(study_tables, choice, change):
    change(study_tables)
    shown, left_out = collect(study_tables, choice)
    assert len(shown) >= 9
    assert all(reason.endswith(".") for reason in left_out.values())
    for name, data in shown.items():
        assert FIGURES[name].paper(data, choice).axes
        assert FIGURES[name].page(data, choice).views
        for rows in data.values():
            assert FIGURES[name].columns(rows)


def test_a_model_of_unknown_tokens_keeps_its_means(study_tables, choice):
    no_tokens(study_tables)
    means = FIGURES["key_experts"].data(study_tables, choice)["means"]
    assert means.groupby("model", sort=False).size().to_dict() == {"tiny-olmoe": 4, "tiny-deepseek": 4}


def test_without_grades_there_is_no_row_of_accuracy(study_tables, choice):
    no_grades(study_tables)
    data = FIGURES["trajectories"].data(study_tables, choice)
    assert len(data["accuracy"]) == 0
    assert len(data["mui"]) == 2 * 4 * 4
    (*_, last) = FIGURES["trajectories"].page(data, choice).views
    assert last


def test_checkpoints_are_named_below_mui_where_there_is_no_phase(study_tables, choice):
    no_phases(study_tables)
    data = FIGURES["trajectories"].data(study_tables, choice)
    accuracy, mui = FIGURES["trajectories"].page(data, choice).views
    titles = [
        {layer["encoding"]["x"].get("axis", {}).get("title") for layer in view["layer"]} for view in (accuracy, mui)
    ]
    assert titles == [{None}, {"Checkpoint"}]


def test_accuracy_has_the_number_of_its_own_samples(study_tables, choice):
    table = study_tables["performance"]
    table["n_graded"] = 50
    table.loc[table["task"] == "facts", ACCURACY] = np.nan
    data = FIGURES["trajectories"].data(study_tables, choice)
    assert set(data["accuracy"].loc[data["accuracy"]["task"] != MEAN, "n_graded"]) == {50}
    assert set(data["accuracy"].loc[data["accuracy"]["task"] == MEAN, "n_graded"]) == {100}  # of two tasks
    assert set(data["mui"].loc[data["mui"]["task"] == MEAN, "n_samples"]) == {600}


def test_tasks_of_an_earlier_checkpoint_do_not_stand_for_the_last(study_tables, choice):
    table = study_tables["performance"]
    ungraded = (table["order"] == 3) & ((table["model"] == "tiny-olmoe") | (table["task"] == "facts"))
    table.loc[ungraded, ACCURACY] = np.nan
    rows = FIGURES["mui_performance"].data(study_tables, choice)["points"]
    assert set(rows["model"]) == {"tiny-deepseek"}
    assert sorted(rows.loc[rows["task"] != MEAN, "task"]) == ["addition", "brackets"]
    table[ACCURACY] = table[ACCURACY].mask(table["order"] == 3)
    with pytest.raises(NothingToShow, match="at the last checkpoint or all"):
        FIGURES["mui_performance"].data(study_tables, choice)
