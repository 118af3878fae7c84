"""Causal generalization: what effects are made of, by hand, and a tiny run with every quantity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moemui.experiments.causal_generalization import ARMS, QUANTITIES, Settings
from moemui.experiments.causal_generalization import measure as measuring
from moemui.experiments.causal_generalization.effects import EFFECTS, effects
from moemui.experiments.causal_generalization.measure import breadth, distinctness, measure
from moemui.experiments.causal_generalization.pictures import PICTURES
from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.geometry import Geometry, Layer
from moemui.models.recipe import Recipe
from moemui.models.training import Step, train

TINY = Recipe(
    "olmoe", hidden=32, layers=1, heads=2, experts=8, neurons_per_expert=16, top_k=2, steps=40, batch=16, distinct=60,
    save_steps=(0, 40), seed=7,
)  # fmt: skip
SHORT = Settings(measured_at=[0, 3], examples=20, learning_rate=3e-3, warm_up=0)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few_examples")
    tasks = {"sorting": 0, "counting": 0}
    history = train(TINY, tasks, folder)
    tokens = {0: 0, 40: int(history["tokens"].iloc[-1])}
    return Setup({"few_examples": Cohort("few_examples", folder, TINY, tasks, tokens)}, 7, 12, Reading(threshold=0.05))


@pytest.fixture(scope="module")
def measured(setup):
    return measure(setup, SHORT)


def at(measured, quantity, arm, step):
    return float(series(measured, quantity, ["arm"], step=step)[arm])


def test_every_quantity_is_measured_in_every_arm(measured):
    assert set(measured["quantity"]) == set(QUANTITIES)
    assert set(measured["arm"]) == set(ARMS)
    once = {"neurons_operated", "largest_logit_change"}
    copied = measured["quantity"] == "copies_cosine"
    assert set(measured[copied]["arm"]) == {"duplicate_key", "duplicate_random"}
    for quantity in set(QUANTITIES) - {"copies_cosine"}:
        rows = measured[measured["quantity"] == quantity]
        steps = {(arm, 40) for arm in ARMS} | {(arm, 43) for arm in ARMS if arm != "untouched" and quantity not in once}
        assert set(zip(rows["arm"], rows["step"], strict=True)) == steps
    assert np.isfinite(measured["value"]).all()
    assert set(effects(measured, SHORT)) == set(EFFECTS)
    for picture in PICTURES:
        assert set(picture.quantities) <= set(QUANTITIES)


def test_surgery_is_what_its_arms_say(measured):
    for arm in ("sham", "duplicate_key", "duplicate_random"):
        assert at(measured, "largest_logit_change", arm, 40) < 1e-4
        for quantity in ("training_accuracy", "held_out_accuracy", "gap"):
            assert at(measured, quantity, arm, 40) == at(measured, quantity, "untouched", 40)
        nll = at(measured, "held_out_nll", "untouched", 40)
        assert at(measured, "held_out_nll", arm, 40) == pytest.approx(nll, rel=1e-4)
        assert at(measured, "held_out_nll", arm, 43) != pytest.approx(nll, rel=1e-4)  # it was trained
    for arm in ("blend_key", "blend_random"):
        assert at(measured, "largest_logit_change", arm, 40) > 1e-2
        untouched = at(measured, "distinctness", "untouched", 40)
        assert at(measured, "distinctness", arm, 40) < untouched
    counts = {arm: at(measured, "neurons_operated", arm, 40) for arm in ARMS}
    assert counts["untouched"] == counts["sham"] == 0
    assert counts["duplicate_key"] == counts["duplicate_random"] == counts["blend_key"] == counts["blend_random"] > 5
    # Copies of key neurons are key too, copies of neurons that are not key hardly ever.
    mui = {arm: at(measured, "mui_training", arm, 40) for arm in ARMS}
    assert mui["duplicate_key"] > mui["sham"] == mui["untouched"]
    assert mui["duplicate_key"] > mui["duplicate_random"]
    for arm in ("duplicate_key", "duplicate_random"):
        assert at(measured, "copies_cosine", arm, 40) == pytest.approx(1, abs=1e-6)
        assert at(measured, "copies_cosine", arm, 43) < 1 - 1e-5


def test_the_same_seed_measures_the_same(setup, measured):
    before = torch.random.get_rng_state()
    again = measure(setup, SHORT)
    assert again.equals(measured)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_arm_is_fine_tuned_on_the_same_batches(setup, monkeypatch):
    seen = []

    class Recorder:
        def __init__(self, recipe, model):
            assert recipe.experts == TINY.experts
            seen.append([])

        def step(self, batch, rate):
            seen[-1].append((*(part.tolist() for part in batch), rate))
            return Step(loss=0.0, balance=0.0, tokens=10)

    monkeypatch.setattr(measuring, "Trainer", Recorder)
    found = measure(setup, SHORT)
    assert len(seen) == len(ARMS) - 1
    assert all(arm == seen[0] for arm in seen)
    assert len(seen[0]) == 3
    assert len({str(batch) for batch in seen[0]}) == 3
    tokens = found.groupby("step")["tokens"].unique()
    assert [list(t) for t in tokens] == [[tokens[40][0]], [tokens[40][0] + 30]]


def test_doubling_that_changes_what_a_model_computes_is_an_error(setup, monkeypatch):
    def broken(group, numbers, generator):
        expert, places = group.place(numbers)
        for part in group.parts:
            group.view(part)[expert, places] = group.view(part)[expert[0], places[0]].clone()

    monkeypatch.setattr(measuring.surgery, "_split", broken)
    with pytest.raises(RuntimeError, match=r"surgery of arm duplicate_key changed a logit by \d"):
        measure(setup, SHORT)


def made_up(values, steps=(500, 560)):
    """Every quantity of every arm: 0.5, or as `values` say for (quantity, arm, step)."""
    measured = Measured("causal_generalization", 0, QUANTITIES)
    for arm in ARMS:
        for step in steps if arm != "untouched" else steps[:1]:
            for quantity in ("training_accuracy", "held_out_accuracy", "gap", "training_nll", "held_out_nll", "mui",
                             "breadth", "distinctness", "copies_cosine"):  # fmt: skip
                value = values.get((quantity, arm, step), 0.5)
                measured.add(quantity, value, arm=arm, step=step, note="" if np.isfinite(value) else "made up")
    return measured.frame()


def test_effects_by_hand():
    """Doubling key neurons: training 1 point up, held-out 4 down against random ones; blending: both 3 points down.

    Training accuracy that rises is no damage, so the contrast is the gap there.
    """
    values = {
        ("training_accuracy", "duplicate_key", 560): 0.96, ("held_out_accuracy", "duplicate_key", 560): 0.66,
        ("gap", "duplicate_key", 560): -0.30,
        ("training_accuracy", "duplicate_random", 560): 0.95, ("held_out_accuracy", "duplicate_random", 560): 0.70,
        ("gap", "duplicate_random", 560): -0.25,
        ("gap", "untouched", 500): -0.2,
        ("training_accuracy", "sham", 560): 0.97, ("gap", "sham", 560): -0.26,
        ("training_accuracy", "blend_key", 560): 0.90, ("gap", "blend_key", 560): -0.2,
        ("training_accuracy", "blend_random", 560): 0.93, ("gap", "blend_random", 560): -0.2,
        ("training_accuracy", "blend_key", 500): 0.80, ("gap", "blend_key", 500): -0.1,
        ("training_accuracy", "blend_random", 500): 0.90, ("gap", "blend_random", 500): -0.2,
        ("mui", "duplicate_key", 560): 0.4, ("mui", "duplicate_random", 560): 0.3, ("mui", "sham", 560): 0.28,
        ("mui", "duplicate_key", 500): 0.37, ("mui", "sham", 500): 0.27,
        ("breadth", "duplicate_key", 560): 0.07, ("breadth", "duplicate_random", 560): 0.05,
        ("distinctness", "blend_key", 560): 0.4, ("distinctness", "blend_random", 560): 0.7,
        ("held_out_nll", "duplicate_key", 560): 0.9, ("training_nll", "duplicate_key", 560): 0.1,
        ("held_out_nll", "duplicate_random", 560): 0.6, ("training_nll", "duplicate_random", 560): 0.2,
        ("copies_cosine", "duplicate_key", 560): 0.75,
    }  # fmt: skip
    found = effects(made_up(values), Settings(measured_at=(0, 60)))
    assert set(found) == set(EFFECTS)
    assert not any(note for _, note in found.values())
    expected = {
        "training_at_start": 0.5, "gap_at_start": -0.2,
        "utilization_duplicate": 0.1, "breadth_duplicate": 0.02, "training_duplicate": 0.01,
        "held_out_duplicate": -0.04, "gap_duplicate": -0.05, "contrast_duplicate": -0.05, "nll_duplicate": 0.4,
        "specialization_duplicate": 0, "utilization_blend": 0, "specialization_blend": -0.3, "training_blend": -0.03,
        "gap_blend": 0, "contrast_blend": 0.03, "utilization_duplicate_sham": 0.12, "training_duplicate_sham": -0.01,
        "gap_duplicate_sham": -0.04, "contrast_duplicate_sham": -0.03, "utilization_at_once": 0.1,
        "copies_parted": 0.25,
        "training_blend_at_once": -0.1, "gap_blend_at_once": 0.1, "contrast_blend_at_once": 0.2,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-12), name


def test_an_effect_that_is_not_known_says_so():
    found = effects(made_up({("distinctness", "blend_key", 560): np.nan}), Settings(measured_at=(0, 60)))
    value, note = found["specialization_blend"]
    assert np.isnan(value)
    assert note == "specialization_blend is not known, since a quantity it rests on is not known in some arm"
    assert found["gap_blend"] == (0.0, "")


def test_an_arm_that_was_not_measured_is_an_error():
    whole = made_up({})
    with pytest.raises(ValueError, match="mui of arm duplicate_random at step 560 was not measured; measure the seed"):
        effects(whole[whole["arm"] != "duplicate_random"], Settings(measured_at=(0, 60)))


def test_breadth_by_hand():
    geometry = Geometry((Layer(0, 2, 0, 5, 0, 1),))  # 10 neurons
    # 5 + 3 + 1 of 10 are 90 %: three neurons; a negative score holds nothing.
    score = np.array([[[5.0, 3.0, 1.0, 0.5, 0.5, 0.0, -4.0, 0.0, 0.0, 0.0]]])
    assert breadth(score, geometry) == pytest.approx(0.3)
    # Each neuron doubled: twice as many of them.
    doubled = np.repeat(score / 2, 2, axis=2)[..., :10]
    doubled[..., 8:] = 0.25
    assert breadth(doubled, geometry) == pytest.approx(0.6)
    one, none = np.eye(1, 10)[None], np.zeros((1, 1, 10))
    assert breadth(np.concatenate([score, one]), geometry) == pytest.approx(0.2)
    assert breadth(np.concatenate([one, none]), geometry) == pytest.approx(0.1)  # nothing positive: left out
    assert np.isnan(breadth(none, geometry))


def test_distinctness_by_hand():
    cosine = np.array([0.9, 0.5, np.nan, 0.0])
    assert distinctness(cosine, np.array([3, 1, 7, 0])) == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert np.isnan(distinctness(cosine, np.array([0, 0, 7, 0])))


def test_a_model_without_neurons_that_have_a_control_is_refused(setup):
    with pytest.raises(ValueError, match=r"none of the \d+ key neurons can be operated on with a control"):
        measure(setup, Settings(measured_at=(0, 3), examples=20, share=0.001))
    with pytest.raises(
        ValueError, match="cohorts are few_examples, other; causal_generalization operates on models of"
    ):
        measure(Setup({**setup.cohorts, "other": setup.cohorts["few_examples"]}, 0, 12, Reading()), SHORT)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"share": 0}, "share is 0; it lies between 0 and 1, both excluded"),
        ({"blend": 1.0}, r"blend is 1\.0"),
        ({"copies": 1}, "copies is 1; it is at least 2"),
        ({"learning_rate": 0}, "learning_rate is 0; it is above 0"),
        ({"measured_at": [5, 10]}, r"measured_at is \[5, 10\]; name 0 and at least one later step"),
        ({"measured_at": [0]}, r"measured_at is \[0\]"),
        ({"measured_at": [0, 9, 9]}, "ascending, each once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Settings(**knobs)
