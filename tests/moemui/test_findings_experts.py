"""Sentences on experts say what the tables hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from moemui.report.findings import enrichment, key_experts, structure
from moemui.report.findings.finding import Finding
from moemui.report.views import NothingToShow

MODELS = {"tiny-olmoe": 0, "tiny-deepseek": 1}  # model → shared experts a layer
TASKS = ("addition", "brackets", "facts")


def text(finding: Finding) -> str:
    assert finding.caveat
    return " ".join(finding.sentences)


def at_last(model, setting):
    return {"model": model, "checkpoint": "step-00800", "order": 3, "tokens": 3e6, **setting._asdict()}


@pytest.fixture
def structured(study_tables, fill, choice):
    """The study's tables with rows on how experts relate to tasks and each other, at the last checkpoint."""
    found = {name: [] for name in ("expert_overlap", "specialization_summary", "coactivation_summary")}
    for model, shared in MODELS.items():
        for (a, b), share in zip(itertools.combinations(TASKS, 2), (0.2, 0.4, 0.6), strict=True):
            near = {"jaccard": share, "jaccard_low": share - 0.1, "jaccard_high": share + 0.1, "expert_threshold": 0.6}
            pair = {"task_a": a, "task_b": b, "q_within_kind": 0.01 if share > 0.5 else 0.5}
            found["expert_overlap"].append(at_last(model, choice.experts) | near | pair)
        bits = {"mean_mutual_information": 0.3, "mean_mutual_information_low": 0.2,
                "mean_mutual_information_high": 0.4, "mean_mutual_information_expected": 0.01}  # fmt: skip
        for kind in ("routed", "shared")[: 1 + shared]:
            counts = {"kind": kind, "n_testable": 10, "n_specialised": 7}
            found["specialization_summary"].append(at_last(model, choice.experts) | bits | counts)
        phi = {"mean_phi_within": 0.05, "chance_low": -0.02, "chance_high": 0.02, "p_within": 0.001}
        pairs = {"pairs": "all", "n_compared": 9, "n_testable_within": 36, "n_together_within": 5, "n_apart_within": 1}
        found["coactivation_summary"].append(at_last(model, choice.experts) | phi | pairs)
    return study_tables | {name: fill(name, rows) for name, rows in found.items()}


def test_key_experts_give_means_and_extremes(study_tables, choice):
    table = study_tables["key_experts"]
    last = (table["model"] == "tiny-olmoe") & (table["order"] == 3) & (table["threshold"] == 0.001)
    table.loc[last, ["proportion", "proportion_low", "proportion_high"]] = np.array(
        [[0.1, 0.05, 0.15], [0.2, 0.15, 0.25], [0.3, 0.25, 0.35]]
    )
    table.loc[last, "n_undecided"] = [1, 0, 3]
    finding = key_experts.key_experts(study_tables, choice)
    said = text(finding)
    # the mean of three half-widths of 0.05: √3·0.05/3 = 0.0289
    assert "tiny-olmoe at step-00800: 20.0 % [17.1, 22.9] of its 12 experts are key, mean over 3 tasks, from" in said
    assert "from 10.0 % [5.0, 15.0] (addition) to 30.0 % [25.0, 35.0] (facts)" in said
    assert "tiny-olmoe: of 36 decisions (an expert on a task), 4 are undecided" in said
    assert "would be" not in said  # one η_expert only
    assert "at least 0.6 of the samples" in finding.caveat


def test_key_experts_at_other_limits(study_tables, choice, fill):
    table = study_tables["key_experts"]
    other = table.assign(expert_threshold=0.9, proportion=0.04, proportion_low=0.03, proportion_high=0.05)
    lower = table.assign(expert_threshold=0.3, proportion=0.5, proportion_low=0.5, proportion_high=0.5)
    rows = [row for frame in (table, other, lower) for row in frame.to_dict("records")]
    study_tables["key_experts"] = fill("key_experts", rows)
    said = text(key_experts.key_experts(study_tables, choice))
    # √3·0.01/3 = 0.0058; an interval of no width is no certainty
    assert (
        "the mean share of key experts would be 50.0 % (the same in every resample) with a limit of 0.3 and 4.0 % "
        "[3.4, 4.6] with a limit of 0.9"
    ) in said
    assert "8.3 % [5.4, 11.2] of its 12 experts" in said  # the chosen limit's is as before


def test_key_experts_without_the_chosen_limit_are_missing(study_tables, choice):
    study_tables["key_experts"]["expert_threshold"] = 0.9
    with pytest.raises(NothingToShow, match=r"no rows at η_expert = 0\.6"):
        key_experts.key_experts(study_tables, choice)


def test_structure_says_what_tasks_share_what_follows_a_domain_and_what_goes_together(structured, choice):
    said = text(structure.structure(structured, choice))
    assert (
        "tiny-olmoe: two tasks share from 20.0 % [10.0, 30.0] (addition, brackets) to 60.0 % [50.0, 70.0] (brackets, "
        "facts) of the experts that are key on either (Jaccard); more than chance gives among experts of a kind in 1 "
        "of 3 pairs of tasks."
    ) in said
    assert "tiny-deepseek: 7 of 10 routed and 7 of 10 shared experts follow the domain" in said
    assert "0.300 [0.200, 0.400] bits (routed; by chance 0.010) about the domain" in said
    assert (
        "of 36 pairs of its 9 most frequent experts that can be tested, 5 are active together within tasks, 1 apart, "
        "30 undecided (mean correlation 0.050; chance keeps it within [−0.020, 0.020]; p = 0.001)."
    ) in said


def test_structure_that_is_not_significant(structured, choice):
    structured["expert_overlap"]["q_within_kind"] = 0.5
    structured["specialization_summary"]["n_specialised"] = 0
    structured["coactivation_summary"][["n_together_within", "n_apart_within"]] = 0
    said = text(structure.structure(structured, choice))
    assert "in 0 of 3 pairs of tasks" in said
    assert "0 of 10 routed experts follow the domain" in said
    assert "0 are active together within tasks, 36 undecided" in said


def test_structure_that_is_missing(structured, empty_tables, choice):
    structured["expert_overlap"]["jaccard"] = np.nan
    structured["specialization_summary"][["n_testable", "n_domains"]] = [0, 2]
    structured["coactivation_summary"]["n_testable_within"] = 0
    said = text(structure.structure(structured, choice))
    assert "no two tasks have key experts to compare" in said
    assert "no expert is active in some samples and not in all" in said
    structured["specialization_summary"]["n_domains"] = 1
    one_domain = text(structure.structure(structured, choice))
    assert "no expert is active in some" not in one_domain
    assert "all samples are of one domain, so there is no test of whether experts follow one." in one_domain
    assert "no pair of experts can be tested" in said
    with pytest.raises(NothingToShow, match="expert_overlap, specialization_summary, coactivation_summary have no"):
        structure.structure(empty_tables, choice)


def test_enrichment_that_the_untrained_model_has_too_is_undecided(study_tables, choice):
    finding = enrichment.enrichment(study_tables, choice)
    assert "tiny-olmoe has no shared experts, so there is no test." in finding.sentences
    assert "3 of 3 shared experts and 1 of 12 routed ones are key on every task: significant" in text(finding)
    assert "the log odds changed by 0.00 [−4.83, 4.83]: whether training changed the enrichment is undecided" in text(
        finding
    )
    assert finding.verdict == "undecided"


def test_enrichment_not_significant_is_said(study_tables, choice):
    study_tables["enrichment"]["q_greater"] = 0.2
    said = text(enrichment.enrichment(study_tables, choice))
    assert "not significant (Fisher p =" in said
    assert "0.200 after correction" in said


@pytest.mark.parametrize(
    ("change", "outcome", "verdict"),
    [
        ((2.0, 1.0, 3.0), "2.00 [1.00, 3.00]: training increased the enrichment", "agrees"),
        ((-2.0, -3.0, -1.0), "−2.00 [−3.00, −1.00]: training reduced the enrichment", "undecided"),
        ((2.0, 0.0, 4.0), "2.00 [0.00, 4.00]: whether training changed the enrichment is undecided", "undecided"),
    ],
)
def test_enrichment_changed_by_training_is_said(study_tables, choice, change, outcome, verdict):
    table = study_tables["enrichment"]
    columns = ["log_odds_change", "log_odds_change_low", "log_odds_change_high"]
    table.loc[table["order"] == 3, columns] = change
    finding = enrichment.enrichment(study_tables, choice)
    assert outcome in text(finding)
    assert finding.verdict == verdict


def test_shared_experts_that_are_rarer_disagree_with_the_paper(study_tables, choice):
    table = study_tables["enrichment"]
    table["q_greater"] = 1.0
    table[["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]] = [0.2, 0.1, 0.5]
    finding = enrichment.enrichment(study_tables, choice)
    assert "odds ratio 0.2 [0.1, 0.5]" in text(finding)
    assert finding.verdict == "disagrees"


def test_enrichment_is_set_beside_untrained_only_where_there_is_one(study_tables, choice):
    table = study_tables["enrichment"]
    study_tables["enrichment"] = table[~table["is_baseline"]]
    assert "There is no untrained checkpoint to compare with" in text(enrichment.enrichment(study_tables, choice))
    study_tables["enrichment"] = table[table["order"] == 0]
    assert "This checkpoint is itself untrained." in text(enrichment.enrichment(study_tables, choice))


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        (
            {"log_odds_shared": 2.0, "log_odds_shared_low": 1.0, "log_odds_shared_high": 3.0,
             "likelihood_ratio_q": 0.01},
            "shared ones are still key more often (log odds 2.00 [1.00, 3.00], likelihood-ratio p = 0.008, 0.010 after",
        ),
        (
            {"log_odds_shared": -2.0, "log_odds_shared_low": -3.0, "log_odds_shared_high": -1.0,
             "likelihood_ratio_q": 0.01},
            "shared ones are key less often (log odds −2.00",
        ),
        (
            {"log_odds_shared": 2.0, "log_odds_shared_low": -1.0, "log_odds_shared_high": 5.0,
             "likelihood_ratio_q": 0.2},
            "shared ones are not shown to be key more or less often (log odds 2.00 [−1.00, 5.00]",
        ),
        (
            {"likelihood_ratio_q": 0.01, "separation": "complete", "n_key_shared": 3, "expected_key_shared": 1.0},
            "still key more often (likelihood-ratio p = 0.008, 0.010 after correction). Its size can't be estimated",
        ),
        (
            {"likelihood_ratio_q": 1.0, "separation": "complete", "separation_by_tokens": "complete"},
            "The number of tokens alone already tells the key experts apart.",
        ),
    ],
)  # fmt: skip
def test_enrichment_beside_exposure(study_tables, fill, choice, fit, said):
    row = at_last("tiny-deepseek", choice.experts) | {"task_set": "all", "expert_threshold": 0.6}
    row |= {"likelihood_ratio_p": 0.008, "separation": "none", "separation_by_tokens": "none"}
    study_tables["exposure"] = fill("exposure", [row | fit, row | fit | {"task_set": "facts"}])
    assert text(enrichment.enrichment(study_tables, choice)).count(said) == 1


def test_enrichment_that_cannot_be_adjusted_says_why(study_tables, choice):
    said = text(enrichment.enrichment(study_tables, choice))
    assert "not adjusted for the tokens that each expert sees (all experts of a kind saw equally many tokens" in said


def test_enrichment_under_other_scoring(study_tables, fill, choice):
    table = study_tables["enrichment"]
    other = table.assign(variant="no_gate", p_greater=0.3, q_greater=0.4)
    study_tables["enrichment"] = fill("enrichment", [*table.to_dict("records"), *other.to_dict("records")])
    said = text(enrichment.enrichment(study_tables, choice))
    assert said.count("variant no_gate") == 1
    assert "3 shared and 1 routed experts are key on every task, not significant (p = 0.300, 0.400 after" in said
    other[["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]] = np.nan
    other["note"] = "no key expert"
    study_tables["enrichment"] = fill("enrichment", [*table.to_dict("records"), *other.to_dict("records")])
    said = text(enrichment.enrichment(study_tables, choice))
    assert "variant no_gate: undecided, since there is nothing to test (no key expert)." in said


@pytest.mark.parametrize(("q", "outcome"), [(0.4, "not significant"), (0.01, "significant")])
def test_the_most_frequent_experts_are_counted(study_tables, fill, choice, q, outcome):
    top = {"n_top": 10, "n_shared": 3, "expected_shared": 2.0, "p_greater": 0.005, "q_greater": q}
    rows = [at_last("tiny-deepseek", choice.experts) | top | {"task": task} for task in ("all", "facts")]
    study_tables["top_composition"] = fill("top_composition", rows)
    assert (
        f"3 of the 10 most frequent experts are shared, by chance 2.0 would be: {outcome} (p = 0.005, {q:.3f} after"
    ) in text(enrichment.enrichment(study_tables, choice))


def test_enrichment_with_nothing_to_test_is_undecided(study_tables, choice):
    table = study_tables["enrichment"]
    table[["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]] = np.nan
    table["note"] = "every expert key"
    finding = enrichment.enrichment(study_tables, choice)
    assert "undecided, since there is nothing to test (every expert key)." in text(finding)
    assert finding.verdict == "undecided"
    study_tables["enrichment"] = table[table["task_set"] != "all"]
    with pytest.raises(NothingToShow, match="No enrichment test was run over all tasks"):
        enrichment.enrichment(study_tables, choice)
