"""Sentences on diversity, laws, flags and the paper's figures say what the tables hold."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.report.findings import diversity, flags, laws, published
from moemui.report.findings.finding import Finding
from moemui.report.views import NothingToShow

FINER, COARSER, UNSHOWN = "neuron level resolves finer", "neuron level resolves coarser", "no difference shown"


def text(finding: Finding) -> str:
    assert finding.caveat
    return " ".join(finding.sentences)


def effects(fill, choice, proportion, active, untrained=(0.6, 0.55, 0.65)):
    """`diversity_effect` of a trained and the untrained checkpoint of one model."""
    rows = []
    for order, resolution in ((0, untrained), (1, (0.8, 0.75, 0.85))):
        place = {"model": "tiny-olmoe", "checkpoint": f"step-{order}", "order": order, "tokens": order * 1e6}
        place |= {"n_domains": 5, "n_samples": 22, "spearman": 0.7, "spearman_low": 0.6, "spearman_high": 0.8}
        place |= dict(zip(("resolution", "resolution_low", "resolution_high"), resolution, strict=True))
        rows.append(place | {"level": "neuron", "measure": "mui", "setting": choice.curves.label})
        for level, measure, verdict in (
            ("expert", "key_expert_proportion", proportion),
            ("expert", "active_experts", active),
            ("lexical", "distinct_1", UNSHOWN),
        ):
            gap = {"difference": 0.05, "difference_low": -0.01, "difference_high": 0.11, "difference_p": 0.07}
            setting = choice.experts.label if level == "expert" else ""
            rows.append(place | gap | {"level": level, "measure": measure, "setting": setting, "verdict": verdict})
    return {"diversity_effect": fill("diversity_effect", rows)}


def test_diversity_gives_correlation_resolution_and_what_is_coarser(fill, choice):
    finding = diversity.diversity(effects(fill, choice, FINER, FINER), choice)
    said = text(finding)
    assert "tiny-olmoe at step-1: over 1 to 5 domains at 22 samples a set" in said
    assert "Spearman correlation of 0.70 [0.60, 0.80] with the number of domains" in said
    assert "one domain more in 80.0 % [75.0, 85.0] of pairs (50 % would be guessing)" in said
    assert (
        "the resolution of MUI is finer than the share of key experts (p = 0.070) and the number of active experts (p "
        "= 0.070); not shown to differ from distinct words (p = 0.070)."
    ) in said
    assert "η_expert and not from the level" not in said
    assert finding.verdict == "agrees"


def test_diversity_that_active_experts_follow_as_well_is_undecided(fill, choice):
    finding = diversity.diversity(effects(fill, choice, FINER, UNSHOWN), choice)
    assert (
        "is not shown to resolve worse (difference +5.0 points [−1.0, +11.0]). So the gap to key experts may come"
        in text(finding)
    )
    assert finding.verdict == "undecided"


@pytest.mark.parametrize(("proportion", "verdict"), [(UNSHOWN, "undecided"), (COARSER, "disagrees"), ("", "described")])
def test_diversity_against_key_experts(fill, choice, proportion, verdict):
    finding = diversity.diversity(effects(fill, choice, proportion, UNSHOWN), choice)
    assert "finer than the share" not in text(finding)
    assert finding.verdict == verdict
    assert ("The paper claims" in text(finding)) == (verdict != "described")


def test_diversity_that_the_untrained_model_resolves_is_said(fill, choice):
    said = text(diversity.diversity(effects(fill, choice, FINER, FINER), choice))
    assert "untrained: MUI tells them apart in 60.0 % [55.0, 65.0] of pairs, so at least a part" in said
    said = text(diversity.diversity(effects(fill, choice, FINER, FINER, (0.52, 0.49, 0.55)), choice))
    assert "untrained" not in said


def test_diversity_of_a_constant_mui_gives_the_reason_and_no_number(fill, choice):
    tables = effects(fill, choice, UNSHOWN, UNSHOWN)
    table = tables["diversity_effect"]
    constant = table["measure"] == "mui"
    table.loc[constant, ["spearman", "spearman_low", "spearman_high"]] = np.nan
    table.loc[constant, "note"] = "the same in all draws: no correlation"
    finding = diversity.diversity(tables, choice)
    said = text(finding)
    assert "MUI has no correlation with the number of domains (the same in all draws: no correlation)." in said
    assert "resolution of MUI is" not in said
    assert "untrained" not in said
    assert finding.verdict == "undecided"


def test_diversity_that_is_missing(fill, empty_tables, choice):
    with pytest.raises(NothingToShow, match="number of domains was not measured"):
        diversity.diversity(empty_tables, choice)
    tables = effects(fill, choice, FINER, FINER)
    unknown = tables["diversity_effect"].assign(resolution=np.nan, note="a single domain (x), so nothing varies")
    with pytest.raises(NothingToShow, match=r"could not be varied: a single domain \(x\), so nothing varies\.$"):
        diversity.diversity({"diversity_effect": unknown}, choice)
    tables["diversity_effect"].loc[:, "setting"] = choice.experts.label
    with pytest.raises(NothingToShow, match=r"Diversity was not measured at projection/pairs/0\.01"):
        diversity.diversity(tables, choice)


def law(**changes):
    row = {"scope": "checkpoints", "model": "tiny-olmoe", "task": "mean", "form": "linear", "n_points": 5}
    row |= {"slope": -2.0, "slope_p": 0.03, "r_squared": 0.75, "r_squared_low": 0.1, "r_squared_high": 0.9}
    return row | {"better": False} | changes


def test_laws_give_explained_variance_and_the_slope(fill, study_tables, choice):
    rows = [law(), law(form="logarithmic", better=True), law(scope="models", model="", slope=1.0, slope_p=0.4)]
    study_tables["utility_law"] = fill("utility_law", rows)
    said = text(laws.laws(study_tables, choice))
    assert (
        "Over the trained checkpoints of tiny-olmoe (5 points), a straight line of accuracy on MUI explains 75.0 % "
        "[10.0, 90.0] of the variance; its slope is negative and significant (p = 0.030, as if checkpoints were "
        "independent). The logarithm fits better (AICc)."
    ) in said
    assert "Over this study's models (5 points)" in said
    assert "its slope is positive and not significant (p = 0.400)." in said


def test_laws_over_too_few_points_are_one_sentence(study_tables, choice):
    sentences = [s for s in laws.laws(study_tables, choice).sentences if s.startswith("No law is fitted")]
    assert sentences == [
        "No law is fitted over this study's models: needs 4 models, found 2; over the trained checkpoints of "
        "tiny-olmoe and the trained checkpoints of tiny-deepseek: needs 4 checkpoints, found 3."
    ]


def test_decay_gives_its_exponent_and_what_fits(study_tables, choice):
    row = study_tables["decay"].query("model == 'tiny-olmoe' and order == 3 and task == 'all'").iloc[0]
    said = text(laws.laws(study_tables, choice))
    exponent = f"{row['alpha']:.2f} [{row['alpha_low']:.2f}, {row['alpha_high']:.2f}]"
    assert (
        "tiny-olmoe at step-00800: from 2 samples on, the number of samples in which a neuron is key falls with an "
        f"exponent of {exponent} over {row['n_tail']} neurons. A power law is not rejected (p = 0.500)."
    ) in said
    study_tables["decay"]["p_fit"] = 0.01
    assert "A power law is rejected (p = 0.010)." in text(laws.laws(study_tables, choice))
    study_tables["decay"]["alpha"], study_tables["decay"]["note"] = np.nan, "too few neurons"
    assert "tiny-olmoe: no decay is fitted (too few neurons)." in text(laws.laws(study_tables, choice))


def test_laws_without_tables_are_missing(empty_tables, choice):
    with pytest.raises(NothingToShow, match="utility_law and decay have no fit to show"):
        laws.laws(empty_tables, choice)


def flag(name, outcome, model="tiny-olmoe"):
    return {"model": model, "flag": name, "outcome": outcome, "evidence": f"{outcome.capitalize()}: 1.7 % [1.6, 1.8]."}


def test_flags_say_every_outcome_once(fill, empty_tables, choice):
    names = list(flags.FLAGS)
    rows = [flag(*pair) for pair in zip(names, ("raised", "undecided", "not raised", "not measured"), strict=True)]
    finding = flags.flags({"diagnostics": fill("diagnostics", rows)}, choice)
    assert finding.sentences == (
        "Raised on tiny-olmoe: MUI above 30 % without decline (1.7 % [1.6, 1.8]).",
        "Undecided on tiny-olmoe: fewer than 5 % of the experts key (1.7 % [1.6, 1.8]).",
        "Not raised: MUI of the shared experts and of all both high (tiny-olmoe).",
        "Not measured: masking key neurons costs less than 2 % (tiny-olmoe).",
    )
    calm = fill("diagnostics", [flag(names[0], "not raised"), flag(names[0], "not raised", "tiny-deepseek")])
    assert flags.flags({"diagnostics": calm}, choice).sentences == (
        "No flag is raised.",
        "Not raised: MUI above 30 % without decline (tiny-olmoe, tiny-deepseek).",
    )
    with pytest.raises(NothingToShow, match="No model was measured"):
        flags.flags(empty_tables, choice)


def test_flags_of_many_models_are_left_to_the_table(fill, choice):
    rows = [flag("few_key_experts", "raised", f"m{i}") for i in range(12)]
    sentences = flags.flags({"diagnostics": fill("diagnostics", rows)}, choice).sentences
    assert len(sentences) == 9
    assert sentences[-1].startswith("See diagnostics for the same of m8: fewer than 5 %")


def test_published_gives_the_difference_and_the_correlation(fill, empty_tables, choice):
    row = {"figure": "key_expert_proportion", "task": "mean", "metric": "key_expert", "n_common": 3}
    row |= {"mean_difference": -0.05, "spearman": 0.5, "spearman_p": 0.4}
    rows = [row, row | {"model": "OLMoE", "n_common": 1, "spearman": np.nan, "spearman_p": np.nan}]
    finding = published.published({"published_agreement": fill("published_agreement", rows)}, choice)
    assert finding.sentences == (
        "key expert proportion, key expert, mean: 3 values in common; own less published is −5.0 points on average (no "
        "interval), rank correlation 0.50 (p = 0.400).",
        "key expert proportion, key expert of OLMoE, mean: 1 value in common; own less published is −5.0 points on "
        "average (no interval).",
    )
    assert finding.caveat
    with pytest.raises(NothingToShow, match="No model of this study has the name"):
        published.published(empty_tables, choice)
