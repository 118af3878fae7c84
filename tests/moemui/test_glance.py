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
    assert olmoe.changes == "accuracy +25.0 points [+20.0, +30.0], MUI −5.0 points [−5.3, −4.7]"
    assert olmoe.key_experts == "8.3 % [5.4, 11.2]"
    assert (olmoe.top_experts, deepseek.top_experts) == ("no shared experts", "4 of 10 shared, by chance 2.0")
    assert (
        olmoe.flags
        == "raised: fewer than 5 % of the experts key. not measured: masking key neurons costs less than 2 %"
    )
    assert deepseek.flags == "none raised. undecided: masking key neurons costs less than 2 %"
    assert olmoe.flag_outcomes == (
        ("fewer than 5 % of the experts key", "raised"),
        ("masking key neurons costs less than 2 %", "not measured"),
    )
    assert deepseek.flag_outcomes == (("masking key neurons costs less than 2 %", "undecided"),)
    assert olmoe.check == ("masking: more", "saturated on 0 of 3")
    assert olmoe.phases == ("Accumulating", "Evolving")
    assert olmoe.believe == (
        "200 samples a task, MUI at 200 of them",
        "MUI has saturated on 0 of 3 tasks, undecided on 3",
        "masking key neurons against random ones: 19.7 points [17.9, 21.4] of accuracy lost, more",
        "not measured: diversity of data",
    )


def test_a_cell_without_a_value_says_why(rows, choice, fill):
    for name in ("masking_effect", "diagnostics", "top_composition", "key_experts"):
        rows[name] = rows[name].head(0)
    olmoe = glance(rows, choice)[0]
    assert (olmoe.flags, olmoe.top_experts, olmoe.key_experts) == ("not measured", "not measured", "–")
    assert olmoe.flag_outcomes == ()
    assert (olmoe.key_experts_beside, olmoe.check[0]) == ("", "masking: not measured")
    assert olmoe.believe[-1] == "not measured: masking and diversity of data"
    rows["utilization"]["chao2"] = np.nan
    assert glance(rows, choice)[0].check[1] == "saturation: not measured"
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
    assert olmoe.phases == ("Accumulating", "–")


def test_the_step_from_the_untrained_checkpoint_is_no_phase(rows, choice):
    steps = rows["phases"]
    steps.loc[steps["from_order"] == 0, "phase"] = "Collapsing"  # what a mistake in the table would say
    assert glance(rows, choice)[0].course == "Accumulating → Evolving"


def test_repeated_phases_are_said_once_and_flat_stays(rows, choice):
    steps = rows["phases"]
    mean = (steps["task"] == "mean") & (steps["from_order"] > 0)
    steps.loc[mean, "phase"] = "Flat"
    olmoe = glance(rows, choice)[0]
    assert (olmoe.phase, olmoe.course, olmoe.phases) == ("Flat", "Flat", ("Flat", "Flat"))


def test_an_empty_study_has_no_rows_and_no_headline(empty_tables, choice):
    assert glance(empty_tables, choice) == headline(empty_tables, choice) == []


def test_few_models_are_named_and_many_counted(rows, choice):
    first, second, third = headline(rows, choice)
    assert (
        "tiny-olmoe is Evolving (change of accuracy +25.0 points [+20.0, +30.0], of MUI −5.0 points [−5.3, −4.7]) and "
        in first
    )
    assert "tiny-olmoe 8.3 % [5.4, 11.2] (about 1 of 12; untrained 8.3 %, not shown to differ) and tiny-de" in second
    assert "in at least 0.6 of the samples, with up to 0.1 % of a layer's neurons key in a sample." in second
    assert "in 2 of 2 models: by 19.7 points [17.9, 21.4] (tiny-olmoe) and 16.3" in third
    for name in ("utilization", "phases", "key_experts", "masking_effect"):
        more = rows[name][rows[name]["model"] == "tiny-olmoe"].assign(model="third")
        rows[name] = pd.concat([rows[name], more], ignore_index=True)
    first, second, third = headline(rows, choice)
    assert (
        "of 3 models with a phase are Evolving 3 (tiny-olmoe, tiny-deepseek, third), by 95 % intervals over samples"
        in first
    )
    assert "8.3 % [5.4, 11.2] (tiny-olmoe) to 26.7 % [23.8, 29.6] (tiny-deepseek)" in second
    assert (
        "[23.8, 29.6] (tiny-deepseek) of a model's; beside the untrained checkpoint's it is not shown to differ in 3"
        in second
    )
    assert "by 16.3 points [14.6, 18.1] (tiny-deepseek) to 19.7 points [17.9, 21.4] (tiny-olmoe)" in third


@pytest.mark.parametrize(
    ("trained", "said"), [(0.5, "a larger share now"), (0.01, "a smaller share now"), (0.085, "not shown to differ")]
)
def test_key_experts_are_set_beside_the_untrained_ones_and_other_limits(rows, choice, fill, trained, said):
    table = rows["key_experts"]
    start, last = table["order"] == 0, table["order"] == 3
    table.loc[start, ["proportion", "proportion_low", "proportion_high"]] = [0.08, 0.07, 0.09]
    table.loc[last, ["proportion", "proportion_low", "proportion_high"]] = [trained, trained - 0.005, trained + 0.005]
    table.loc[last, ["n_key", "n_key_shared"]] = [4, 2]
    other = table.assign(expert_threshold=0.9, proportion=table["proportion"] / 2)
    lower = table.assign(expert_threshold=0.3, proportion=0.6)
    rows["key_experts"] = fill("key_experts", [r for part in (table, other, lower) for r in part.to_dict("records")])
    assert glance(rows, choice)[0].key_experts_beside == f"about 4 of 12, 2 of them shared; untrained 8.0 %, {said}"
    second = headline(rows, choice)[1]
    assert f"about 4 of 12, 2 of them shared; untrained 8.0 %, {said})" in second
    half = {0.5: "25.0 %", 0.01: "0.50 %", 0.085: "4.2 %"}[trained]
    assert f"(η_expert; the share would be 60.0 % at 0.3 and {half} at 0.9)" in second
    rows["key_experts"] = rows["key_experts"].query("order > 0")
    assert glance(rows, choice)[0].key_experts_beside == "about 4 of 12, 2 of them shared"


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({}, "The conservation error is not recorded, so nothing here shows"),
        ({"conservation_error_max": None}, "The conservation error is not recorded"),
        (
            {"conservation_error_max": 1.23e-7},
            "at most 1.2e−07 of their size (conservation; one above what",
        ),
        (
            {"conservation_error_max": 0.0},
            "at most 0 of their size (conservation; one above what rounding explains",
        ),
    ],
)
def test_the_grounds_name_the_conservation_error(choice, provenance, said):
    assert said in grounds(choice, provenance)[0]


def test_the_grounds_name_seeds_of_models_trained_here(choice):
    others = Choice(curves=choice.curves, experts=choice.experts, masking=choice.masking)
    assert grounds(choice, {})[1].endswith("were trained with one seed.")
    assert grounds(others, {})[1] == "Each model is one training run, so no interval here speaks of another run."
