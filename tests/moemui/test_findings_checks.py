"""Sentences on masking, settings and thresholds say what the tables hold."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report.findings import masking, sensitivity, threshold
from moemui.report.findings.finding import Finding
from moemui.report.views import NothingToShow


def text(finding: Finding) -> str:
    assert finding.caveat
    return " ".join(finding.sentences)


def test_masking_counts_tasks_and_gives_the_difference(study_tables, choice):
    finding = masking.masking(study_tables, choice)
    # losses 0.30, 0.30, 0.02 with half-widths 0.03: mean 0.2067 ± √3·0.03/3
    assert "masking key neurons costs 20.7 points [18.9, 22.4] of accuracy" in text(finding)
    assert "as many random ones of the same experts 1.0 points [−0.7, 2.7], mean over 3 tasks" in text(finding)
    assert "key neurons cost more on 2, undecided on 1. The" in text(finding)
    assert "rises by 0.90 [0.88, 0.92] nats a token more than with random ones: key neurons cost more" in text(finding)
    assert "above 10 % for key neurons (so on 2 of 2 models)" in text(finding)
    assert "below 2 % for random ones (so on 0 of 2 models, undecided on 2)" in text(finding)
    assert finding.verdict == "undecided"  # the random loss may be above 2 %


@pytest.mark.parametrize(
    ("key", "random", "verdict"),
    [(0.3, 0.005, "agrees"), (0.3, 0.08, "disagrees"), (0.03, 0.005, "disagrees"), (0.1, 0.005, "undecided")],
)
def test_masking_takes_both_of_the_papers_limits(study_tables, choice, key, random, verdict):
    table = study_tables["masking_effect"]
    for name, value in (("key", key), ("random", random)):
        table[[f"loss_{name}", f"loss_{name}_low", f"loss_{name}_high"]] = [value, value - 0.002, value + 0.002]
    assert masking.masking(study_tables, choice).verdict == verdict


def test_masking_without_effect_is_undecided(study_tables, choice):
    table = study_tables["masking_effect"]
    for name in ("loss_key", "loss_random", "loss_difference", "nll_difference"):
        table[[name, f"{name}_low", f"{name}_high"]] = [0.0, -0.01, 0.01]
    finding = masking.masking(study_tables, choice)
    assert "difference 0.00 points [−0.58, 0.58]: undecided" in text(finding)
    assert "0.00 [−0.01, 0.01] nats a token more than with random ones: undecided" in text(finding)
    assert "cost more." not in text(finding)
    assert finding.verdict == "disagrees"  # key neurons certainly cost less than 10 %


def test_masking_says_how_well_frequency_is_matched(study_tables, choice):
    # the controls of equal frequency lose a point more
    said = text(masking.masking(study_tables, choice))
    assert "switched on as often as the key neurons: difference 18.7 points [16.9, 20.4], key neurons cost more" in said
    assert "How well these are matched was not measured." in said
    table = study_tables["masking_effect"]
    table["activation_frequency_smd"] = 0.05
    said = text(masking.masking(study_tables, choice))
    assert "balanced on every task (standardised difference of activation frequency up to 0.05, no interval)" in said
    table.loc[table["task"] == "facts", "activation_frequency_smd"] = -0.35
    said = text(masking.masking(study_tables, choice))
    assert (
        "These controls are not balanced on 1 of 3 tasks (standardised difference of activation frequency up to" in said
    )
    assert "up to 0.35, no interval; balanced: 0.1 or less)" in said


def test_masking_without_grades_is_missing(study_tables, choice):
    study_tables["masking_effect"]["loss_difference"] = np.nan
    with pytest.raises(NothingToShow, match="Masking was measured on no task that is graded"):
        masking.masking(study_tables, choice)


def test_sensitivity_compares_with_the_paper_at_its_thresholds_only(study_tables, choice):
    table = study_tables["sensitivity"]
    row = table.query(
        "measure == 'mui' and setting_a == 'projection/pairs/0.001' and setting_b == 'projection/pairs/0.01'"
    ).iloc[0]  # fmt: skip
    value = f"is {row['pearson']:.4f} [{row['pearson_clustered_low']:.4f}, {row['pearson_clustered_high']:.4f}]"
    finding = sensitivity.sensitivity(study_tables, choice)
    assert value in text(finding)
    assert "The paper" not in text(finding)  # it has no threshold of 1 %
    assert finding.verdict == "described"
    for name in ("setting_a", "setting_b"):
        table[name] = table[name].str.replace("0.01", "0.002")
    finding = sensitivity.sensitivity(study_tables, choice)
    assert f"at the paper's thresholds, the Pearson correlation {value}" in text(finding)
    assert "The paper: 0.9958; undecided here." in text(finding)
    assert "The paper: 0.9947; at least as high here." in text(finding)  # cosine 1 of shares that are equal


def set_all(table, statistic, *values):
    table[[statistic, f"{statistic}_clustered_low", f"{statistic}_clustered_high"]] = values


@pytest.mark.parametrize(
    ("values", "said", "verdict"),
    [
        ((0.5, 0.4, 0.6), "0.5000 [0.4000, 0.6000], between", "disagrees"),
        ((0.999, 0.998, 1.0), "0.9990 [0.9980, 1.0000], between", "agrees"),
        ((0.999, np.nan, np.nan), "0.9990 (no interval), between", "undecided"),
    ],
)
def test_sensitivity_judges_whole_intervals(study_tables, choice, values, said, verdict):
    table = study_tables["sensitivity"]
    for name in ("setting_a", "setting_b"):
        table[name] = table[name].str.replace("0.01", "0.002")
    for statistic in ("pearson", "spearman", "cosine"):
        set_all(table, statistic, *values)
    finding = sensitivity.sensitivity(study_tables, choice)
    assert said in text(finding)
    assert finding.verdict == verdict


def test_sensitivity_to_selection_rule_and_scoring_has_no_figure_of_the_paper(study_tables, fill, choice):
    pairs = [
        ("projection/neurons/0.001", "projection/pairs/0.001"),
        ("projection/pairs/0.001", "projection/pairs/0.001/x"),
    ]
    pairs += [("projection/pairs/0.001/global_topk", "projection/pairs/0.001")]
    pairs += [("projection/pairs/0.001/x", "projection/pairs/0.001/y")]  # two variants, neither the usual one
    rows = [
        {"measure": measure, "setting_a": a, "setting_b": b, "n_cells": 9, "spearman": 0.7, "cosine": 0.9,
         "spearman_clustered_low": 0.6, "spearman_clustered_high": 0.8}
        for measure in ("mui", "key_expert_proportion") for a, b in pairs
    ]  # fmt: skip
    finding = sensitivity.sensitivity({"sensitivity": fill("sensitivity", rows)}, choice)
    assert [sentence.split(".")[0] for sentence in finding.sentences] == [
        f"Across {part} (no figure in the paper)" for part in ("selections", "rules", "scoring variants")
    ]
    for sentence in finding.sentences:
        assert "MUI: the Spearman correlation is 0.70 [0.60, 0.80], between" in sentence
        assert "Share of key experts: the cosine similarity is 0.90 (no interval) (Spearman" in sentence
    assert finding.verdict == "described"


def test_sensitivity_of_settings_that_differ_in_more_is_missing(fill, empty_tables, choice):
    row = {"measure": "mui", "setting_a": "glu/pairs/0.001", "setting_b": "projection/pairs/0.01", "spearman": 0.5}
    with pytest.raises(NothingToShow, match="No two settings differ in one part alone"):
        sensitivity.sensitivity({"sensitivity": fill("sensitivity", [row])}, choice)
    with pytest.raises(NothingToShow, match="The table sensitivity is empty"):
        sensitivity.sensitivity(empty_tables, choice)


def test_settings_with_too_little_in_common_give_the_tables_reason(fill, choice):
    row = {"measure": "mui", "setting_a": "glu/pairs/0.01", "setting_b": "projection/pairs/0.01"}
    row |= {"note": "2 cells in common, a correlation or cosine needs 3"}
    reason = r"alone can be compared: 2 cells in common, a correlation or cosine needs 3\.$"
    with pytest.raises(NothingToShow, match=reason):
        sensitivity.sensitivity({"sensitivity": fill("sensitivity", [row])}, choice)


def test_top_score_stands_beside_the_setting_shown_whatever_its_threshold(fill, choice):
    curves, experts = choice.curves.label, choice.experts.label  # projection/pairs/0.01 and projection/pairs/0.001
    statistics = {"n_cells": 9, "spearman": 0.7, "cosine": 0.9}
    pairs = [
        ("mui", "projection/pairs/0.5/top_score", curves, 0.61),
        ("mui", "projection/pairs/0.9/top_score", curves, 0.62),
        ("mui", "projection/pairs/0.5/top_score", experts, 0.11),  # not shown
        ("mui", "glu/pairs/0.5/top_score", curves, 0.12),  # another formulation
        ("mui", "projection/pairs/0.5/top_score/x", curves, 0.13),  # another variant
        ("mui", "projection/pairs/0.5/top_score", "projection/pairs/0.5", 0.14),  # the same number means nothing
        ("key_expert_proportion", experts, "projection/pairs/0.5/top_score", 0.63),
    ]
    rows = [statistics | {"measure": measure, "setting_a": a, "setting_b": b, "spearman": value}
            for measure, a, b, value in pairs]  # fmt: skip
    (sentence,) = sensitivity.sensitivity({"sensitivity": fill("sensitivity", rows)}, choice).sentences
    assert sentence == (
        "Across rules (no figure in the paper). top_score, whose threshold is a share of the highest score, beside the "
        "setting shown. MUI: the lowest Spearman correlation of 2 pairs is 0.61 (no interval), between "
        "projection/pairs/0.5/top_score and projection/pairs/0.01 over 9 cells. Share of key experts: the cosine "
        "similarity is 0.90 (no interval) (Spearman correlation 0.63 (no interval)), between "
        "projection/pairs/0.001 and projection/pairs/0.5/top_score over 9 cells."
    )


def test_threshold_gives_separation_and_the_reason(fill, empty_tables, choice):
    row = {"model": "all models", **choice.masking._asdict(), "control": "expert", "n_cells": 6, "n_significant": 5}
    row |= {"separation": 0.0123, "separation_low": 0.01, "separation_high": 0.0145, "chosen": True}
    other = row | {"threshold": 0.01, "separation_low": -0.01, "chosen": False, "note": "not chosen: behind 0.001"}
    rows = [row | {"note": "chosen: the best separation"}, other, row | {"control": "frequency", "note": "chosen"}]
    rows += [row | {"model": "tiny-olmoe", "note": "chosen"}]
    said = text(threshold.threshold({"threshold_selection": fill("threshold_selection", rows)}, choice))
    assert "projection/pairs/0.001: for each 0.1 % of the neurons masked" in said
    assert "rises by 0.0123 [0.0100, 0.0145] nats a token more than with random ones of the same experts; by" in said
    assert "significantly more in 5 of 6. Chosen: the best separation." in said
    assert (
        "0.0123 [−0.0100, 0.0145] nats a token more than with random ones of the same experts, which is undec" in said
    )
    assert "Not chosen: behind 0.001." in said
    assert "Beside controls of the same activation frequency, projection/pairs/0.001 would be chosen." in said
    with pytest.raises(NothingToShow, match="Masking was not measured at two thresholds"):
        threshold.threshold(empty_tables, choice)
