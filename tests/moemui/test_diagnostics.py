"""Diagnostics: outcomes by hand on either side of every limit, undecided in between, and what was not measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from moemui.key_neurons.settings import Setting
from moemui.laws import diagnostics
from moemui.laws.diagnostics import NOT_MEASURED, NOT_RAISED, RAISED, UNDECIDED, beyond, both
from moemui.laws.laws import Mean

CURVES, EXPERTS = Setting("projection", "pairs", 0.01), Setting("projection", "pairs", 0.001)
FLAGS = ["mui_without_decline", "few_key_experts", "shared_and_total_mui_high", "cheap_masking"]


@pytest.mark.parametrize(
    ("figure", "above", "below"),
    [
        (Mean(0.4, 0.31, 0.5), RAISED, NOT_RAISED),
        (Mean(0.2, 0.1, 0.29), NOT_RAISED, RAISED),
        (Mean(0.4, 0.3, 0.5), UNDECIDED, UNDECIDED),  # the interval's ends belong to it
        (Mean(0.2, 0.1, 0.3), UNDECIDED, UNDECIDED),
        (Mean(0.9, np.nan, np.nan), UNDECIDED, UNDECIDED),
        (diagnostics.NONE, NOT_MEASURED, NOT_MEASURED),
    ],
)
def test_beyond_a_limit(figure, above, below):
    assert beyond(figure=figure, limit=0.3, above=True) == above
    assert beyond(figure=figure, limit=0.3, above=False) == below


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (RAISED, RAISED, RAISED),
        (RAISED, UNDECIDED, UNDECIDED),
        (UNDECIDED, NOT_MEASURED, NOT_MEASURED),
        (NOT_MEASURED, NOT_RAISED, NOT_RAISED),
        (NOT_RAISED, RAISED, NOT_RAISED),
    ],
)
def test_two_conditions(first, second, outcome):
    assert both(first=first, second=second) == both(first=second, second=first) == outcome


def flags(tables, **changed):
    names = ("utilization", "key_experts", "masking_effect", "phases")
    arguments = {name: tables[name] for name in names} | changed
    found = diagnostics.rows(
        **arguments, curve_setting=CURVES, expert_setting=EXPERTS, masking_setting=EXPERTS, expert_threshold=0.6
    )
    return found.set_index(["model", "flag"])


def with_mui(tables, value, scope="total", half=0.01):
    """`utilization` with this MUI at the common m in every cell of a scope."""
    table = tables["utilization"].copy()
    chosen = table["scope"] == scope
    table.loc[chosen, "mui_at_m"] = value
    for name in ("mui_at_m", "mui_at_m_sample"):
        table.loc[chosen, [f"{name}_low", f"{name}_high"]] = value - half, value + half
    return table


def with_step(tables, value, half=0.01):
    """`phases` with this last change of the mean's MUI."""
    table = tables["phases"].copy()
    chosen = (table["task"] == "mean") & (table["to_order"] == 3)
    for column, number in (("d_mui", value), ("d_mui_low", value - half), ("d_mui_high", value + half)):
        table.loc[chosen, column] = number
    return table


def test_four_flags_a_model_at_its_last_checkpoint(study_tables):
    found = flags(study_tables)
    assert list(found.index) == [(model, flag) for model in ("tiny-olmoe", "tiny-deepseek") for flag in FLAGS]
    assert set(found["checkpoint"]) == {"step-00800"}
    row = found.loc[("tiny-olmoe", "mui_without_decline")]
    own = study_tables["utilization"].query("model == 'tiny-olmoe' and order == 3 and scope == 'total'")
    own = own[np.isclose(own["threshold"], 0.01) & (own["formulation"] == "projection")]
    assert row["value"] == pytest.approx(own["mui_at_m"].mean())
    half = np.sqrt(((own["mui_at_m"] - own["mui_at_m_low"]) ** 2).sum()) / 3
    assert row["value_low"] == pytest.approx(row["value"] - half)
    assert (row["second"], row["limit"], row["second_limit"]) == (pytest.approx(-0.05), 0.30, 0.0)
    assert row["outcome"] == NOT_RAISED  # MUI is below 30 %, and it fell
    assert row["evidence"].startswith("Not raised: MUI is 2")
    assert "a decline" in row["evidence"]


@pytest.mark.parametrize(
    ("mui", "step", "outcome"),
    [
        (0.40, 0.02, RAISED),
        (0.40, -0.005, UNDECIDED),  # the step's interval contains 0, and so may be a decline
        (0.40, 0.005, UNDECIDED),
        (0.40, 0.01, UNDECIDED),  # from 0 to 0.02: the interval's ends belong to it
        (0.40, -0.02, NOT_RAISED),
        (0.305, 0.02, UNDECIDED),
        (0.305, -0.02, NOT_RAISED),
        (0.20, 0.02, NOT_RAISED),
    ],
)
def test_high_mui_without_decline(study_tables, mui, step, outcome):
    found = flags(
        study_tables, utilization=with_mui(study_tables, mui, half=0.02), phases=with_step(study_tables, step)
    )
    row = found.loc[("tiny-olmoe", "mui_without_decline")]
    assert row["outcome"] == outcome
    assert row["note"] == ""


@pytest.mark.parametrize(("mui", "outcome"), [(0.4, UNDECIDED), (0.2, NOT_RAISED)])
def test_a_single_trained_checkpoint_cannot_have_declined(study_tables, mui, outcome):
    table = with_mui(study_tables, mui)
    # the step that leaves the untrained checkpoint is none
    last = table["order"].isin([0, 3])
    phases = with_step(study_tables, -0.2)
    phases.loc[phases["to_order"] == 3, "from_checkpoint"] = "step-00000"
    phases = phases[phases["to_order"] == 3]
    row = flags(study_tables, utilization=table[last], phases=phases).loc[("tiny-olmoe", FLAGS[0])]
    assert row["outcome"] == outcome
    assert row["note"] == "a decline takes two trained checkpoints"
    assert "there is no earlier trained checkpoint to compare with" in row["evidence"]


@pytest.mark.parametrize(("mui", "outcome"), [(0.4, UNDECIDED), (0.2, NOT_RAISED)])
def test_a_step_that_was_not_measured_is_not_called_absent(study_tables, mui, outcome):
    table = with_mui(study_tables, mui)
    for phases in (study_tables["phases"].head(0), with_step(study_tables, np.nan)):
        row = flags(study_tables, utilization=table, phases=phases).loc[("tiny-olmoe", FLAGS[0])]
        assert row["outcome"] == outcome
        assert row["note"] == "no task has a change of MUI with an interval"
        assert "its last step was not measured" in row["evidence"]
        assert "no earlier trained checkpoint" not in row["evidence"]


@pytest.mark.parametrize(
    ("step", "said"),
    [(0.02, "a rise."), (-0.02, "a decline."), (0.005, "neither a rise nor a decline shown.")],
)
def test_the_evidence_tells_what_the_step_shows(study_tables, step, said):
    found = flags(study_tables, utilization=with_mui(study_tables, 0.4), phases=with_step(study_tables, step))
    assert found.loc[("tiny-olmoe", FLAGS[0]), "evidence"].endswith(f"], {said}")


@pytest.mark.parametrize(("share", "outcome"), [(0.02, RAISED), (0.045, UNDECIDED), (0.08, NOT_RAISED)])
def test_few_key_experts(study_tables, share, outcome):
    table = study_tables["key_experts"].assign(
        proportion=share, proportion_low=max(share - 0.01, 0), proportion_high=share + 0.02
    )
    row = flags(study_tables, key_experts=table).loc[("tiny-deepseek", "few_key_experts")]
    assert row["outcome"] == outcome
    assert (row["limit"], row["value"]) == (0.05, pytest.approx(share))
    assert row["value_high"] == pytest.approx(share + 0.02 / np.sqrt(3))  # three tasks


def test_shared_and_total_mui(study_tables):
    table = with_mui({"utilization": with_mui(study_tables, 0.6, "shared")}, 0.4)
    found = flags(study_tables, utilization=table)
    row = found.loc[("tiny-deepseek", "shared_and_total_mui_high")]
    assert (row["outcome"], row["value"], row["second"]) == (RAISED, pytest.approx(0.6), pytest.approx(0.4))
    assert "60.0 % [59.4, 60.6], limit 50.0 %, and total MUI 40.0 % [39.4, 40.6], limit 30.0 %" in row["evidence"]
    low = with_mui({"utilization": with_mui(study_tables, 0.6, "shared")}, 0.2)
    assert flags(study_tables, utilization=low).loc[("tiny-deepseek", FLAGS[2]), "outcome"] == NOT_RAISED
    without = found.loc[("tiny-olmoe", "shared_and_total_mui_high")]
    assert without["outcome"] == NOT_MEASURED
    assert "no shared experts" in without["note"]


def with_loss(tables, loss, accuracy=0.5, half=0.05):
    """`masking_effect` with this loss by key neurons, and this accuracy without masking, in every task."""
    known = {"loss_key": loss, "loss_key_low": loss - 0.01, "loss_key_high": loss + 0.015, "accuracy_none": accuracy}
    ends = {"accuracy_none_low": max(accuracy - half, 0.0), "accuracy_none_high": accuracy + half}
    return tables["masking_effect"].assign(**known, **(ends if half == half else dict.fromkeys(ends, np.nan)))


@pytest.mark.parametrize(("loss", "outcome"), [(0.0, RAISED), (0.015, UNDECIDED), (0.3, NOT_RAISED)])
def test_cheap_masking(study_tables, loss, outcome):
    row = flags(study_tables, masking_effect=with_loss(study_tables, loss)).loc[("tiny-olmoe", "cheap_masking")]
    assert row["outcome"] == outcome
    assert row["value_high"] == pytest.approx(loss + 0.015 / np.sqrt(3))
    assert (row["second"], row["second_limit"]) == (pytest.approx(0.5), 0.02)
    assert "with nothing masked it is 50.0 % [47.1, 52.9]." in row["evidence"]


@pytest.mark.parametrize(
    ("accuracy", "half", "said"),
    [
        (0.0, 0.01, "which leaves nothing to lose."),
        (0.02, 0.01, "which may leave nothing to lose."),
        (0.5, np.nan, "(no interval), which may leave nothing to lose."),
    ],
)
def test_masking_is_not_cheap_where_there_is_nothing_to_lose(study_tables, accuracy, half, said):
    table = with_loss(study_tables, 0.0, accuracy=accuracy, half=half)
    row = flags(study_tables, masking_effect=table).loc[("tiny-olmoe", "cheap_masking")]
    assert row["outcome"] == UNDECIDED
    assert row["evidence"].startswith("Undecided: masking the key neurons costs 0.00 points [")
    assert row["evidence"].endswith(said)
    # a loss needs no accuracy to be seen
    table = with_loss(study_tables, 0.3, accuracy=accuracy, half=half)
    assert flags(study_tables, masking_effect=table).loc[("tiny-olmoe", "cheap_masking"), "outcome"] == NOT_RAISED


def test_a_loss_counts_once_where_masking_has_two_controls(study_tables):
    one = study_tables["masking_effect"].assign(control="expert")
    two = pd.concat([one, one.assign(control="frequency")])
    expected = flags(study_tables, masking_effect=one).loc[("tiny-olmoe", "cheap_masking")]
    assert flags(study_tables, masking_effect=two).loc[("tiny-olmoe", "cheap_masking")].equals(expected)


def test_what_is_missing_is_not_measured_with_a_note(study_tables, empty_tables):
    found = flags(empty_tables | {"utilization": study_tables["utilization"]})
    assert found.loc[("tiny-olmoe", "few_key_experts"), "outcome"] == NOT_MEASURED
    assert "no share of key experts was measured" in found.loc[("tiny-olmoe", "few_key_experts"), "note"]
    assert found.loc[("tiny-olmoe", "cheap_masking"), "outcome"] == NOT_MEASURED
    assert found.loc[("tiny-olmoe", "cheap_masking"), "evidence"] == (
        "Not measured: what masking the key neurons costs was not measured."
    )
    assert flags(empty_tables).empty


def test_tasks_of_one_sample_are_undecided(study_tables):
    table = with_mui(study_tables, 0.4)
    table[[f"mui_at_m{kind}_{end}" for kind in ("", "_sample") for end in ("low", "high")]] = np.nan
    row = flags(study_tables, utilization=table, phases=with_step(study_tables, 0.02)).loc[("tiny-olmoe", FLAGS[0])]
    assert (row["outcome"], row["value"]) == (UNDECIDED, pytest.approx(0.4))
    assert "the MUI has no interval" in row["note"]
    assert "(no interval)" in row["evidence"]
