"""All topics are there, with or without rows; how sentences are cut, judged and worded."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.key_neurons.settings import Setting
from moemui.report import wording
from moemui.report.figures import FIGURES
from moemui.report.findings import TOPICS, findings
from moemui.report.findings.finding import Finding, reasons, shortened, verdict
from moemui.report.limits import limits
from moemui.report.page import VERDICTS
from moemui.report.views import Choice, Estimate
from moemui.tables.catalog import TABLES

ORDER = [
    "Performance and MUI", "Differences of MUI", "Phases of training", "Saturation", "Key experts",
    "Structure of experts", "Shared experts", "Masking", "Choice of setting", "Choice of threshold",
    "Diversity of data", "Laws", "Flags", "The paper's own figures",
]  # fmt: skip


def text(finding: Finding) -> str:
    return " ".join(finding.sentences)


def test_every_topic_is_there_with_or_without_rows(study_tables, empty_tables, choice):
    full, empty = findings(study_tables, choice), findings(empty_tables, choice)
    assert [finding.topic for finding in full] == [finding.topic for finding in empty] == list(TOPICS) == ORDER
    assert {finding.verdict for finding in empty} == {"not measured"}
    assert all(finding.caveat for finding in full if finding.verdict != "not measured")
    assert all(len(finding.sentences) == 1 and finding.sentences[0].endswith(".") for finding in empty)
    assert text(empty[ORDER.index("Masking")]) == "No checkpoint of this study was masked."


def test_every_sentence_ends_and_no_topic_is_a_wall(study_tables, choice):
    for finding in findings(study_tables, choice):
        assert len(finding.sentences) <= 9
        for sentence in (*finding.sentences, *filter(None, [finding.caveat])):
            assert sentence.endswith(".")
            assert ".." not in sentence
            assert "nan" not in sentence
            assert "<NA>" not in sentence


def test_a_study_in_which_nothing_is_significant_says_so_everywhere(study_tables, choice):
    tables = study_tables
    tables["comparisons"]["verdict"] = "no difference shown"
    tables["phases"].loc[tables["phases"]["phase"] != "", "phase"] = "Flat"
    tables["phase_divergence"]["mean_masks"] = False
    tables["change_points"]["p_no_change"] = 0.5
    tables["enrichment"]["q_greater"] = 1.0
    for name in ("loss_difference", "nll_difference"):
        tables["masking_effect"][[name, f"{name}_low", f"{name}_high"]] = [0.001, -0.01, 0.012]
    tables["utility_law"]["slope_p"] = 0.5
    found = {finding.topic: text(finding) for finding in findings(tables, choice)}
    assert "significantly in 0 of" in found["Differences of MUI"]
    assert "no difference shown" in found["Differences of MUI"]
    assert "tasks, 6 Flat." in found["Phases of training"]
    assert "in 0 of its" in found["Phases of training"]
    assert found["Phases of training"].count("no change of slope of the mean MUI is shown") == 2
    assert "not significant" in found["Shared experts"]
    assert found["Masking"].count("cost more on 0, undecided on 3.") == 2
    assert "cost more." not in found["Masking"]
    assert "not significant" in found["Laws"]
    for said in found.values():
        for claim in (": significant", "and significant", "significantly higher", "significantly lower"):
            assert claim not in said
    verdicts = {finding.topic: finding.verdict for finding in findings(tables, choice)}
    assert verdicts["Phases of training"] == verdicts["Shared experts"] == "undecided"


def test_sentences_beyond_the_most_are_left_to_the_table():
    groups = {name: [f"{name} {i}." for i in range(3)] for name in "abcd"}
    assert shortened(groups, "t") == [*groups["a"], *groups["b"], "See t for the same of c, d."]
    assert shortened({"a": [str(i) for i in range(12)]}, "t") == [str(i) for i in range(12)]
    assert shortened({"a": [], "b": ["x."]}, "t") == ["x."]
    assert shortened({}, "t") == []


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [([], "described"), ([1, 1], "agrees"), ([1, 0], "undecided"), ([0], "undecided"), ([-1, 0], "disagrees"),
     ([-1, 1], "undecided")],
)  # fmt: skip
def test_verdict(outcomes, expected):
    assert verdict(outcomes) == expected


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
    assert {finding.verdict for finding in findings(study_tables, choice)} <= set(VERDICTS)


def test_a_study_without_grades_still_has_findings(study_tables, choice):
    study_tables["performance"][["accuracy", "accuracy_low", "accuracy_high"]] = np.nan
    study_tables["phases"] = TABLES["phases"].frame([])
    found = findings(study_tables, choice)
    assert (
        "tiny-olmoe at step-00800: mean MUI 27.5 % [27.1, 27.9] over 3 tasks; no mean accuracy, since no task"
        in text(found[0])
    )
    assert found[ORDER.index("Phases of training")].verdict == "not measured"


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
    ("number", "expected"),
    [
        (Estimate(0.494, 0.47, 0.516), "+49.4 points [+47.0, +51.6]"),
        (Estimate(-0.001, -0.011, 0.009), "−0.10 points [−1.10, +0.90]"),
        (Estimate(0.0, 0.0, 0.0), "0.00 points (the same in every resample)"),
        (0.00001, "0.00 points"),
        (float("nan"), "not known"),
    ],
)
def test_a_change_has_its_sign(number, expected):
    assert wording.change(number) == expected


def test_a_tally_leaves_out_what_never_came():
    assert wording.tally("on 0 of 3", (3, "undecided on 3"), (0, "less on 0")) == "on 0 of 3, undecided on 3"
    assert wording.tally("on 3 of 3", (0, "less on 0")) == "on 3 of 3"


def test_every_topic_names_figures_that_exist_and_every_figure_has_a_topic(study_tables, empty_tables, choice):
    for tables in (study_tables, empty_tables):
        shown = {finding.topic: finding.figures for finding in findings(tables, choice)}
        assert all(shown.values())
        assert {name for names in shown.values() for name in names} == set(FIGURES)
    order = list(FIGURES)
    assert all(list(names) == sorted(names, key=order.index) for names in shown.values())


def test_a_missing_number_is_not_known():
    gap = float("nan")
    assert {wording.percent(gap), wording.decimal(Estimate(gap, gap, gap)), wording.probability(gap)} == {"not known"}


def test_reasons_are_those_of_all_rows_or_the_most_frequent():
    assert reasons(["a; b", "b; c."]) == "b"
    assert reasons(["a; b", "c", "c", "d; b; b", "e; e; e", "f", "a", "c"]) == "c; a; b"
    assert reasons([]) == reasons(["", ""]) == "the table gives no reason"


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0312, "0.031"),
        (0.001, "0.001"),
        (0.0005, "0.0005"),
        (0.00004, "4e−05"),
        (1.9e-7, "2e−07"),
        (0.0, "below 1e−300"),
        (1.0, "1.000"),
    ],
)
def test_probability(p, expected):
    assert wording.probability(p) == expected


def test_an_interval_that_touches_zero_has_no_sign():
    assert [wording.sign(Estimate(0.1, *ends)) for ends in ((0.01, 0.2), (0.0, 0.2), (-0.2, -0.1))] == [1, 0, -1]
    assert wording.sign(Estimate(0.1, float("nan"), float("nan"))) == 0


def test_words():
    assert [wording.listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert wording.sentence("not chosen: behind") == "Not chosen: behind."
    assert wording.sentence("Ends.") == "Ends."
    assert wording.sentence("") == ""
    assert wording.decimal(Estimate(0.01234, 0.01, 0.02), 4) == "0.0123 [0.0100, 0.0200]"
    assert wording.decimal(-0.5) == "−0.50"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting("glu", "pairs", 0.001), "up to 0.1 % of a layer's neurons key in a sample (glu/pairs/0.001)"),
        (Setting("glu", "per_token", 0.01), "up to 1 % of a layer's neurons key at a token (glu/per_token/0.01)"),
        (
            Setting("glu", "pairs", 0.5, "top_score"),
            "neurons with 50 % or more of the layer's highest score key (glu/pairs/0.5/top_score)",
        ),
        (
            Setting("glu", "pairs", 0.01, "global_topk"),
            "up to 1 % of the model's neurons key in a sample (glu/pairs/0.01/global_topk)",
        ),
    ],
)
def test_a_setting_in_words(setting, expected):
    assert wording.key_in_words(setting) == expected
