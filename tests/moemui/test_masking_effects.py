"""Masking effects by hand, and what can't be had."""

import numpy as np
import pytest

from moemui.analyses.masking_effects import Condition, effect_size, rows
from moemui.analyses.settings import Setting

CELL = {
    "model": "m",
    "checkpoint": "c",
    "task": "add",
    "setting": Setting("projection", "pairs", 0.001),
    "n_neurons": 100,
}


def condition(name, correct, nll, seed=-1, n_masked=10):
    return Condition(name, n_masked, np.array(correct, dtype=np.int8), np.array(nll, dtype=float), seed)


NONE = condition("none", [1, 1, 1, 0], [1, 1, 2, 2], n_masked=0)
KEY = condition("key", [0, 0, 1, 0], [3, 3, 3, 3])
RANDOM = [condition("random", [1, 1, 1, 0], [1, 1, 2, 4], 0), condition("random", [1, 0, 1, 0], [1, 1, 4, 4], 1)]
CONDITIONS = [NONE, KEY, *RANDOM]


def test_outcomes_by_hand():
    masking, _ = rows(**CELL, conditions=[*reversed(RANDOM), KEY, NONE])
    assert masking["condition"].tolist() == ["none", "key", "random", "random"]
    assert masking["seed"].tolist() == [-1, -1, 0, 1]
    assert masking["share_masked"].tolist() == [0, 0.1, 0.1, 0.1]
    assert masking["accuracy"].tolist() == [0.75, 0.25, 0.75, 0.5]
    assert masking["nll"].tolist() == [1.5, 3, 2, 2.5]
    assert (masking["accuracy_low"] < masking["accuracy"]).all()
    assert (masking["nll_low"] <= masking["nll"]).all()
    assert (masking["nll"] <= masking["nll_high"]).all()
    assert masking["note"].eq("").all()


def test_effect_by_hand():
    effect = rows(**CELL, conditions=CONDITIONS)[1].iloc[0]
    assert (effect["accuracy_none"], effect["loss_key"], effect["loss_random"]) == (0.75, 0.5, 0.125)
    assert effect["loss_difference"] == 0.375
    assert effect["loss_random_sd"] == pytest.approx(np.std([0, 0.25], ddof=1))
    assert (effect["nll_increase_key"], effect["nll_increase_random"], effect["nll_difference"]) == (1.5, 0.75, 0.75)
    # correct under random (mean over seeds) − under key: 1, ½, 0, 0
    assert effect["effect_size"] == pytest.approx(0.375 / np.std([1, 0.5, 0, 0], ddof=1))
    assert effect["nll_effect_size"] == pytest.approx(0.75 / np.std([2, 2, 0, -1], ddof=1))
    assert (effect["n_masked"], effect["n_samples"], effect["n_seeds"], effect["note"]) == (10, 4, 2, "")
    for name in ("loss_key", "loss_random", "loss_difference", "nll_increase_key", "nll_increase_random"):
        assert effect[f"{name}_low"] <= effect[name] <= effect[f"{name}_high"]


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
    assert (effect["loss_random_low"], effect["loss_random_high"]) == (0, 0)
    assert effect["nll_increase_key_high"] == pytest.approx(0.5)
    assert effect["note"] == "key and random differ alike in every sample's nll: no effect size"


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
    assert effect["loss_key"].isna().all()
    assert effect["note"].tolist() == ["no graded sample; no reference answer"]


def test_one_sample_and_one_seed_have_estimates_without_spread():
    single = [condition(c.name, c.correct[:1], c.nll[:1], c.seed) for c in CONDITIONS[:3]]
    _, effect = rows(**CELL, conditions=single)
    assert effect["loss_key"].tolist() == [1.0]
    assert effect[["loss_key_low", "effect_size", "loss_random_sd"]].isna().all(axis=None)
    assert effect["note"].tolist() == [
        "one graded sample: no interval; one reference answer: no interval; one seed: no standard deviation over seeds"
    ]


def test_controls_of_another_size_are_said():
    smaller = condition("random", RANDOM[0].correct, RANDOM[0].nll, 7, n_masked=4)
    effect = rows(**CELL, conditions=[NONE, KEY, smaller, RANDOM[1]])[1]
    assert effect["note"].tolist() == ["random controls mask 4 neurons instead of 10"]


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
        ([NONE, KEY, RANDOM[0], RANDOM[0]], r"seeds \[0, 0\]"),
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
