"""Task-specific phases: effects worked by hand, and courses whose phases and change points are known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from moemui.experiments.courses import Point
from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Answers, Needed, Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.task_phases import PHASES, QUANTITIES, Settings, half_arm
from moemui.experiments.task_phases import measure as measuring
from moemui.experiments.task_phases.effects import EFFECTS, effects
from moemui.geometry import Geometry, Layer
from moemui.key_neurons.key_sets import KeySets
from moemui.models.recipe import Recipe

GEOMETRY = Geometry((Layer(index=0, routed=4, shared=0, width=100, shared_width=0, top_k=2),))
N = 40
ACC, EVO, FLAT = "Accumulating", "Evolving", "Flat"
TOLD = {  # at the steps 20, 30, 40, 50
    "a": (ACC, ACC, EVO, FLAT),
    "b": (FLAT, EVO, ACC, FLAT),
    "": (FLAT, ACC, FLAT, FLAT),
}
# change points on half 0 and half 1 of split 0, then of split 1
HALVES = {"mui": {"a": ((2, 3), (2, 2)), "b": ((6, 6), (8, 5)), "c": ((1, 9), (9, 1))},
          "accuracy": {"a": ((2, 2), (2, 2)), "b": ((3, 3), (3, 3)), "c": ((7, 7), (7, 7))}}  # fmt: skip


BETWEEN = (0.5, 1.0, 0.5, 0.0)


def measurements(
    told=TOLD, tokens=(FLAT,) * 4, between=BETWEEN, noise=(0.0, 0.2, 0.2, 0.0), straight=(0.01, 0.05, 0.4)
):
    measured = Measured("task_phases", 0, QUANTITIES)
    for arm, table in (("", told), ("tokens", dict.fromkeys(told, tokens))):
        for task, phases in table.items():
            for step, own in zip((20, 30, 40, 50), phases, strict=True):
                for name in PHASES:
                    measured.add("in_phase", float(own == name), arm=arm, task=task, step=step, part=name)
        for quantity, shares in (("halves_differ", noise), ("tasks_differ", (0.0,) * 4 if arm else between)):
            for step, share in zip((20, 30, 40, 50), shares, strict=True):
                note = "" if math.isfinite(share) else "too few"
                measured.add(quantity, share, arm=arm, step=step, note=note)
    for number, (task, start) in enumerate({"a": 0, "b": 15, "c": 20}.items()):
        measured.add("start", start, task=task)
        for name, p in (("mui", straight[number]), ("accuracy", 0.001)):
            measured.add(f"{name}_straight", p, task=task, step=100)
        measured.add("mui_change_point", (2, 6, 5)[number], task=task, step=100)
        measured.add("mui_change_step", (30, 70, 60)[number], task=task, step=100)
        measured.add("accuracy_change_point", (2, 3, 7)[number], task=task, step=100)
        measured.add("mui_slope_before", (0.1, 0.2, 0.3)[number], task=task, step=100)
        measured.add("mui_slope_after", (-0.1, 0.1, -0.1)[number], task=task, step=100)
        for name, points in HALVES.items():
            for split, halves in enumerate(points[task]):
                for half, point in enumerate(halves):
                    measured.add(f"{name}_change_point", point, arm=half_arm(split, half), task=task, step=100)
    return measured.frame()


def test_effects_by_hand():
    found = effects(measurements(), Settings(splits=2))
    assert set(found) == set(EFFECTS)
    values = {name: value for name, (value, _) in found.items()}
    assert values["hidden_share"] == pytest.approx((0.5 + 0.8 + 0.3 + 0) / 4)
    assert values["differ_share"] == pytest.approx(2 / 4)  # steps 30 and 40; a is Accumulating, b Flat at 20
    assert values["opposed_share"] == pytest.approx(2 / 4)
    assert values["unlike_mean"] == pytest.approx(4 / 5)  # only a at step 30 is as the mean
    assert values["named_share"] == pytest.approx(5 / 8)
    assert values["paper_order"] == values["reverse_order"] == pytest.approx(1 / 2)
    assert values["paper_order_balance"] == 0
    assert values["hidden_share_tokens"] == pytest.approx(-0.1)
    for name in ("paper_order_tokens", "paper_order_balance_tokens"):
        assert found[name][1] == "no task is in a named phase"
        assert math.isnan(values[name])
    # c follows a straight line, so a and b count: ranges 4, 3 and 6, 3; of the differences −1, 0 and 0, 3
    assert values["mui_spread"] == pytest.approx((4 + 3 + 6 + 3) / 4 - (1 + 3) / 2)
    assert values["mui_distance"] == pytest.approx((4 + 3 + 3 + 6) / 4 - (1 + 0 + 0 + 3) / 4)
    assert values["accuracy_spread"] == pytest.approx(5)  # halves agree
    assert values["accuracy_distance"] == pytest.approx((1 + 5 + 4) / 3)
    assert values["rise_then_fall"] == pytest.approx(1 / 2)
    assert values["lag"] == pytest.approx((30 + 55) / 2)
    assert values["lag_to_accuracy"] == pytest.approx((0 + 3) / 2)


def test_phases_that_differ_as_halves_do_hide_nothing():
    found = effects(measurements(noise=BETWEEN), Settings(splits=2))
    assert found["hidden_share"][0] == pytest.approx(0)
    assert found["differ_share"][0] == pytest.approx(1 / 2)


def test_more_tasks_in_the_order_of_the_paper_than_the_other_way_round():
    told = {"a": (ACC, EVO, FLAT, FLAT), "b": (FLAT, ACC, ACC, EVO), "c": (EVO, FLAT, FLAT, ACC), "d": (ACC, FLAT) * 2}
    assert effects(measurements(told), Settings(splits=2))["paper_order_balance"][0] == pytest.approx((2 - 1) / 4)
    mirrored = {task: tuple({ACC: EVO, EVO: ACC}.get(name, name) for name in own) for task, own in told.items()}
    assert effects(measurements(mirrored), Settings(splits=2))["paper_order_balance"][0] == pytest.approx(-1 / 4)
    by_tokens = effects(measurements({**told, "": TOLD[""]}, tokens=(ACC, EVO, FLAT, FLAT)), Settings(splits=2))
    assert by_tokens["paper_order_balance_tokens"][0] == 1


def test_two_tasks_halves_are_compared_in_as_many_pairs_as_one_tasks():
    first = pd.Series({"a": ACC, "b": EVO, "c": FLAT, "on one half": ACC})
    second = pd.Series({"c": EVO, "b": ACC, "a": ACC})
    # with themselves b differs; one place on a–b, b–c and c–a are equal or Flat; two places on a–c differs
    assert measuring._differ(first, second) == (1, 1 / 2)
    assert measuring._differ(second, first) == (
        1,
        1 / 2,
    )  # one place on a–b differs, two places on none
    assert measuring._differ(first[["a"]], second[["a"]]) == (0, 0), "no other task to differ from"
    assert measuring._differ(first[["a"]], second[["b"]]) is None


def test_what_is_not_defined_says_why():
    nan = float("nan")
    found = effects(measurements(noise=(nan,) * 4, straight=(0.01, 0.2, 0.4)), Settings(splits=2))
    for name, reason in {
        "hidden_share": "no step has a phase on halves of the samples",
        "mui_spread": "a straight line is rejected for 1 tasks, and a comparison takes 2",
        "mui_distance": "a straight line is rejected for 1 tasks, and a comparison takes 2",
    }.items():
        assert math.isnan(found[name][0])
        assert found[name][1] == reason
    assert found["accuracy_spread"][0] == pytest.approx(5)


def test_later_phases_do_not_count_as_first_ones():
    told = {**TOLD, "a": ("Collapsing", ACC, EVO, FLAT), "b": (EVO, EVO, FLAT, FLAT)}
    found = effects(measurements(told), Settings(splits=2))
    assert found["paper_order"][0] == found["reverse_order"][0] == 0


def point(right, sizes):
    """A task whose first `right` samples are answered, and whose sample s has sizes[s] key neurons of its own."""
    exact = np.arange(N) < right
    first = np.arange(N) * 10
    neurons = np.concatenate([first[s] + np.arange(sizes[s]) for s in range(N)])
    sets = KeySets(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), neurons.astype(np.int32))
    return Point(Answers(exact, exact.astype(float), np.ones(N)), Needed(sets, np.ones((N, 4)), GEOMETRY))


def measured_of(courses, steps, settings, starts=()):
    """`measure` on courses that are given: task → (right answers, key neurons a sample) at each step.

    starts: the first step that may hold a task, where it is not 0.
    """
    wobble = np.arange(N) % 3  # samples differ, so that the jackknife has a variance
    given = {
        task: {
            step: point(right, size + wobble[(np.arange(N) + number) % N])
            for number, (step, (right, size)) in enumerate(zip(steps, course, strict=True))
        }
        for task, course in courses.items()
    }
    recipe = Recipe("olmoe", steps=steps[-1], save_steps=steps)
    tasks = {**dict.fromkeys(courses, 0), **dict(starts)}
    cohort = Cohort("staggered", None, recipe, tasks, {step: 10 * step for step in steps})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "course", lambda setup, cohort, n: given)
        return measuring.measure(Setup({"staggered": cohort}, 0, N, Reading()), settings)


def phases(measurements, arm=""):
    rows = measurements[(measurements["quantity"] == "in_phase") & (measurements["arm"] == arm)]
    assert (rows.groupby(["step", "task"])["value"].sum() == 1).all()
    told = rows[rows["value"] == 1]
    return {(task, step): part for task, step, part in zip(told["task"], told["step"], told["part"], strict=True)}


STEPS = (0, 10, 20, 30, 40, 50)


@pytest.fixture(scope="module")
def opposed():
    """Task a recruits and then compresses, b the other way round; c learns with the same neurons."""
    courses = {
        "a": [(0, 8), (0, 2), (15, 4), (30, 6), (35, 4), (40, 2)],
        "b": [(0, 1), (0, 6), (15, 4), (30, 2), (35, 4), (40, 6)],
        "c": [(0, 5), (0, 5), (15, 5), (30, 5), (35, 5), (40, 5)],
    }
    return measured_of(courses, STEPS, Settings(samples=N, splits=4, resamples=100))


def test_phases_are_those_that_the_courses_were_made_with(opposed):
    for arm in ("", "tokens"):
        told = phases(opposed, arm)
        assert [told["a", step] for step in (20, 30)] == [ACC, ACC]
        assert [told["a", step] for step in (40, 50)] == [EVO, EVO]
        assert [told["b", step] for step in (20, 30)] == [EVO, EVO]
        assert [told["b", step] for step in (40, 50)] == [ACC, ACC]
        assert {told["c", step] for step in (20, 30, 40, 50)} == {FLAT}
        assert {told["", step] for step in (20, 30, 40, 50)} == {FLAT}, "what a and b do cancels"
    assert 10 not in opposed.loc[opposed["quantity"] == "in_phase", "step"].tolist(), "it leaves the untrained model"
    share = series(opposed, "tasks_in_phase", ["step"], arm="", part=EVO)
    assert share.tolist() == pytest.approx([1 / 3] * 4)


def test_a_task_is_in_no_phase_before_the_model_was_trained_on_it():
    courses = {
        "late": [(0, 8), (0, 8), (15, 2), (30, 2), (15, 6), (30, 8)],  # it would be Evolving at 20
        "on time": [(0, 1), (0, 1), (15, 4), (30, 6), (35, 8), (40, 9)],
    }
    measured = measured_of(courses, STEPS, Settings(samples=N, splits=2, resamples=50), starts={"late": 20})
    for arm in ("", "tokens"):
        told = phases(measured, arm)
        assert [step for task, step in told if task == "late"] == [40, 50], "at 20 the model has not seen the task"
        assert [step for task, step in told if task == "on time"] == [20, 30, 40, 50]
    share = series(measured, "tasks_in_phase", ["step"], arm="", part=ACC)
    assert share[20] == 1, "of the only task that the checkpoint before was trained on"
    found = effects(measured, Settings(samples=N, splits=2, resamples=50))
    assert found["reverse_order"][0] == 0


def test_effects_of_the_made_courses(opposed):
    found = {name: value for name, (value, _) in effects(opposed, Settings(samples=N, splits=4)).items()}
    assert found["differ_share"] == found["opposed_share"] == 1
    differ = series(opposed, "tasks_differ", ["step"], arm="")
    assert differ[[20, 30]].tolist() == [1, 1]
    assert found["hidden_share"] == pytest.approx(differ.mean())
    assert found["paper_order_balance"] == 0
    assert found["unlike_mean"] == 1
    assert found["paper_order"] == found["reverse_order"] == 1 / 2
    assert series(opposed, "halves_differ", ["step"], arm="").tolist() == [0, 0, 0, 0]


def test_mui_is_the_mean_over_all_choices_of_half_the_samples(opposed):
    # neurons are of one sample each, so half of the samples have half of them on average
    total = 40 * 4 + 13 * (0 + 1 + 2)
    found = series(opposed, "mui", ["task", "step"])
    assert found["a", 20] == pytest.approx(total / 2 / 400)
    assert series(opposed, "accuracy", ["task", "step"])["", 20] == pytest.approx(15 / 40)


def test_change_points_are_where_the_courses_turn(opposed):
    where = series(opposed, "mui_change_step", ["task"])
    assert where["a"] == where["b"] == 30
    assert series(opposed, "mui_change_point", ["task"], arm="")["a"] == 2  # of 10, 20, 30, 40, 50
    straight = series(opposed, "mui_straight", ["task"])
    assert straight["a"] <= 0.05 < straight["c"]
    halves = series(opposed, "mui_change_point", ["arm"], task="a").drop("")
    assert halves.to_dict() == {half_arm(split, half): 2 for split in range(4) for half in (0, 1)}


def test_change_points_are_sought_where_the_model_was_trained_on_the_task():
    sizes = {  # `late` would turn at 20, where its MUI falls most, and so would its halves
        "late": (9, 9, 1, 1, 3, 5, 7, 4, 1),
        "soon": (8, 1, 2, 3, 4, 3, 2, 1, 0),
        "last": (8, 1, 2, 3, 4, 3, 2, 1, 0),
        "never": (8, 1, 2, 3, 4, 3, 2, 1, 0),
    }
    courses = {task: [(20 if step else 0, size) for step, size in enumerate(own)] for task, own in sizes.items()}
    steps, starts = tuple(range(0, 90, 10)), {"late": 20, "last": 50, "never": 80}
    found = measured_of(courses, steps, Settings(samples=N, splits=2, resamples=100), starts=starts)
    position = series(found, "mui_change_point", ["task"], arm="")
    assert (position["late"], position["soon"]) == (5, 3), "of the run's trained checkpoints 10, 20, …"
    assert series(found, "mui_change_step", ["task"])[["late", "soon"]].tolist() == [60, 40]
    assert series(found, "mui_slope_before", ["task"])["late"] > 0 > series(found, "mui_slope_after", ["task"])["late"]
    assert "" not in position, "the mean has none"
    assert position[["last", "never"]].isna().all()
    gaps = found[found["quantity"] == "mui_change_point"].set_index(["arm", "task"])["note"]
    assert gaps["", "last"] == "fewer than 4 trained checkpoints, so no change point is sought"
    assert gaps["", "never"] == "no checkpoint was trained on the task"
    halves = series(found, "mui_change_point", ["arm", "task"]).drop("")
    assert halves.unstack("task").agg(["min", "max"]).to_dict("list") == {"late": [5, 5], "soon": [3, 3]}
    assert effects(found, Settings(samples=N, splits=2))["mui_distance"][0] == pytest.approx(2)


def test_each_half_turns_where_its_own_samples_do(monkeypatch):
    early = np.arange(N) < N // 2
    monkeypatch.setattr(measuring, "disjoint_halves", lambda n, splits, seed: [(early, ~early)])
    sizes = [np.where(early, *pair) for pair in ((1, 1), (1, 1), (6, 2), (5, 3), (4, 4), (3, 5), (2, 0))]
    right = (0, 0, 20, 20, 20, 20, 20)  # the first samples, which are those of the early half
    course = list(zip(right, sizes, strict=True))
    found = measured_of({"a": course}, (0, 10, 20, 30, 40, 50, 60), Settings(samples=N, splits=1, resamples=50))
    points = series(found, "mui_change_point", ["arm"], task="a")
    assert points[half_arm(0, 0)] == 1
    assert points[half_arm(0, 1)] == 4
    accuracy = series(found, "accuracy_change_point", ["arm"], task="a")
    assert accuracy[half_arm(0, 0)] == 1


def test_few_checkpoints_leave_gaps_that_say_why():
    courses = {"a": [(0, 8), (0, 2), (20, 6)], "b": [(0, 1), (0, 6), (20, 2)]}
    few = measured_of(courses, (0, 10, 20), Settings(samples=N, splits=2, resamples=50))
    gaps = few[few["quantity"] == "mui_change_point"]
    assert gaps["value"].isna().all()
    assert set(gaps["note"]) == {"fewer than 4 trained checkpoints, so no change point is sought"}
    found = effects(few, Settings(samples=N, splits=2))
    assert found["differ_share"][0] == 1
    assert math.isnan(found["mui_spread"][0])
    assert found["mui_spread"][1]


def test_faults():
    with pytest.raises(ValueError, match="splits is 0; it is at least 1"):
        Settings(splits=0)
    with pytest.raises(ValueError, match="samples is 3; their halves take at least 4"):
        Settings(samples=3)
    recipe = Recipe("olmoe", steps=10, save_steps=(0, 10))
    cohort = Cohort("staggered", None, recipe, {"sorting": 0}, {0: 0, 10: 100})
    with pytest.raises(ValueError, match=r"keeps the steps \[0, 10\]; phases take two trained ones"):
        measuring.measure(Setup({"staggered": cohort}, 0, N, Reading()), Settings())
