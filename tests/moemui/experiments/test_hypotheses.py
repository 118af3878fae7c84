"""Rules: what an interval decides, hand-worked, and what can't be a rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moemui.experiments.hypotheses import Hypothesis, Region, SeedMean, decide, over_seeds

NAN = float("nan")


def hypothesis(**changed):
    values = {"claim": "It rises.", "effect": "rise", "confirmed": {"above": 0.01}, "refuted": {"below": 0.01}}
    return Hypothesis.from_mapping("rises", {**values, **changed})


def test_the_interval_over_seeds_is_students():
    # 1, 2, 3, 4, 5: mean 3, standard deviation √2.5, t(4) = 2.776
    mean = over_seeds([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert mean == pytest.approx((3, 3 - half, 3 + half, 5))


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8).filter(lambda values: max(values) - min(values) > 1e-3))
def test_the_interval_is_scipys(values):
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)


def test_seeds_without_the_effect_do_not_count_and_two_give_no_interval():
    assert over_seeds([1.0, NAN, 2.0, 3.0]).n == 3
    two = over_seeds([1.0, NAN, 2.0])
    assert two.estimate == 1.5
    assert two.n == 2
    assert math.isnan(two.low)
    none = over_seeds([NAN])
    assert none.n == 0
    assert math.isnan(none.estimate)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.011, 0.5, "confirmed"),
        (-0.5, 0.009, "refuted"),
        (0.0, 0.02, "undecided"),
        (0.01, 0.5, "undecided"),  # the bound itself belongs to neither side
        (-0.5, 0.01, "undecided"),
        (NAN, NAN, "undecided"),
    ],
)
def test_the_whole_interval_must_lie_on_one_side(low, high, outcome):
    assert decide(hypothesis(), {"rise": SeedMean(0.1, low, high, 5)}).outcome == outcome


def test_equivalence_is_a_region_with_two_bounds():
    same = hypothesis(confirmed={"above": -0.02, "below": 0.02}, refuted=[{"below": -0.02}, {"above": 0.02}])
    assert decide(same, {"rise": SeedMean(0.0, -0.01, 0.01, 5)}).outcome == "confirmed"
    assert decide(same, {"rise": SeedMean(0.05, 0.03, 0.07, 5)}).outcome == "refuted"
    assert decide(same, {"rise": SeedMean(-0.05, -0.07, -0.03, 5)}).outcome == "refuted"
    assert decide(same, {"rise": SeedMean(0.0, -0.07, 0.07, 5)}).outcome == "undecided"
    assert "lies between -0.02 and 0.02, refuted if below -0.02 or above 0.02, else" in same.rule
    assert decide(same, {"rise": SeedMean(0.0, -0.03, 0.01, 5)}).outcome == "undecided"


def test_an_effect_that_is_the_same_on_every_seed_decides_nothing():
    same = over_seeds([0.5, 0.5, 0.5])
    assert same.low == same.high == 0.5
    found = decide(hypothesis(), {"rise": same})
    assert found.outcome == "undecided"
    assert "the same on every seed" in found.note


def test_a_manipulation_that_did_not_take_hold_decides_nothing():
    rule = hypothesis(needs={"dose": {"above": 0.0}})
    rise = SeedMean(0.1, 0.05, 0.15, 5)
    assert decide(rule, {"rise": rise, "dose": SeedMean(1, 0.5, 1.5, 5)}).outcome == "confirmed"
    found = decide(rule, {"rise": rise, "dose": SeedMean(1, -0.5, 1.5, 5)})
    assert found.outcome == "undecided"
    assert "dose was to lie above 0" in found.note
    assert "only if that of dose lies above 0" in rule.rule


@pytest.mark.parametrize(
    ("paper", "low", "for_paper"), [("confirmed", 0.02, "supports"), ("refuted", 0.02, "contradicts"), ("", 0.02, "")]
)
def test_what_a_decision_means_for_the_paper(paper, low, for_paper):
    assert decide(hypothesis(paper=paper), {"rise": SeedMean(0.1, low, 0.2, 5)}).for_paper == for_paper
    assert decide(hypothesis(paper=paper), {"rise": SeedMean(0.1, -low, 0.2, 5)}).for_paper == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"confirmed": {"above": 0.0}}, "above 0 and below 0.01 at once"),
        ({"confirmed": {"above": 0.2, "below": 0.1}}, "is empty"),
        ({"refuted": {}}, "needs a bound"),
        ({"paper": "maybe"}, "paper is 'maybe'"),
    ],
)
def test_rules_that_could_say_two_things_or_nothing_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        hypothesis(**changed)


def test_a_rule_about_an_effect_that_nobody_measured_is_an_error():
    with pytest.raises(ValueError, match="speaks of the effect 'rise'; there are fall"):
        decide(hypothesis(), {"fall": SeedMean(0, 0, 0, 3)})


def test_regions_that_touch_do_not_overlap_and_never_both_hold():
    assert not Region(above=0.01).overlaps(Region(below=0.01))
    assert Region(above=0.0).overlaps(Region(above=5.0))
    assert Region(below=1.0).overlaps(Region(above=0.0, below=0.5))
