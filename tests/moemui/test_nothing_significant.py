"""A study in which nothing is significant says so in every topic and at the top, and claims no difference anywhere."""

from __future__ import annotations

import re

import published_size
import pytest
from published_size import CHOICE

from moemui.laws import diagnostics
from moemui.report.findings import findings
from moemui.report.glance import glance
from moemui.report.headline import NOTHING, headline, shown

# What only a result that its interval bears out may be called.
CLAIMS = [
    r"(?<!not )(?<!in )\bsignificant \(", r"\bsignificantly (higher|lower)", r"and significant\b", r"cost more\.",
    r"cost less\.", r"training (increased|reduced)", r"still key more often", r"are key less often", r"is finer than",
    r"is coarser than", r"slope of the mean MUI changes", r"lowest on", r"fits better", r"does not have to be learned",
    r"^Raised", r"explains a part", r", more$", r", less$", r": (more|less)$",
    r"a (larger|smaller) share now", r"is (Accumulating|Evolving|Coarsening|Collapsing)",
]  # fmt: skip


def flatten(table, name, value, margin):
    """An estimate that is the same in every row, with an interval around it."""
    table[[name, f"{name}_low", f"{name}_high"]] = [value, value - margin, value + margin]


@pytest.fixture(scope="module")
def calm():
    """Two models of the study of published size: equal MUI and accuracy everywhere, every test far from significant."""
    tables = published_size.of_models(2)
    flatten(tables["performance"], "accuracy", 0.5, 0.07)
    mui = tables["utilization"]
    flatten(mui, "mui_at_m", 0.2, 0.01)
    mui[["mui_at_m_sample_low", "mui_at_m_sample_high"]] = [0.19, 0.21]
    flatten(mui, "chao2", 0.28, 0.1)
    mui["mui"] = 0.25
    pairs = tables["comparisons"]
    flatten(pairs, "difference", 0.0, 0.01)
    pairs["verdict"] = "no difference shown"
    steps = tables["phases"]
    flatten(steps, "d_accuracy", 0.01, 0.05)
    flatten(steps, "d_mui", -0.001, 0.01)
    steps["phase"] = steps["phase"].where(steps["phase"] == "", "Flat")
    apart = tables["phase_divergence"]
    apart["mean_phase"], apart["n_differ"], apart["n_agree"], apart["mean_masks"] = "Flat", 0, 7, False
    tables["change_points"]["p_no_change"] = 0.8
    experts = tables["key_experts"]
    experts["n_key"] = 200
    flatten(experts, "proportion", 0.1, 0.01)
    overlap = tables["expert_overlap"]
    flatten(overlap, "jaccard", 0.3, 0.1)
    overlap["q_within_kind"] = 0.9
    tables["specialization_summary"]["n_specialised"] = 0
    together = tables["coactivation_summary"]
    together[["n_together_within", "n_apart_within", "mean_phi_within", "p_within"]] = [0, 0, 0.0, 0.9]
    tests = tables["enrichment"]
    tests[["p_greater", "q_greater"]] = 1.0
    tests[["odds_ratio_corrected", "odds_ratio_corrected_low", "odds_ratio_corrected_high"]] = [1.1, 0.5, 2.4]
    flatten(tests, "log_odds_change", 0.0, 0.6)
    tables["exposure"][["likelihood_ratio_p", "likelihood_ratio_q"]] = 0.8
    flatten(tables["exposure"], "log_odds_shared", 0.1, 0.9)
    tables["top_composition"][["n_shared", "p_greater", "q_greater"]] = [1, 0.7, 0.7]
    losses = tables["masking_effect"]
    for name in ("loss_key", "loss_random", "loss_difference", "nll_difference"):
        flatten(losses, name, 0.01, 0.2)
    correlations = tables["sensitivity"]
    for name in ("pearson", "spearman", "cosine"):
        correlations[[name, f"{name}_clustered_low", f"{name}_clustered_high"]] = [0.3, -0.4, 1.0]
    chosen = tables["threshold_selection"]
    flatten(chosen, "separation", 0.001, 0.05)
    chosen["n_significant"], chosen["chosen"] = 0, False
    domains = tables["diversity_effect"]
    flatten(domains, "spearman", 0.05, 0.5)
    flatten(domains, "resolution", 0.5, 0.1)
    flatten(domains, "difference", 0.0, 0.1)
    domains["verdict"], domains["difference_p"] = (
        domains["verdict"].where(domains["verdict"] == "", "no difference shown"),
        0.9,
    )
    law = tables["utility_law"]
    law["slope_p"], law["better"] = 0.7, False
    flatten(law, "slope", 0.05, 3.0)
    tables["decay"]["p_fit"] = 0.5
    tables["diagnostics"] = diagnostics.rows(
        utilization=mui, key_experts=experts, masking_effect=losses, phases=steps, curve_setting=CHOICE.curves,
        expert_setting=CHOICE.experts, masking_setting=CHOICE.masking, expert_threshold=CHOICE.expert_threshold,
    )  # fmt: skip
    own = tables["published_agreement"]
    own["mean_difference"], own["spearman"], own["spearman_p"] = 0.0, 0.0, 1.0
    return tables


# topic → what it says, and how often
SAID = {
    "Performance and MUI": [("MUI is the same on all of them", 2)],
    "Differences of MUI": [("MUI differs significantly in 0 of", 3), ("no difference shown", 3)],
    "Phases of training": [
        ("of 35 steps of single tasks, 35 Flat.", 2),
        ("goes Flat → Flat → Flat → Flat → Flat", 2),
        ("in 0 of its 5 steps", 2),
        ("no change of slope of the mean MUI is shown (p = 0.800)", 2),
        ("in 0 of 2 models, leaves it undecided in 2", 1),
    ],
    "Saturation": [("has not saturated on 0 of 7 tasks, undecided on 7.", 2)],
    "Key experts": [("10.0 % [9.6, 10.4]", 8), ("not shown to differ", 2)],
    "Structure of experts": [
        ("experts of a kind in 0 of 21 pairs of tasks", 2),
        ("0 of 1440 routed and 0 of 96 shared experts follow the domain", 1),
        ("0 are active together within tasks, 435 undecided", 2),
    ],
    "Shared experts": [
        ("not significant (Fisher p = 1.000, 1.000 after", 2),
        ("whether training changed the enrichment is undecided", 2),
        ("shared ones are not shown to be key more or less often", 2),
        ("most frequent experts are shared, by chance", 2),
        ("not significant (p = 0.700", 2),
    ],
    "Masking": [
        ("points [−6.6, 8.6]: undecided", 2),
        ("nats a token more than with random ones: undecided", 2),
        ("key neurons cost more on 0, undecided on 7.", 2),
        ("difference 1.0 points [−6.6, 8.6], undecided", 2),
        ("so on 0 of 2 models", 2),
    ],
    "Choice of setting": [("undecided here", 3)],
    "Choice of threshold": [("which is undecided", 3), ("significantly more in 0 of", 3), ("none would be chosen", 1)],
    "Diversity of data": [("0.05 [−0.45, 0.55]", 2), ("the resolution of MUI is not shown to differ from", 2)],
    "Laws": [("not significant (p = 0.700", 4)],
    "Flags": [("No flag is raised.", 1)],
    "The paper's own figures": [("is 0.00 points on average (no interval), rank correlation 0.00 (p = 1.000)", 3)],
}


def test_every_topic_says_that_nothing_is_shown(calm):
    found = {finding.topic: finding for finding in findings(calm, CHOICE)}
    assert list(found) == list(SAID)
    for topic, sentences in SAID.items():
        text = " ".join(found[topic].sentences)
        for words, times in sentences:
            assert text.count(words) == times, f"{topic}: {words!r} in {text}"
    assert {finding.verdict for finding in found.values()} <= {"described", "undecided", "disagrees"}


def test_no_sentence_claims_a_difference(calm):
    rows = [
        text
        for row in glance(calm, CHOICE)
        for text in (row.phase, row.changes, row.course, row.flags, row.key_experts_beside, *row.check, *row.believe)
    ]
    sentences = [
        *headline(calm, CHOICE),
        *rows,
        *(text for found in findings(calm, CHOICE) for text in found.sentences),
    ]
    assert [(claim, text) for claim in CLAIMS for text in sentences if re.search(claim, text)] == []


def test_the_claims_are_those_of_a_study_that_shows_something():
    tables = published_size.of_models(2)
    rows = [text for row in glance(tables, CHOICE) for text in (*row.check, *row.believe)]
    sentences = [
        *headline(tables, CHOICE),
        *rows,
        *(text for found in findings(tables, CHOICE) for text in found.sentences),
    ]
    found = {claim for claim in CLAIMS if any(re.search(claim, text) for text in sentences)}
    assert len(found) >= 10


def test_the_first_screen_says_that_nothing_is_significant(calm):
    first, *others = headline(calm, CHOICE)
    assert first.startswith(f"{NOTHING}: no test of phases of training, turns in training, differences of MUI, ")
    assert len(others) == 2
    assert (
        "costs more accuracy than masking random ones of the same experts in 0 of 2 models, undecided in 2: by"
        in others[1]
    )
    for row in glance(calm, CHOICE):
        assert (row.phase, row.course) == ("Flat", "Flat")
        assert row.changes == "accuracy +1.0 points [−4.0, +6.0], MUI −0.10 points [−1.10, +0.90]"
        assert set(row.phases) == {"Flat"}
        assert "raised" not in {outcome for _, outcome in row.flag_outcomes}
        assert row.flags.startswith("none raised")
        assert row.check[0] == "masking: undecided"
        assert row.key_experts_beside.endswith("not shown to differ")
        assert "undecided whether more or less" in " ".join(row.believe)


@pytest.mark.parametrize(
    ("tested", "name", "column", "value"),
    [
        ("phases of training", "phases", "phase", "Evolving"),
        ("turns in training", "change_points", "p_no_change", 0.01),
        ("differences of MUI", "comparisons", "verdict", "lower"),
        ("shared experts", "enrichment", "q_greater", 0.01),
        ("experts that tasks share", "expert_overlap", "q_within_kind", 0.01),
        ("experts' domains", "specialization_summary", "n_specialised", 1),
        ("experts active together", "coactivation_summary", "n_apart_within", 1),
        ("masking", "masking_effect", "loss_difference_low", 0.001),
        ("diversity of data", "diversity_effect", "verdict", "neuron level resolves coarser"),
        ("laws", "utility_law", "slope_p", 0.01),
    ],
)
def test_one_thing_that_is_shown_takes_the_sentence_away(calm, tested, name, column, value):
    tables = calm | {name: calm[name].assign(**{column: value})}
    assert [of for of, found in shown(tables, CHOICE).items() if found] == [tested]
    assert not any(NOTHING in sentence for sentence in headline(tables, CHOICE))


def test_nothing_is_said_to_be_insignificant_that_was_not_tested(calm):
    names = ("phases", "change_points", "comparisons", "enrichment", "expert_overlap", "specialization_summary",
             "coactivation_summary", "masking_effect", "diversity_effect", "utility_law")  # fmt: skip
    tables = calm | {name: calm[name].head(0) for name in names}
    assert set(shown(tables, CHOICE).values()) == {None}
    assert not any(NOTHING in sentence for sentence in headline(tables, CHOICE))
    one = tables | {"utility_law": calm["utility_law"]}
    assert headline(one, CHOICE)[0] == f"{NOTHING}: no test of laws shows anything, at 5 % or by its 95 % interval."
