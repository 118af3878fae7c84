"""Masking effects by hand, and what can't be had."""

import numpy as np
import pytest

from moemui.checks.masking_effects import Condition, effect_size, rows
from moemui.key_neurons.settings import Setting
from moemui.statistics.crossed_means import crossed_mean

CELL = {
    "model": "m",
    "checkpoint": "c",
    "task": "add",
    "setting": Setting("projection", "pairs", 0.001),
    "n_neurons": 100,
}


def condition(name, correct, nll, seed=-1, n_masked=10, frequency=0.25):
    """frequency: the mean of the masked neurons, which spread by 0.1 around it; None where it was not counted."""
    spread = None if frequency is None else frequency + 0.1 * (np.arange(n_masked) % 2 * 2 - 1)
    return Condition(name, n_masked, np.array(correct, dtype=np.int8), np.array(nll, dtype=float), seed, spread)


NONE = condition("none", [1, 1, 1, 0], [1, 1, 2, 2], n_masked=0)
KEY = condition("key", [0, 0, 1, 0], [3, 3, 3, 3], frequency=0.5)
RANDOM = [condition("random", [1, 1, 1, 0], [1, 1, 2, 4], 0), condition("random", [1, 0, 1, 0], [1, 1, 4, 4], 1)]
MATCHED = [
    condition("matched", [1, 1, 0, 0], [1, 2, 2, 4], 0, frequency=0.45),
    condition("matched", [1, 0, 1, 0], [1, 2, 2, 4], 1, frequency=0.55),
]
CONDITIONS = [NONE, KEY, *RANDOM]
FEW = "2 seeds, below 5: intervals may be too narrow"


def test_outcomes_by_hand():
    masking, _ = rows(**CELL, conditions=[*reversed(MATCHED), *reversed(RANDOM), KEY, NONE])
    assert masking["condition"].tolist() == ["none", "key", "random", "random", "matched", "matched"]
    assert masking["seed"].tolist() == [-1, -1, 0, 1, 0, 1]
    assert masking["share_masked"].tolist() == [0, *[0.1] * 5]
    assert masking["accuracy"].tolist() == [0.75, 0.25, 0.75, 0.5, 0.5, 0.5]
    assert masking["nll"].tolist() == [1.5, 3, 2, 2.5, 2.25, 2.25]
    assert np.isnan(masking["mean_activation_frequency"][0])
    assert masking["mean_activation_frequency"][1:].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.45, 0.55])
    assert (masking["accuracy_low"] < masking["accuracy"]).all()
    assert (masking["nll_low"] <= masking["nll"]).all()
    assert (masking["nll"] <= masking["nll_high"]).all()
    assert masking["note"].tolist() == ["nothing is masked", *[""] * 5]


def test_effect_by_hand():
    effect = rows(**CELL, conditions=CONDITIONS)[1].iloc[0]
    assert (effect["accuracy_none"], effect["loss_key"], effect["loss_random"]) == (0.75, 0.5, 0.125)
    assert effect["loss_difference"] == 0.375
    assert effect["loss_random_sd"] == pytest.approx(np.std([0, 0.25], ddof=1))
    assert (effect["nll_increase_key"], effect["nll_increase_random"], effect["nll_difference"]) == (1.5, 0.75, 0.75)
    # correct under random (mean over seeds) − under key: 1, ½, 0, 0
    assert effect["effect_size"] == pytest.approx(0.375 / np.std([1, 0.5, 0, 0], ddof=1))
    assert effect["nll_effect_size"] == pytest.approx(0.75 / np.std([2, 2, 0, -1], ddof=1))
    assert (effect["n_masked"], effect["n_samples"], effect["n_seeds"], effect["note"]) == (10, 4, 2, FEW)
    assert (effect["control"], effect["share_masked"], effect["n_masked_control"]) == ("expert", 0.1, 10)
    # ten neurons masked: a hundred times as much for a thousand
    assert effect["loss_separation_per_1000_neurons"] == pytest.approx(37.5)
    assert effect["nll_separation_per_1000_neurons"] == pytest.approx(75)
    # (0.5 − 0.25) over the spread of values ±0.1: √(10 · 0.01 / 9)
    assert (effect["activation_frequency_key"], effect["activation_frequency_random"]) == pytest.approx((0.5, 0.25))
    assert effect["activation_frequency_smd"] == pytest.approx(0.25 / np.sqrt(0.1 / 9))
    for name in ("loss_key", "loss_random", "loss_difference", "nll_increase_key", "nll_increase_random"):
        assert effect[f"{name}_low"] <= effect[name] <= effect[f"{name}_high"]


def test_differences_are_means_over_samples_and_seeds():
    """Interval and p are those of the two-way layout, kept inside what an accuracy can lose."""
    effect = rows(**CELL, conditions=CONDITIONS)[1].iloc[0]
    for name, values in (
        ("nll_difference", [[2, 2, 1, -1], [2, 2, -1, -1]]),  # nll under key − under random
        ("loss_difference", [[1, 1, 0, 0], [1, 0, 0, 0]]),  # correct under random − under key
    ):
        pseudo = np.array([[-1.0, 1], [-1, 1]]) if name == "loss_difference" else None
        wanted = crossed_mean(values=np.array(values, dtype=float), pseudo_samples=pseudo)
        assert effect[name] == wanted.mean
        assert effect[f"{name}_p"] == pytest.approx(wanted.p)
        assert effect[f"{name}_low"] == pytest.approx(wanted.low)
        assert effect[f"{name}_high"] == pytest.approx(
            min(wanted.high, 1) if name == "loss_difference" else wanted.high
        )


def test_every_control_has_its_row():
    _, effect = rows(**CELL, conditions=[*CONDITIONS, *MATCHED])
    assert effect["control"].tolist() == ["expert", "frequency"]
    assert effect["loss_key"].tolist() == [0.5, 0.5]
    assert effect["loss_random"].tolist() == [0.125, 0.25]
    assert effect["nll_increase_random"].tolist() == [0.75, 0.75]
    assert effect["activation_frequency_random"].tolist() == pytest.approx([0.25, 0.5])
    # +0.05 with one seed and −0.05 with the other
    assert effect["activation_frequency_smd"][1] == pytest.approx(0, abs=1e-12)
    assert effect["note"].tolist() == [FEW, FEW]


def test_a_match_that_is_none_is_said():
    def busier(c):
        return condition("matched", c.correct, c.nll, c.seed, frequency=0.45)

    _, effect = rows(**CELL, conditions=[*CONDITIONS, *map(busier, RANDOM)])
    # 0.05 over √(0.1 / 9)
    assert effect["note"][1] == (
        f"{FEW}; matched only in part, +0.47 apart: these experts have too few others as often switched on"
    )


def test_seeds_that_differ_widen_the_interval_of_the_difference():
    """Two controls of the same mean over seeds in every sample: the one whose seeds disagree says less."""
    generator = np.random.default_rng(0)
    correct, nll = np.ones(100), generator.lognormal(size=100)
    rise = generator.normal(0.2, 0.05, 100)
    widths = []
    for apart in (0, 0.1):
        controls = [condition("random", correct, nll + rise + apart * (seed - 2), seed) for seed in range(5)]
        conditions = [condition("none", correct, nll, n_masked=0), condition("key", correct, nll + 0.5), *controls]
        effect = rows(**CELL, conditions=conditions)[1].iloc[0]
        assert effect["nll_difference"] == pytest.approx(0.5 - rise.mean())
        widths.append(effect["nll_difference_high"] - effect["nll_difference_low"])
    assert widths[1] > 5 * widths[0]


def test_the_interval_is_paired_over_samples():
    """Masking flips ten of a hundred answers: independent proportions would give an interval twice as wide."""
    was, now = np.repeat([1, 0], 50), np.repeat([0, 1, 0], [10, 40, 50])
    nll = np.linspace(1, 9, 100)
    conditions = [
        condition("none", was, nll),
        condition("key", now, nll + 0.5),
        condition("random", was, nll, 0),
        condition("random", was, nll, 1),
    ]
    effect = rows(**CELL, conditions=conditions)[1].iloc[0]
    half = 1.96 * np.sqrt(0.1 * 0.9 / 100)
    assert effect["loss_key_low"] == pytest.approx(0.1 - half, abs=0.015)
    assert effect["loss_key_high"] == pytest.approx(0.1 + half, abs=0.015)
    # no answer changed under the control, which shows less than nothing could: one more of either sign of 102
    half = 1.984 * np.sqrt(2 / 101 / 102)
    assert (effect["loss_random_low"], effect["loss_random_high"]) == pytest.approx((-half, half), rel=1e-3)
    assert effect["nll_increase_key_high"] == pytest.approx(0.5)
    assert effect["note"] == f"{FEW}; key and control differ alike in every sample's nll: no effect size"


def answers(was, now, control, seeds=5):
    """Conditions whose answers are alike in all samples of a list, and in all seeds."""
    nll = np.linspace(1, 2, len(was))
    drawn = [condition("random", control, nll + 0.1 * (seed + 1), seed) for seed in range(seeds)]
    return [condition("none", was, nll, n_masked=0), condition("key", now, nll + 1), *drawn]


@pytest.mark.parametrize("seeds", [1, 5])
def test_nothing_to_lose_is_no_certain_loss_of_nothing(seeds):
    effect = rows(**CELL, conditions=answers([0] * 12, [0] * 12, [0] * 12, seeds))[1].iloc[0]
    assert (effect["loss_key"], effect["loss_difference"], effect["loss_difference_p"]) == (0, 0, 1)
    assert (effect["loss_key_low"], effect["loss_key_high"]) == pytest.approx((-0.198, 0.198), abs=1e-3)
    for name in ("loss_random", "loss_difference"):
        assert (effect[f"{name}_low"], effect[f"{name}_high"]) == pytest.approx((-0.22, 0.22), abs=0.02)
    assert effect["loss_separation_per_1000_neurons_high"] == pytest.approx(100 * effect["loss_difference_high"])
    assert (effect["accuracy_none"], effect["accuracy_none_low"]) == (0, 0)
    assert effect["accuracy_none_high"] == pytest.approx(0.2425, abs=1e-3)


@pytest.mark.parametrize(("n", "shown"), [(2, False), (12, True)])
def test_all_lost_is_shown_by_interval_and_p_alike(n, shown):
    effect = rows(**CELL, conditions=answers([1] * n, [0] * n, [1] * n))[1].iloc[0]
    assert (effect["loss_key"], effect["loss_difference"]) == (1, 1)
    assert (effect["loss_key_low"] > 0) == (effect["loss_difference_low"] > 0) == shown
    assert (effect["loss_difference_p"] < 0.05) == shown


def test_ungraded_samples_and_missing_references_are_left_out():
    def with_gaps(c):
        return condition(c.name, [*c.correct, -1, -1], [*c.nll, np.nan, 1], c.seed, c.n_masked)

    masking, effect = rows(**CELL, conditions=[with_gaps(c) for c in CONDITIONS])
    assert masking["n_samples"].unique().tolist() == [6]
    assert masking["n_graded"].unique().tolist() == [4]
    assert masking["n_references"].unique().tolist() == [5]
    assert effect["loss_key"].tolist() == [0.5]


def test_nothing_graded_and_no_reference_are_said():
    gaps = [condition(c.name, [-1, -1], [np.nan, np.nan], c.seed) for c in CONDITIONS]
    masking, effect = rows(**CELL, conditions=gaps)
    assert masking[["accuracy", "nll", "accuracy_low", "nll_high"]].isna().all(axis=None)
    assert masking["note"].unique().tolist() == ["no sample was graded; no reference answers"]
    assert effect[["loss_key", "loss_difference", "loss_difference_p", "nll_difference"]].isna().all(axis=None)
    assert effect["note"].tolist() == [f"no graded sample; no reference answer; {FEW}"]


def test_one_sample_and_one_seed_have_estimates_without_spread():
    single = [condition(c.name, c.correct[:1], c.nll[:1], c.seed) for c in CONDITIONS[:3]]
    _, effect = rows(**CELL, conditions=single)
    assert effect["loss_key"].tolist() == [1.0]
    missing = ["loss_key_low", "loss_difference_low", "loss_difference_p", "effect_size", "loss_random_sd"]
    assert effect[missing].isna().all(axis=None)
    assert effect["note"].tolist() == [
        "one graded sample: no interval; one reference answer: no interval; one seed: no standard deviation over "
        "seeds, and intervals take these random neurons as given"
    ]


def test_controls_of_another_size_are_said_and_weighed_by_their_own():
    smaller = condition("random", RANDOM[0].correct, RANDOM[0].nll, 7, n_masked=4)
    effect = rows(**CELL, conditions=[NONE, KEY, smaller, RANDOM[1]])[1]
    assert effect["note"].tolist() == [
        f"{FEW}; controls mask 4 neurons instead of 10: more than half of an expert is key"
    ]
    assert effect["n_masked_control"].tolist() == [4]
    # rises of nll: key 1.5 for 10 neurons, random 0.5 for 4 and 1 for 10
    assert effect["nll_separation_per_1000_neurons"].tolist() == pytest.approx([150 - (125 + 100) / 2])


def test_no_key_neurons_and_no_others_to_set_beside_them_are_said():
    def empty(c):
        return condition(c.name, NONE.correct, NONE.nll, c.seed, n_masked=0)

    masking, effect = rows(**CELL, conditions=[NONE, empty(KEY), *map(empty, RANDOM)])
    assert masking["accuracy"].tolist() == [0.75] * 4
    assert masking["note"].unique().tolist() == ["nothing is masked"]
    missing = ["loss_key", "loss_random", "loss_difference", "nll_difference", "loss_separation_per_1000_neurons"]
    assert effect[missing].isna().all(axis=None)
    assert effect["note"].tolist() == [f"{FEW}; there are no key neurons, so nothing was masked"]
    _, effect = rows(**CELL, conditions=[NONE, KEY, *map(empty, RANDOM)])
    assert effect["loss_key"].tolist() == [0.5]
    assert effect[missing[1:]].isna().all(axis=None)
    assert effect["note"].tolist() == [f"{FEW}; the experts of the key neurons have no others, so there is no control"]


@pytest.mark.parametrize(
    ("frequency", "note"),
    [(None, "activation frequency was not counted"), (0.5, "activation frequencies without spread")],
)
def test_frequencies_that_say_nothing_are_explained(frequency, note):
    def known(c, value):
        spread = None if frequency is None else np.full(c.n_masked, value)
        return Condition(c.name, c.n_masked, c.correct, c.nll, c.seed, spread)

    conditions = [NONE, known(KEY, 0.5), *(known(c, 0.25) for c in RANDOM)]
    masking, effect = rows(**CELL, conditions=conditions)
    assert effect["activation_frequency_smd"].isna().all()
    assert effect["note"].tolist() == [f"{FEW}; {note}"]
    if frequency is None:
        assert masking["note"].tolist() == ["nothing is masked", *[note] * 3]


def test_effect_size_needs_spread():
    assert effect_size(differences=np.array([0.0, 2.0])) == pytest.approx(1 / 2**0.5)
    assert np.isnan(effect_size(differences=np.array([1.0, 1.0])))
    assert np.isnan(effect_size(differences=np.array([1.0])))


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ([KEY, *RANDOM], r"conditions are \['key', 'random', 'random'\]; there must be one none, one key"),
        ([NONE, KEY, KEY, *RANDOM], "there must be one none, one key"),
        ([*CONDITIONS, condition("other", [1], [1])], "there must be one none, one key"),
        ([NONE, KEY], r"random conditions have seeds \[\]; give at least one"),
        ([NONE, KEY, RANDOM[0], RANDOM[0]], r"random conditions have seeds \[0, 0\]"),
        ([*CONDITIONS, MATCHED[0], MATCHED[0]], r"matched conditions have seeds \[0, 0\]"),
        ([NONE, KEY, *MATCHED], r"random conditions have seeds \[\]; give at least one"),
        ([NONE, condition("key", [1], [1]), *RANDOM], r"key \(seed -1\) has other samples than the condition none"),
        ([NONE, condition("key", [1, 1, 1, -1], [1] * 4), *RANDOM], "other samples are graded"),
        ([NONE, condition("key", [1] * 4, [1, 1, 1, np.nan]), *RANDOM], "or have a reference answer"),
        ([NONE, condition("key", [1] * 4, [1, 1, 1, np.inf]), *RANDOM], "infinite; the model's logits are broken"),
        ([condition(c.name, [], [], c.seed) for c in CONDITIONS], "there are no samples"),
    ],
)
def test_refusals(conditions, text):
    with pytest.raises(ValueError, match=text):
        rows(**CELL, conditions=conditions)
