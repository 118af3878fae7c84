"""The first screen: each model's row and the sentences at the top say what the tables hold, and why a cell is empty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from moemui.report.glance import glance, grounds
from moemui.report.headline import headline
from moemui.report.views import Choice


@pytest.fixture
def rows(study_tables, fill, choice):
    """The made-up study with flags and the kinds of the most frequent experts."""
    place = {"checkpoint": "step-00800", "note": "made up"}
    study_tables["diagnostics"] = fill("diagnostics", [
        {"model": "tiny-olmoe", "flag": "few_key_experts", "outcome": "raised", "evidence": "Raised: x."} | place,
        {"model": "tiny-olmoe", "flag": "cheap_masking", "outcome": "not measured", "evidence": "y."} | place,
        {"model": "tiny-deepseek", "flag": "cheap_masking", "outcome": "undecided", "evidence": "z."} | place,
    ])  # fmt: skip
    top = {"task": "all", **choice.experts._asdict(), "order": 3, "n_top": 10, "tokens": 3e6} | place
    study_tables["top_composition"] = fill("top_composition", [
        {"model": "tiny-deepseek", "n_shared_experts": 3, "n_shared": 4, "expected_shared": 1.96} | top,
        {"model": "tiny-olmoe"} | top,
    ])  # fmt: skip
    return study_tables


def test_a_row_says_phase_concentration_and_what_to_believe(rows, choice):
    olmoe, deepseek = glance(rows, choice)
    assert (olmoe.model, olmoe.checkpoint, olmoe.tasks) == ("tiny-olmoe", "step-00800", "3")
    assert (olmoe.accuracy, olmoe.mui) == ("80.0 % [76.5, 82.8]", "27.5 % [27.1, 27.9]")
    # mean MUI 0.2, 0.3, 0.25 over the trained checkpoints, accuracy always up
    assert (olmoe.phase, olmoe.course) == ("Evolving", "Accumulating → Evolving")
    assert olmoe.changes == "accuracy 25.0 points [20.0, 30.0], MUI −5.0 points [−5.3, −4.7]"
    assert olmoe.key_experts == "8.3 % [5.4, 11.2]"
    assert (olmoe.top_experts, deepseek.top_experts) == ("no shared experts", "4 of 10 shared, by chance 2.0")
    assert (
        olmoe.flags
        == "raised: fewer than 5 % of the experts key. not measured: masking key neurons costs less than 2 %"
    )
    assert deepseek.flags == "none raised. undecided: masking key neurons costs less than 2 %"
    assert olmoe.believe == (
        "200 samples a task, MUI at 200 of them",
        "MUI has saturated on 0 of 3 tasks, not on 0, undecided on 3",
        "masking key neurons against random ones: 19.7 points [17.9, 21.4] of accuracy lost, more",
        "not measured: diversity of data",
    )


def test_a_cell_without_a_value_says_why(rows, choice, fill):
    for name in ("masking_effect", "diagnostics", "top_composition", "key_experts"):
        rows[name] = rows[name].head(0)
    olmoe = glance(rows, choice)[0]
    assert (olmoe.flags, olmoe.top_experts, olmoe.key_experts) == ("not measured", "not measured", "–")
    assert olmoe.believe[-1] == "not measured: masking and diversity of data"
    rows["utilization"]["chao2"] = np.nan
    assert glance(rows, choice)[0].believe[-1] == "not measured: saturation, masking and diversity of data"


def test_a_phase_takes_two_trained_checkpoints(rows, choice):
    steps = rows["phases"]
    rows["phases"] = steps.head(0)
    cells = rows["utilization"]
    assert glance(rows, choice)[0].phase == "no phase: not measured"
    rows["utilization"] = cells[cells["order"].isin((0, 3))]
    assert glance(rows, choice)[0].phase == "no phase: one trained checkpoint"
    rows["utilization"] = cells[cells["order"] == 0]
    assert glance(rows, choice)[0].phase == "no phase: no trained checkpoint"
    rows["utilization"], rows["phases"] = cells, steps
    steps.loc[(steps["task"] == "mean") & (steps["from_order"] == 2), ["phase", "note"]] = ["", "no sample in common"]
    olmoe = glance(rows, choice)[0]
    assert (olmoe.phase, olmoe.changes, olmoe.course) == ("no phase: no sample in common", "", "Accumulating")


def test_the_step_from_the_untrained_checkpoint_is_no_phase(rows, choice):
    steps = rows["phases"]
    steps.loc[steps["from_order"] == 0, "phase"] = "Collapsing"  # what a mistake in the table would say
    assert glance(rows, choice)[0].course == "Accumulating → Evolving"


def test_repeated_phases_are_said_once_and_flat_stays(rows, choice):
    steps = rows["phases"]
    mean = (steps["task"] == "mean") & (steps["from_order"] > 0)
    steps.loc[mean, "phase"] = "Flat"
    olmoe = glance(rows, choice)[0]
    assert (olmoe.phase, olmoe.course) == ("Flat", "Flat")


def test_an_empty_study_has_no_rows_and_no_headline(empty_tables, choice):
    assert glance(empty_tables, choice) == headline(empty_tables, choice) == []


def test_few_models_are_named_and_many_counted(rows, choice):
    first, second, third = headline(rows, choice)
    assert "tiny-olmoe is Evolving (accuracy 25.0 points [20.0, 30.0], MUI −5.0 points [−5.3, −4.7]) and tiny-" in first
    assert "8.3 % [5.4, 11.2] (tiny-olmoe) and 26.7 % [23.8, 29.6] (tiny-deepseek) are key" in second
    assert "in 2 of 2 models, less in 0, undecided in 0: by 19.7 points [17.9, 21.4] (tiny-olmoe) and 16.3" in third
    for name in ("utilization", "phases", "key_experts", "masking_effect"):
        more = rows[name][rows[name]["model"] == "tiny-olmoe"].assign(model="third")
        rows[name] = pd.concat([rows[name], more], ignore_index=True)
    first, second, third = headline(rows, choice)
    assert "of 3 models with a phase are Evolving 3, by 95 % intervals over samples" in first
    assert "8.3 % [5.4, 11.2] (tiny-olmoe) to 26.7 % [23.8, 29.6] (tiny-deepseek)" in second
    assert "by 16.3 points [14.6, 18.1] (tiny-deepseek) to 19.7 points [17.9, 21.4] (tiny-olmoe)" in third


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({}, "The conservation error is not recorded, so nothing here shows"),
        ({"conservation_error_max": None}, "The conservation error is not recorded"),
        ({"conservation_error_max": 1.23e-7}, "at most 1.2e−07 of their size (conservation; one above its tolerance"),
        (
            {"conservation_error_max": 0.0, "conservation_tolerance": 1e-5},
            "at most 0 of their size (conservation; one above the tolerance of 1.0e−05",
        ),
    ],
)
def test_the_grounds_name_the_conservation_error(choice, provenance, said):
    assert said in grounds(choice, provenance)[0]


def test_the_grounds_name_seeds_of_models_trained_here(choice):
    others = Choice(curves=choice.curves, experts=choice.experts, masking=choice.masking)
    assert grounds(choice, {})[1].endswith("were trained with one seed.")
    assert grounds(others, {})[1] == "Each model is one training run, so no interval here speaks of another run."
