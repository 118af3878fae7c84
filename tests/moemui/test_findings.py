"""Sentences say what the tables hold, with intervals, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report import findings, wording
from moemui.report.findings import Finding
from moemui.report.limits import limits
from moemui.report.views import Choice, Estimate
from moemui.tables.catalog import TABLES

TOPICS = [
    "Performance and MUI", "Phases of training", "Saturation", "Key experts", "Shared experts", "Masking",
    "Choice of setting",
]  # fmt: skip


def text(finding: Finding) -> str:
    return " ".join(finding.sentences)


def test_every_topic_is_there_with_or_without_rows(study_tables, empty_tables, choice):
    full, empty = findings.findings(study_tables, choice), findings.findings(empty_tables, choice)
    assert [finding.topic for finding in full] == [finding.topic for finding in empty] == TOPICS
    assert {finding.verdict for finding in empty} == {"not measured"}
    assert all(finding.caveat for finding in full)
    assert text(empty[5]) == "The table masking_effect is empty."


def test_utilization_gives_means_with_intervals(study_tables, choice):
    said = text(findings.utilization(study_tables, choice))
    # accuracy of the last checkpoint: 150, 160 and 170 of 200
    assert "tiny-olmoe at step-00800: mean accuracy 80.0 % [76.5, 82.8] and mean MUI 27.5 %" in said
    row = study_tables["utilization"].query(
        "model == 'tiny-olmoe' and order == 3 and task == 'addition' and scope == 'total' and threshold == 0.01"
    ).iloc[0]  # fmt: skip
    ends = f"[{100 * row['mui_at_m_low']:.1f}, {100 * row['mui_at_m_high']:.1f}]"
    assert f"lowest on addition ({100 * row['mui_at_m']:.1f} % {ends})" in said


def test_phases_are_counted_and_the_order_of_the_mean_is_judged(study_tables, choice):
    finding = findings.phases(study_tables, choice)
    assert "of 6 steps of single tasks, 3 Accumulating, 3 Evolving, 0 Coarsening, 0 Collapsing, 0 Flat" in text(finding)
    assert "mean over tasks goes Accumulating → Evolving" in text(finding)
    assert "in 2 of 2 models" in text(finding)
    assert finding.verdict == "agrees"
    table = study_tables["phases"]
    table.loc[table["task"] == "mean", "phase"] = table.loc[table["task"] == "mean", "phase"].replace(
        "Evolving", "Flat"
    )
    finding = findings.phases(study_tables, choice)
    assert "in 0 of 2 models" in text(finding)
    assert finding.verdict == "disagrees"


@pytest.mark.parametrize(
    ("seen", "ends", "expected"),
    [
        (0.30, (0.40, 0.50), "has not saturated on 1 of 1 task, has on 0, undecided on 0"),
        (0.30, (0.31, 0.40), "has not saturated on 0 of 1 task, has on 0, undecided on 1"),
        (0.30, (0.30, 0.31), "has not saturated on 0 of 1 task, has on 1, undecided on 0"),
    ],
)
def test_saturation_takes_the_whole_interval(study_tables, choice, seen, ends, expected):
    table = study_tables["utilization"].query("model == 'tiny-olmoe' and order == 3 and task == 'facts'").copy()
    table[["mui", "chao2", "chao2_low", "chao2_high"]] = [seen, *np.mean([ends], axis=1), *ends]
    assert expected in text(findings.saturation({"utilization": table}, choice))


def test_enrichment_that_the_untrained_model_has_too_is_undecided(study_tables, choice):
    finding = findings.enrichment(study_tables, choice)
    assert "tiny-olmoe has no shared experts, so there is no test." in finding.sentences
    assert "3 of 3 shared experts and 1 of 12 routed ones are key on every task: significant" in text(finding)
    assert "the intervals overlap, so a change by training is undecided" in text(finding)
    assert finding.verdict == "undecided"


def test_enrichment_not_significant_is_said(study_tables, choice):
    table = study_tables["enrichment"]
    table["q_greater"] = 0.2
    said = text(findings.enrichment(study_tables, choice))
    assert "not significant (Fisher p =" in said
    assert "0.200 after correction" in said


@pytest.mark.parametrize(("start", "outcome"), [(0.01, "increased"), (1e6, "reduced")])
def test_enrichment_changed_by_training_is_said(study_tables, choice, start, outcome):
    table = study_tables["enrichment"]
    columns = ["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]
    table.loc[table["is_baseline"] & (table["model"] == "tiny-deepseek"), columns] = [start, start / 2, start * 2]
    finding = findings.enrichment(study_tables, choice)
    assert f"training {outcome} the enrichment" in text(finding)
    assert finding.verdict == ("agrees" if outcome == "increased" else "undecided")


def test_masking_counts_tasks_and_gives_the_difference(study_tables, choice):
    finding = findings.masking(study_tables, choice)
    # losses 0.30, 0.30, 0.02 with half-widths 0.03: mean 0.2067 ± √3·0.03/3
    assert "masking key neurons costs 20.7 points [18.9, 22.4] of accuracy" in text(finding)
    assert "random ones 1.0 points [−0.7, 2.7], mean over 3 tasks" in text(finding)
    assert "key neurons cost more on 2, undecided on 1, less on 0" in text(finding)
    assert finding.verdict == "undecided"  # the random loss may be above 2 %


def test_masking_without_effect_is_undecided(study_tables, choice):
    table = study_tables["masking_effect"]
    for name in ("loss_key", "loss_random", "loss_difference"):
        table[[name, f"{name}_low", f"{name}_high"]] = [0.0, -0.01, 0.01]
    finding = findings.masking(study_tables, choice)
    assert "difference 0.00 points [−0.58, 0.58]: undecided" in text(finding)
    assert finding.verdict == "disagrees"  # key neurons certainly cost less than 10 %


def test_sensitivity_compares_with_the_paper_at_its_thresholds_only(study_tables, choice):
    table = study_tables["sensitivity"]
    row = table.query(
        "measure == 'mui' and setting_a == 'projection/pairs/0.001' and setting_b == 'projection/pairs/0.01'"
    ).iloc[0]  # fmt: skip
    value = f"is {row['pearson']:.4f} [{row['pearson_low']:.4f}, {row['pearson_high']:.4f}]"
    finding = findings.sensitivity(study_tables, choice)
    assert value in text(finding)
    assert "The paper" not in text(finding)  # it has no threshold of 1 %
    assert finding.verdict == "described"
    for name in ("setting_a", "setting_b"):
        table[name] = table[name].str.replace("0.01", "0.002")
    finding = findings.sensitivity(study_tables, choice)
    assert value in text(finding)
    assert "The paper: 0.9958" in text(finding)
    assert "(no interval)" in text(finding)  # a cosine has none
    table[["pearson", "pearson_low", "pearson_high"]] = [0.5, 0.4, 0.6]
    finding = findings.sensitivity(study_tables, choice)
    assert "lower here" in text(finding)
    assert finding.verdict == "disagrees"


def test_limits_are_those_of_models_trained_here(study_tables, choice):
    said = " ".join(limits(study_tables, choice))
    assert "10–25 %" in said
    assert "earlier trials" in said
    assert "not measured in this study" in said
    assert "as few as 400 neurons, so at 0.1 % only k = 1" in said
    assert "MUI is shown at 1 % (k = 4)" in said
    others = Choice(curves=choice.curves, experts=choice.experts, masking=choice.masking)
    assert limits(study_tables, others) == []


def test_every_verdict_has_a_label(study_tables, choice):
    from moemui.report.page import VERDICTS

    assert {finding.verdict for finding in findings.findings(study_tables, choice)} <= set(VERDICTS)


def test_a_study_without_grades_still_has_findings(study_tables, choice):
    study_tables["performance"][["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    study_tables["phases"] = TABLES["phases"].frame([])
    found = findings.findings(study_tables, choice)
    assert "has no task with both an accuracy and a MUI" in text(found[0])
    assert found[1].verdict == "not measured"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.2, "20.0 %"),
        (0.0012, "0.12 %"),
        (Estimate(0.2, 0.1, 0.25), "20.0 % [10.0, 25.0]"),
        (Estimate(-0.00001, -0.01, 0.02), "0.00 % [−1.00, 2.00]"),
        (Estimate(0.2, float("nan"), float("nan")), "20.0 % (no interval)"),
    ],
)
def test_percent(number, expected):
    assert wording.percent(number) == expected


@pytest.mark.parametrize(
    ("p", "expected"), [(0.0312, "0.031"), (1.9e-7, "2e−07"), (0.0, "below 1e−300"), (1.0, "1.000")]
)
def test_probability(p, expected):
    assert wording.probability(p) == expected


def test_an_interval_that_touches_zero_has_no_sign():
    assert [wording.sign(Estimate(0.1, *ends)) for ends in ((0.01, 0.2), (0.0, 0.2), (-0.2, -0.1))] == [1, 0, -1]
    assert wording.sign(Estimate(0.1, float("nan"), float("nan"))) == 0
