"""Shared-expert load: effects on made-up measurements by hand, families that differ in more, a tiny run of it all."""

from __future__ import annotations

import numpy as np
import pytest

from moemui.experiments import shared_load
from moemui.experiments.matched_families import check_families, other_examples
from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Needed, Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.shared_load import QUANTITIES, Settings
from moemui.experiments.shared_load.effects import EFFECTS, effects
from moemui.experiments.shared_load.measure import (
    Unweighted,
    matched_steps,
    measure,
    union_shared,
)
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.key_sets import KeySets
from moemui.models import synthetic, training
from moemui.models.recipe import Recipe

TASKS = {"sorting": 0, "boolean": 0}
QUICK = Settings(checking_samples=50)
# width in per cent → routed experts, shared ones, routed ones a token; 16 experts a layer and 6 a token each.
SIZES = {200: (12, 4, 2), 100: (14, 2, 4), 50: (15, 1, 5), 0: (16, 0, 6)}


def recipe(width, **knobs):
    experts, shared, top_k = SIZES[width]
    tiny = {"hidden": 16, "layers": 1, "heads": 2, "neurons_per_expert": 8, "batch": 8, "steps": 4, "warm_up": 2}
    sizes = {"experts": experts, "shared_experts": shared, "top_k": top_k, "balance": 0.04 / top_k}
    sizes["save_steps"] = (0, 4)
    return Recipe("deepseek_v2", **{**tiny, **sizes, **knobs})


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    cohorts = {}
    for width in (0, 100):
        folder, name = tmp_path_factory.mktemp("cohort"), f"shared_{width}"
        training.train(recipe(width), TASKS, folder)
        cohorts[name] = Cohort(name, folder, recipe(width), TASKS, {0: 0, 4: 1234})
    return Setup(cohorts, 0, 6, Reading(threshold=0.05))


@pytest.fixture(scope="module")
def measured(setup):
    return measure(setup, QUICK)


def made_up(widths=(200, 100, 50, 0)):
    """MUI rises untrained by 0.01 per 100 points and falls trained by 0.02, that of routed neurons by 0.03."""
    measured = Measured("shared_load", 0, QUANTITIES)
    for width in widths:
        arm, points = f"of_{width}", width / 100
        measured.add("shared_width", width, arm=arm)
        for step in (0, 10):
            values = {
                ("mui", ""): 0.1 - 0.02 * points if step else 0.1 + 0.01 * points,
                ("mui", "routed"): 0.2 - 0.03 * points,
                ("accuracy", ""): 0.9 + 0.05 * points if step else 0.0,
                ("nll", ""): 0.5 - 0.1 * points,
            }
            if width:
                values |= {
                    ("enrichment", ""): 5.0 - points * bool(step),
                    ("enrichment_unweighted", ""): 2.0 + 3 * bool(step),
                    ("enrichment_highest", ""): 6.0,
                    ("union_shared", ""): 0.8 - 0.3 * bool(step),
                }
            for (quantity, part), value in values.items():
                measured.add(quantity, value, arm=arm, step=step, part=part)
            measured.add("mui", 0.5, arm=arm, step=step, task="sorting")  # of a task: no effect speaks of it
        # At matched accuracy MUI falls by 0.04, that of routed neurons by 0.05, and 0.01 of accuracy is left on the
        # samples that matched it; of others it is 0.02, and no effect speaks of the former.
        at = 5 if width > 50 else 10
        measured.add("matched", 1, arm=arm, step=at)
        measured.add("accuracy_other_samples", 0.8 + 0.02 * points, arm=arm, step=at)
        measured.add("accuracy_other_samples", 0.1, arm=arm, step=at, task="sorting")
        if at == 5:
            for quantity, part, value in (
                ("mui", "", 0.1 - 0.04 * points),
                ("mui", "routed", 0.2 - 0.05 * points),
                ("accuracy", "", 0.9 + 0.01 * points),
            ):
                measured.add(quantity, value, arm=arm, step=at, part=part)
    return measured.frame()


def test_effects_by_hand():
    found = {name: value for name, (value, note) in effects(made_up(), Settings()).items() if not note}
    assert found == pytest.approx(
        {
            # widths 2, 1, 0.5, 0 (mean 0.875, squares about it 2.1875): the first two arms at step 5, the others at 10
            "mui_slope_matched": (1.125 * 0.02 + 0.125 * 0.06 - 0.375 * 0.09 - 0.875 * 0.1) / 2.1875,
            # widths 2, 1, 0.5 alone (mean 7/6, squares about it 7/6)
            "mui_slope_matched_shared": (5 / 6 * 0.02 - 1 / 6 * 0.06 - 4 / 6 * 0.09) / (7 / 6),
            "routed_mui_slope_matched": (1.125 * 0.1 + 0.125 * 0.15 - 0.375 * 0.185 - 0.875 * 0.2) / 2.1875,
            "accuracy_slope_matched": 0.02,
            "mui_slope": -0.02,
            "mui_slope_untrained": 0.01,
            "mui_slope_learned": -0.03,
            "routed_mui_slope": -0.03,
            "accuracy_slope": 0.05,
            "nll_slope": -0.1,
            "mui_200_less_50": -0.03,
            "mui_100_less_0": -0.02,
            "accuracy_200_less_50": 0.075,
            "accuracy_100_less_0": 0.05,
            "union_shared_change": -0.3,
            "enrichment_change": -(2 + 1 + 0.5) / 3,
            "enrichment_change_200": -2,
            "enrichment_change_100": -1,
            "enrichment_change_50": -0.5,
            "enrichment_change_unweighted": 3,
            "enrichment_room": 1,
            "enrichment_room_unweighted": 4,
        }
    )
    assert list(found) == list(EFFECTS)


def test_effects_of_arms_that_are_not_there_say_so():
    found = effects(made_up((100, 0)), Settings())
    assert np.isnan(found["mui_200_less_50"][0])
    assert "0 arms have a shared width of 200 %; exactly one is needed" in found["mui_200_less_50"][1]
    assert found["mui_slope"] == (pytest.approx(-0.02), "")
    assert found["mui_slope_matched_shared"][1] == (
        "a slope needs arms of two or more shared widths; there are arms of 1"
    )
    alone = effects(made_up((0,)), Settings())
    assert alone["mui_slope_matched_shared"][1].endswith("there are arms of 0")
    assert alone["enrichment_change"][1] == "no arm has shared experts"
    assert alone["mui_slope_learned"][1].endswith("there are arms of 1")


def test_steps_are_matched_at_the_highest_accuracy_that_all_reach():
    accuracy = {"a": {0: 0.0, 5: 0.7, 9: 0.95}, "b": {0: 0.1, 5: 0.8, 9: 0.75}, "c": {0: 0.0, 5: 0.85, 9: 0.85}}
    assert matched_steps(accuracy) == {"a": 5, "b": 5, "c": 9}  # the level is 0.8; of equal ones the latest


@pytest.mark.parametrize("name", ["reference_experts", "expert_threshold", "checking_samples"])
def test_settings_that_cannot_work_say_why(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it is"):
        Settings(**{name: 0})


def test_families_of_equal_capacity_pass_and_others_are_refused_by_name():
    check_families([recipe(width) for width in SIZES])
    with pytest.raises(ValueError, match="a layer has 128 neurons in one cohort and 120 in another"):
        check_families([recipe(0), recipe(0, experts=15)])
    with pytest.raises(ValueError, match="a token has 48 neurons in one cohort and 40 in another; choose top_k"):
        check_families([recipe(0), recipe(100, top_k=3)])
    with pytest.raises(ValueError, match="cohorts differ in learning_rate"):
        check_families([recipe(0), recipe(100, learning_rate=0.1)])


def test_families_are_pushed_alike_to_even_routing():
    rounded = {8: 0.0075, 7: 0.00857143, 6: 0.01, 4: 0.015}  # 0.06 / top_k, as a configuration writes it
    knobs = [{"experts": 24 + top_k, "shared_experts": 8 - top_k, "top_k": top_k} for top_k in rounded]
    check_families([recipe(0, **k, balance=rounded[k["top_k"]]) for k in knobs])
    with pytest.raises(ValueError, match=r"balance times top_k is 0.06 in one cohort and 0.04 in another; choose bal"):
        check_families([recipe(0, balance=0.01), recipe(100, balance=0.01)])


def test_other_examples_are_held_out_and_none_of_those_used():
    used = synthetic.held_out("boolean", 100, 0)
    found = other_examples("boolean", used, 400)
    prompts = {example.prompt for example in found}
    assert len(prompts) == len(found) >= 50
    assert not prompts & {example.prompt for example in used}
    assert all(synthetic.is_held_out(prompt) for prompt in prompts)
    # Together they are all that the task has.
    with pytest.raises(ValueError, match=f"only {len(found) + 100} different"):
        synthetic.held_out("boolean", 400, 0)
    assert other_examples("sorting", [], 60) == other_examples("sorting", [], 60)
    assert len(other_examples("sorting", [], 60)) == 60
    few = synthetic.held_out("boolean", len(found) + 51, 0)
    with pytest.raises(
        ValueError, match=r"has 49 held-out examples besides the \d+ that choose the models; at least 50"
    ):
        other_examples("boolean", few, 400)


def test_everything_is_measured_and_what_lacks_a_number_says_why(measured):
    assert set(measured["quantity"]) == set(QUANTITIES)
    matched = measured[measured["quantity"] == "matched"].set_index("arm")["step"].to_dict()
    accuracy = {arm: series(measured, "accuracy", ("step",), arm=arm, task="").to_dict() for arm in matched}
    assert matched == matched_steps(accuracy)
    assert set(series(measured, "accuracy_other_samples", ("arm", "step"), task="").index) == set(matched.items())
    missing = measured[measured["value"].isna()]
    assert set(missing["note"]) == {"no shared experts"}
    assert set(missing["arm"]) == {"shared_0"}
    assert measured.loc[measured["step"] == 4, "tokens"].eq(1234).all()
    assert {name for name, (_, note) in effects(measured, Settings()).items() if note} == {
        "mui_slope_matched_shared", "mui_200_less_50", "accuracy_200_less_50",
        "enrichment_change_200", "enrichment_change_50",
    }  # fmt: skip


def test_utilization_is_that_of_its_parts(measured):
    """112 of 128 neurons are routed; without shared experts all are."""
    for task in TASKS:
        where = {"task": task, "step": 4}
        whole, routed, shared = (
            series(measured, "mui", ("arm",), part=part, **where) for part in ("", "routed", "shared")
        )
        assert whole["shared_0"] == routed["shared_0"] > 0
        keys = 112 * routed["shared_100"] + 16 * shared["shared_100"]
        assert 128 * whole["shared_100"] == pytest.approx(keys)
        share = series(measured, "union_shared", ("arm",), **where)["shared_100"]
        assert share == pytest.approx(16 * shared["shared_100"] / keys)


def test_the_union_counts_a_neuron_once():
    """Neurons 0 to 3 are of routed experts, 4 and 5 shared; two samples need {0, 4} and {1, 4}."""
    sets = KeySets(np.array([0, 2, 4]), np.array([0, 4, 1, 4]))
    assert union_shared(Needed(sets, np.zeros((2, 3)), Geometry((Layer(0, 2, 1, 2, 2, 1),)))) == pytest.approx(1 / 3)
    alone = Geometry((Layer(0, 3, 0, 2, 0, 1),))
    assert np.isnan(union_shared(Needed(sets, np.zeros((2, 3)), alone)))


def test_key_experts_and_enrichment_follow_from_the_key_sets(setup, measured):
    cohort = setup.cohorts["shared_100"]
    probe = cohort.probe(4, setup.reading)
    key = np.ones(16, dtype=bool)
    for task in TASKS:
        needed = probe.needed(cohort.held_out(task, 6))
        often = [
            sum(any(n // 8 == expert for n in needed.sets.neurons[needed.sets.sample_of == s]) for s in range(6))
            for expert in range(16)
        ]
        of_task = np.array(often) / 6 >= 0.6
        where = {"arm": "shared_100", "step": 4, "task": task}
        assert series(measured, "key_experts", ("part",), **where).to_dict() == {
            "routed": of_task[:14].mean(), "shared": of_task[14:].mean(),
        }  # fmt: skip
        key &= of_task
    s, r = key[14:].sum(), key[:14].sum()
    odds = (s + 0.5) * (14 - r + 0.5) / ((2 - s + 0.5) * (r + 0.5))
    found = series(measured, "enrichment", ("arm",), step=4)["shared_100"]
    assert found == pytest.approx(np.log(odds))
    highest = series(measured, "enrichment_highest", ("arm",), step=4)["shared_100"]
    assert highest == pytest.approx(np.log(2.5 * 14.5 / 0.25))


def test_an_unweighted_reading_differs_in_the_weights_alone():
    reading = Reading(formulation="glu", threshold=0.02)
    plain, unweighted = reading.options.to_dict(), Unweighted.of(reading).options.to_dict()
    assert {name for name in plain if plain[name] != unweighted[name]} == {"gate_weighting"}
    assert not unweighted["gate_weighting"]


def test_an_untrained_model_is_needed(setup):
    cohort = setup.cohorts["shared_100"]
    later = Cohort("later", cohort.folder, recipe(100, save_steps=(4,)), TASKS, {4: 1})
    with pytest.raises(ValueError, match=r"cohort later kept steps \[4\]; put 0, the untrained model, and a later one"):
        measure(Setup({"later": later}, 0, 6, Reading()), shared_load.Settings())
