"""Sentences on MUI, its differences, its phases and its saturation say what the tables hold."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report.findings import comparisons, phases, saturation, utilization
from moemui.report.findings.finding import Finding
from moemui.report.views import NothingToShow


def text(finding: Finding) -> str:
    assert finding.caveat
    return " ".join(finding.sentences)


def test_utilization_gives_means_with_intervals_over_samples(study_tables, choice):
    finding = utilization.utilization(study_tables, choice)
    said = text(finding)
    # accuracy of the last checkpoint: 150, 160 and 170 of 200
    assert "tiny-olmoe at step-00800: mean accuracy 80.0 % [76.5, 82.8] and mean MUI 27.5 % [" in said
    row = study_tables["utilization"].query(
        "model == 'tiny-olmoe' and order == 3 and task == 'addition' and scope == 'total' and threshold == 0.01"
    ).iloc[0]  # fmt: skip
    ends = f"[{100 * row['mui_at_m_sample_low']:.1f}, {100 * row['mui_at_m_sample_high']:.1f}]"
    assert f"lowest on addition ({100 * row['mui_at_m']:.1f} % {ends})" in said
    assert "MUI of 200 of a task's samples" in finding.caveat
    assert "up to 1 % of a layer's neurons key in a sample (projection/pairs/0.01)" in finding.caveat


def test_utilization_without_an_interval_says_so(study_tables, choice):
    study_tables["utilization"][["mui_at_m_sample_low", "mui_at_m_sample_high"]] = np.nan
    assert "mean MUI 27.5 % (no interval)" in text(utilization.utilization(study_tables, choice))


def test_comparisons_are_counted_and_means_given(study_tables, choice):
    study_tables["comparisons"] = study_tables["comparisons"].iloc[::-1]  # the order of rows means nothing
    finding = comparisons.comparisons(study_tables, choice)
    said = text(finding)
    # of three tasks, brackets is never shown to differ; the untrained checkpoint is left out: 2 models × 2 earlier ones
    assert (
        "two models on a task, MUI differs significantly in 2 of 3 comparisons; no difference is shown in the" in said
    )
    assert "earlier trained checkpoint on a task, MUI differs significantly in 8 of 12 comparisons" in said
    assert "two tasks at a model's last checkpoint, MUI differs significantly in 0 of 2 comparisons" in said
    assert "tiny-deepseek against tiny-olmoe: +10.0 points [+5.0, +15.0], significantly higher." in said
    assert "tiny-olmoe at step-00800 against step-00400: +10.0 points [+5.0, +15.0], significantly higher." in said
    assert "step-00000" not in said
    assert "MUI of 100 of a task's samples" in finding.caveat


def test_comparisons_that_are_not_shown_are_called_so(study_tables, choice):
    study_tables["comparisons"]["verdict"] = "no difference shown"
    finding = comparisons.comparisons(study_tables, choice)
    said = " ".join(finding.sentences)
    assert "significantly higher" not in said
    assert said.count("no difference shown.") == 3
    assert "differs significantly in 0 of 12" in said


def test_many_means_are_counted_in_place_of_listed(study_tables, choice):
    assert len(comparisons._of_means(study_tables["comparisons"].query("task_a == 'mean'"), 3)) == 3
    rows = study_tables["comparisons"].query("task_a == 'mean'")
    assert comparisons._of_means(rows, 2) == [
        "Of 3 differences of means over tasks, between models and from the checkpoint before the last, 3 are "
        "significant; the table comparisons lists them."
    ]


def test_comparisons_without_a_verdict_are_missing(study_tables, choice):
    study_tables["comparisons"][["verdict", "note"]] = ["", "fewer than 2 samples, so no comparison; without x"]
    with pytest.raises(NothingToShow, match="outcome: fewer than 2 samples, so no comparison; without x"):
        comparisons.comparisons(study_tables, choice)
    study_tables["utilization"]["tokens"] = 0.0
    with pytest.raises(NothingToShow, match="All that could be compared is untrained"):
        comparisons.comparisons(study_tables, choice)


def test_nothing_to_compare_names_what_is_missing(study_tables, empty_tables, choice):
    study_tables["comparisons"] = empty_tables["comparisons"]
    with pytest.raises(NothingToShow, match="no model has two tasks at its last checkpoint, or two trained"):
        comparisons.comparisons(study_tables, choice)
    study_tables["utilization"] = study_tables["utilization"].head(1)
    with pytest.raises(NothingToShow, match=r"There is nothing to compare: one task, one checkpoint, one model\."):
        comparisons.comparisons(study_tables, choice)


def test_a_single_checkpoint_names_what_phases_take(study_tables, empty_tables, choice):
    study_tables["phases"] = empty_tables["phases"]
    with pytest.raises(NothingToShow, match="A model needs two trained checkpoints for a phase"):
        phases.phases(study_tables, choice)


def test_means_have_their_own_numbers_of_tasks(study_tables, choice):
    # brackets and facts are ungraded; facts has the highest MUI, but not at every checkpoint
    table, performance = study_tables["utilization"], study_tables["performance"]
    performance.loc[performance["task"] != "addition", ["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    table.loc[(table["task"] == "facts") & (table["order"] == 1), "mui_at_m"] = np.nan
    said = text(utilization.utilization(study_tables, choice))
    own = table.query("model == 'tiny-olmoe' and order == 3 and scope == 'total' and threshold == 0.01")
    own = own[own["formulation"] == "projection"].set_index("task")["mui_at_m"]
    mean = 50 * (own["addition"] + own["brackets"])
    assert "tiny-olmoe at step-00800: mean accuracy 75.0 % [68.6, 80.5] over 1 task and mean MUI " in said
    assert f"and mean MUI {mean:.1f} % [" in said
    assert "] over 2 tasks; MUI is lowest on addition (" in said
    assert "and highest on brackets (" in said  # of the tasks that the mean is over
    assert "facts" not in said


def test_a_study_without_mui_at_the_common_number_says_so(study_tables, choice):
    study_tables["utilization"]["mui_at_m"] = np.nan
    said = text(utilization.utilization(study_tables, choice))
    assert "mean accuracy 80.0 % [76.5, 82.8] over 3 tasks; no mean MUI, since no task has the common number" in said
    study_tables["performance"]["accuracy"] = np.nan
    said = text(utilization.utilization(study_tables, choice))
    assert "no task is graded, and none has MUI at the common number of samples, at every checkpoint." in said


def test_equal_extremes_are_no_extremes(study_tables, choice):
    columns = ["mui_at_m", "mui_at_m_sample_low", "mui_at_m_sample_high"]
    study_tables["utilization"][columns] = [0.2, 0.1, 0.3]
    said = text(utilization.utilization(study_tables, choice))
    assert "lowest" not in said
    assert "over 3 tasks; MUI is the same on all of them." in said


def test_phases_are_counted_and_the_order_of_the_mean_is_judged(study_tables, choice):
    finding = phases.phases(study_tables, choice)
    assert "of 6 steps of single tasks, 3 Accumulating, 3 Evolving. The" in text(finding)
    assert "mean over tasks goes Accumulating → Evolving" in text(finding)
    assert "shows this order in 2 of 2 models." in text(finding)
    assert finding.verdict == "agrees"


@pytest.mark.parametrize(
    ("course", "said", "verdict"),
    [
        (("Accumulating", "Flat"), "in 0 of 2 models, leaves it undecided in 2.", "undecided"),
        (("Flat", "Flat"), "in 0 of 2 models, leaves it undecided in 2.", "undecided"),
        (("Evolving", "Accumulating"), "in 0 of 2 models, contradicts it in 2.", "disagrees"),
        (("Accumulating", "Coarsening"), "in 0 of 2 models, contradicts it in 2.", "disagrees"),
    ],
)
def test_phases_against_the_paper(study_tables, choice, course, said, verdict):
    table = study_tables["phases"]
    for order, phase in zip((1, 2), course, strict=True):
        table.loc[(table["task"] == "mean") & (table["from_order"] == order), "phase"] = phase
    finding = phases.phases(study_tables, choice)
    assert said in text(finding)
    assert finding.verdict == verdict


def test_a_turn_has_its_p_and_intervals_and_is_undecided_without(study_tables, choice):
    said = text(phases.phases(study_tables, choice))
    assert (
        "tiny-olmoe: the slope of the mean MUI changes at step-00400 (p = 0.001), 95 % interval step-00100 to "
        "step-00400: −10.0 points [−12.0, −8.0] a checkpoint before, +10.0 points [+8.0, +12.0] after."
    ) in said
    assert "tiny-deepseek: no change of slope of the mean MUI is shown (p = 0.600)." in said
    table = study_tables["change_points"]
    table["low_order"] = table["high_order"]
    assert "the same in at least 95 % of the resamples" in text(phases.phases(study_tables, choice))
    table["p_no_change"], table["note"] = np.nan, "fewer than 4 trained checkpoints"
    said = text(phases.phases(study_tables, choice))
    assert "turn of the mean MUI: not measured. Fewer than 4 trained checkpoints." in said


def test_what_the_mean_hides_is_said(study_tables, choice):
    assert (
        "tiny-olmoe: 2 of 6 steps of single tasks are in another phase than the mean, Flat included; the mean hides an "
        "Accumulating task beside an Evolving one in 1 of its 2 steps."
    ) in text(phases.phases(study_tables, choice))
    for name in ("phase_divergence", "change_points"):
        study_tables[name] = study_tables[name].head(0)
    assert "hides" not in text(phases.phases(study_tables, choice))


def test_no_step_with_a_phase_is_missing(study_tables, choice):
    study_tables["phases"][["phase", "note"]] = ["", "no sample is graded at both checkpoints"]
    with pytest.raises(NothingToShow, match="No step of training has a phase: no sample is graded at both"):
        phases.phases(study_tables, choice)


@pytest.mark.parametrize(
    ("seen", "ends", "expected"),
    [
        (0.30, (0.40, 0.50), "has not saturated on 1 of 1 task. F"),
        (0.30, (0.301, 0.31), "has not saturated on 0 of 1 task, has on 1. F"),
        (0.30, (0.301, 0.40), "has not saturated on 0 of 1 task, undecided on 1. F"),
    ],
)
def test_saturation_takes_the_whole_interval(study_tables, choice, seen, ends, expected):
    table = study_tables["utilization"].query("model == 'tiny-olmoe' and order == 3 and task == 'facts'").copy()
    table[["mui", "chao2", "chao2_low", "chao2_high"]] = [seen, *np.mean([ends], axis=1), *ends]
    said = text(saturation.saturation({"utilization": table}, choice))
    assert expected in said
    assert "30.0 % of the neurons are key in its 200 samples (a count, so without an interval)" in said
    assert f"at least {100 * np.mean(ends):.1f} % [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] would be" in said
