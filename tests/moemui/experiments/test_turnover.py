"""Turnover: sets and their overlaps by hand, chance against drawing, and courses whose turnover is known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from moemui.experiments.courses import Point
from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Answers, Needed, Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.turnover import QUANTITIES, Settings
from moemui.experiments.turnover import measure as measuring
from moemui.experiments.turnover.effects import EFFECTS, effects
from moemui.experiments.turnover.measure import common, expected_common, similarity
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.key_sets import KeySets
from moemui.models.recipe import Recipe

LAYER = {"routed": 4, "shared": 0, "width": 25, "shared_width": 0, "top_k": 2}
GEOMETRY = Geometry((Layer(index=1, **LAYER), Layer(index=2, **LAYER)))  # neurons 0–99 and 100–199
ONE_LAYER = Geometry((Layer(index=1, **{**LAYER, "routed": 8}),))
N = 20


def mask(*neurons, of=8):
    found = np.zeros(of, dtype=bool)
    found[list(neurons)] = True
    return found


def test_overlap_by_hand():
    one, other = mask(0, 1, 2, 3), mask(2, 3, 4, 5, 6, 7, 0, 1, of=9)[:8]
    assert common(one, other) == 4
    assert similarity(common(one, other), one, other) == pytest.approx(4 / math.sqrt(4 * 8))
    # experts of 3 and 5 neurons: 2 of 3 with 1 of 3, and 1 of 5 with 4 of 5
    assert expected_common(mask(0, 1, 3), mask(2, 4, 5, 6, 7), np.array([3, 5])) == pytest.approx(2 / 3 + 4 / 5)


def test_chance_is_the_hypergeometric_mean_and_that_of_drawn_sets():
    random, widths = np.random.default_rng(1), np.array([4, 6, 10])
    bounds = np.concatenate([[0], np.cumsum(widths)])
    one, other = random.random(20) < 0.4, random.random(20) < 0.6
    sizes = [(int(one[a:b].sum()), int(other[a:b].sum())) for a, b in itertools.pairwise(bounds)]
    exact = sum(stats.hypergeom(w, a, b).mean() for w, (a, b) in zip(widths, sizes, strict=True))
    assert expected_common(one, other, widths) == pytest.approx(exact)
    drawn = []
    for _ in range(4000):
        order = np.concatenate([random.permutation(np.arange(a, b)) for a, b in itertools.pairwise(bounds)])
        drawn.append(common(one[order], other))
    assert np.mean(drawn) == pytest.approx(exact, abs=5 * np.std(drawn) / math.sqrt(4000))


def test_an_empty_set_has_no_similarity():
    with pytest.raises(ValueError, match="is empty, so its similarity is not defined"):
        similarity(0.0, mask(), mask(1))


def point(sets, geometry):
    """A task whose samples have these key sets."""
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in sets])]).astype(np.int64)
    neurons = np.concatenate([np.sort(np.asarray(own, dtype=np.int32)) for own in sets])
    exact = np.ones(len(sets), dtype=bool)
    return Point(Answers(exact, exact.astype(float), np.zeros(len(sets))), Needed(
        KeySets(indptr, neurons), np.ones((len(sets), geometry.experts)), geometry
    ))  # fmt: skip


def measured_of(courses, steps, geometry=GEOMETRY, splits=4, starts=()):
    """`measure` on courses that are given: task → the key sets of its samples at each step."""
    given = {
        task: {step: point(sets, geometry) for step, sets in zip(steps, course, strict=True)}
        for task, course in courses.items()
    }
    recipe = Recipe("olmoe", steps=steps[-1], save_steps=steps)
    tasks = {**dict.fromkeys(courses, 0), **dict(starts)}
    cohort = Cohort("staggered", None, recipe, tasks, {step: 10 * step for step in steps})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "course", lambda setup, cohort, n: given)
        return measuring.measure(Setup({"staggered": cohort}, 0, N, Reading()), Settings(splits=splits))


def same(*neurons):
    """Every sample has the same key set."""
    return [neurons] * N


def test_sets_that_stay_halve_or_leave():
    steps = (0, 50, 100, 150)
    found = measured_of(
        {
            "stays": [same(0, 1, 100, 101)] * 4,
            "moves": [same(10, 11, 110, 111), same(10, 11, 110, 111), same(11, 12, 110, 111), same(11, 12, 112, 113)],
        },
        steps,
    )
    turnover = series(found, "turnover", ["task", "part", "step"])
    assert turnover["stays", ""].tolist() == pytest.approx([0, 0, 0])
    assert turnover["stays", "L2"].tolist() == pytest.approx([0, 0, 0])
    # 3 of 4 stay from 50 to 100, so 0.75² in 100 steps; from 100 to 150 half of them
    assert turnover["moves", ""].tolist() == pytest.approx([0, 1 - 0.75**2, 1 - 0.5**2])
    assert turnover["moves", "L1"].tolist() == pytest.approx([0, 1 - 0.5**2, 0])
    assert turnover["moves", "L2"].tolist() == pytest.approx([0, 0, 1])
    assert series(found, "survival", ["step"], task="moves", part="").tolist() == pytest.approx([1, 0.75, 0.5])
    assert series(found, "jaccard", ["step"], task="moves", part="").tolist() == pytest.approx([1, 3 / 5, 2 / 6])
    assert series(found, "union", ["step"], task="moves", part="L1").tolist() == [2] * 4
    # neurons of expert 0 of each layer, 2 of 25 there
    chance = series(found, "similar_next_chance", ["step"], task="stays", part="")
    assert chance.tolist() == pytest.approx([2 * 2 * 2 / 25 / 4] * 3)
    values = {name: value for name, (value, _) in effects(found, Settings(splits=4)).items()}
    # steps 50 → 100 and 100 → 150: the first leaves the untrained model
    within = np.mean([(1 + 0.75) / 2, (1 + 0.5) / 2])
    assert values["within_minus_between"] == pytest.approx(within)
    assert values["within_minus_between_next"] == pytest.approx(within)
    # untrained, a task is wholly like itself and not at all like the other
    assert values["within_minus_between_learned"] == pytest.approx(within - 1)
    assert values["survival_minus_shared"] == pytest.approx(within)
    assert values["turnover"] == pytest.approx((0 + 0 + 1 - 0.75**2 + 0.75) / 4)
    assert values["turnover_late_minus_early"] == pytest.approx((0 + 0.75 - (1 - 0.75**2)) / 2)
    assert values["turnover_last_minus_first_layer"] == pytest.approx((0 + 0 - 0.75 + 1) / 4)
    assert set(values) == set(EFFECTS)


def test_what_two_tasks_share_is_between_them():
    found = measured_of({"a": [same(0, 1, 2, 3)] * 3, "b": [same(2, 3)] * 2 + [same(3, 4)]}, (0, 10, 20), ONE_LAYER)
    assert series(found, "shared", ["step"], task="a|b", part="").tolist() == pytest.approx(
        [(2 / 4 + 2 / 2) / 2] * 2 + [(1 / 4 + 1 / 2) / 2]
    )
    assert series(found, "shared_jaccard", ["step"], task="a|b", part="").tolist() == pytest.approx(
        [1 / 2] * 2 + [1 / 5]
    )
    assert series(found, "similar_other", ["step"], task="a|b", part="").tolist() == pytest.approx(
        [2 / math.sqrt(8)] * 2 + [1 / math.sqrt(8)]
    )
    # a at 10 with b at 20 has 1 in common, b at 10 with a at 20 has 2
    later = series(found, "similar_other_next", ["step"], task="a|b", part="")
    assert later[20] == pytest.approx((1 + 2) / 2 / math.sqrt(8))
    assert ("a|b", "L1") not in series(found, "similar_other", ["task", "part", "step"]).index.droplevel("step")
    assert series(found, "similar_other", ["step"], task="", part="L1")[20] == pytest.approx(1 / math.sqrt(8))


def test_halves_without_a_common_neuron_have_no_turnover():
    apart = [(sample, 100 + sample) for sample in range(N)]
    found = measured_of({"a": [apart] * 3, "b": [same(50, 150)] * 3}, (0, 10, 20))
    gaps = found[(found["task"] == "a") & found["quantity"].isin(["retained", "turnover"])]
    assert len(gaps) == 2 * 2 * 3
    assert gaps["value"].isna().all()
    assert set(gaps["note"]) == {"halves of the samples have no neuron in common"}
    assert series(found, "turnover", ["step"], task="", part="").tolist() == [0, 0], "b alone"
    nowhere = measured_of({"a": [apart] * 3, "b": [apart] * 3}, (0, 10, 20))
    assert series(nowhere, "turnover", ["step"], task="", part="").isna().all()
    assert math.isnan(effects(nowhere, Settings(splits=4))["turnover"][0])


def test_a_layer_without_key_neurons_is_refused_by_name():
    with pytest.raises(ValueError, match="task b has no key neuron in L2 at step 10, so no overlap is defined"):
        measured_of({"a": [same(0, 100)] * 3, "b": [same(0, 100), same(0), same(0)]}, (0, 10, 20))


def noisy(pool, seed):
    """Samples with 6 of the pool's neurons each, the same ones never twice."""
    random = np.random.default_rng(seed)
    return [random.choice(pool, 6, replace=False) for _ in range(N)]


def test_what_other_samples_change_is_not_turnover():
    pool = {"a": np.arange(60), "b": np.arange(120, 180)}
    steps = (0, 100, 200, 300, 400)
    found = measured_of(
        {task: [noisy(own, [step, int(own[0])]) for step in steps] for task, own in pool.items()},
        steps,
        ONE_LAYER,
        splits=20,
    )
    values = {name: value for name, (value, _) in effects(found, Settings(splits=20)).items()}
    assert series(found, "similar_next", ["step"], task="", part="").max() < 0.8, "the sets do differ"
    assert values["turnover"] == pytest.approx(0, abs=0.03)
    assert values["within_minus_between"] > 0.5


def test_random_sets_in_the_same_experts_are_not_alike_beyond_chance():
    steps = (0, 100, 200, 300, 400)
    found = measured_of(
        {
            task: [noisy(np.arange(first, first + 50), [step, first]) for step in steps]
            for task, first in (("a", 0), ("b", 100))
        },
        steps,
        ONE_LAYER,
        splits=20,
    )
    values = {name: value for name, (value, _) in effects(found, Settings(splits=20)).items()}
    assert values["within_minus_between"] > 0.6
    assert values["beyond_experts"] == pytest.approx(0, abs=0.05)


def made_up(turnover, starts, untrained=True):
    """Measurements with only what the effects on turnover read: task → its values at the steps 10, 20, 30, …"""
    measured = Measured("turnover", 0, QUANTITIES)
    pair = "|".join(turnover)
    for task, values in turnover.items():
        measured.add("start", starts[task], task=task)
        measured.add("accuracy", 0.5, task=task, step=0)
        if untrained:
            measured.add("similar_same", 0.3, task=task, step=0)
        for number, value in enumerate(values):
            step = 10 * (number + 1)
            measured.add("accuracy", 0.5, task=task, step=step)
            for part, changed in (("", value), ("L1", value), ("L10", value + 0.1), ("L2", 9.0)):
                measured.add("turnover", changed, task=task, step=step, part=part)
            for quantity in ("similar_next", "similar_next_chance", "survival"):
                measured.add(quantity, 0.5, task=task, step=step)
    if untrained:
        measured.add("similar_same", 0.3, step=0)
        for task in (pair, ""):
            measured.add("similar_other", 0.05, task=task, step=0)
    for step in range(10, 10 * len(values) + 10, 10):
        for quantity in ("turnover", "similar_next", "similar_next_chance", "survival"):
            measured.add(quantity, 0.5, step=step)
        for part in ("L1", "L10", "L2"):
            measured.add("turnover", 0.5, step=step, part=part)
        for quantity in ("similar_other", "similar_other_chance", "similar_other_next", "shared"):
            for task in (pair, ""):
                measured.add(quantity, 0.1, task=task, step=step)
    return measured.frame()


def test_young_and_old_are_compared_on_the_same_step_and_only_after_the_start():
    # steps end at 10 … 80; old counts from 20 (10 → 20), new, which begins at 30, from 50 (40 → 50)
    courses = {"old": [9, 0.6, 0.6, 0.5, 0.4, 0.1, 0.1, 0.1], "new": [9, 9, 9, 9, 0.8, 0.7, 0.3, 0.2]}
    found = effects(made_up(courses, {"old": 0, "new": 30}), Settings())
    # old: 20 to 40 first half, 50 in neither, 60 to 80 second; new: 50, 60 and 70, 80. Both kinds: step 60 alone
    assert found["turnover_young_minus_old"][0] == pytest.approx(0.7 - 0.1)
    old, new = 0.1 - (0.6 + 0.6 + 0.5) / 3, (0.3 + 0.2) / 2 - (0.8 + 0.7) / 2
    assert found["turnover_late_minus_early"][0] == pytest.approx((old + new) / 2)
    assert found["turnover"][0] == pytest.approx((0.6 + 0.6 + 0.5 + 0.4 + 0.3 + 0.8 + 0.7 + 0.3 + 0.2) / 11)
    assert found["turnover_last_minus_first_layer"][0] == pytest.approx(0.1), "layer 10 comes after layer 2"
    assert found["within_minus_between"][0] == pytest.approx(0.4)
    assert found["within_minus_between_learned"][0] == pytest.approx((0.5 - 0.1) - (0.3 - 0.05))


def test_without_the_untrained_model_nothing_is_said_of_what_was_learned():
    found = effects(made_up({"a": [0.5] * 4, "b": [0.5] * 4}, {"a": 0, "b": 0}, untrained=False), Settings())
    assert math.isnan(found["within_minus_between_learned"][0])
    assert found["within_minus_between_learned"][1] == "step 0 was not saved"
    assert found["within_minus_between"][0] == pytest.approx(0.4)


def test_what_was_learned_is_beyond_the_same_tasks_inputs():
    """Task c never counts, for no step leaves a checkpoint trained on it, nor may it count in the untrained model."""
    a, b, c = same(0, 1, 2, 3), same(2, 3, 4, 5), same(50, 51)
    steps = (0, 10, 20)
    courses = {"a": [a, a, a], "b": [b, same(10, 11, 12, 13), same(10, 11, 12, 13)], "c": [c, c, c]}
    learned = effects(measured_of(courses, steps, ONE_LAYER, starts={"c": 20}), Settings(splits=4))
    assert learned["within_minus_between"][0] == pytest.approx(1)
    assert learned["within_minus_between_learned"][0] == pytest.approx(1 - (1 - 2 / 4))
    nothing = effects(measured_of({"a": [a] * 3, "b": [b] * 3}, steps, ONE_LAYER), Settings(splits=4))
    assert nothing["within_minus_between"][0] == pytest.approx(1 - 2 / 4)
    assert nothing["within_minus_between_learned"][0] == pytest.approx(0)


def test_tasks_that_never_begin_before_a_step_leave_gaps_that_say_why():
    found = effects(made_up({"a": [0.5, 0.5], "b": [0.5, 0.5]}, {"a": 20, "b": 20}), Settings())
    assert all(math.isnan(value) and note == "no step has what is compared" for value, note in found.values())


def test_faults():
    with pytest.raises(ValueError, match="splits is 0; it is at least 1"):
        Settings(splits=0)
    recipe = Recipe("olmoe", steps=10, save_steps=(0, 10))
    cohort = Cohort("staggered", None, recipe, {"sorting": 0}, {0: 0, 10: 100})
    with pytest.raises(ValueError, match=r"has the tasks sorting and keeps the steps .*; turnover takes two of each"):
        measuring.measure(Setup({"staggered": cohort}, 0, N, Reading()), Settings())


def test_survival_is_a_share_of_the_earlier_set():
    found = measured_of(
        {"a": [same(0, 1, 2, 3), same(2, 3), same(2, 3, 4)], "b": [same(9)] * 3}, (0, 10, 20), ONE_LAYER
    )
    assert series(found, "survival", ["step"], task="a", part="").tolist() == pytest.approx([0.5, 1.0])
    # 2 of the 4 and 2 are in the same expert of 25
    assert series(found, "survival_chance", ["step"], task="a", part="")[10] == pytest.approx(4 * 2 / 25 / 4)
