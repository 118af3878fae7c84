"""The loops: what a round makes of a mixture, arms that differ in nothing else, and a real run."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from moemui.experiments.measurements import Measured, series
from moemui.experiments.probe import Reading
from moemui.experiments.setup import Setup
from moemui.experiments.training_signal import ARMS, QUANTITIES, Settings
from moemui.experiments.training_signal import measure as measuring
from moemui.experiments.training_signal.effects import EFFECTS, effects
from moemui.experiments.training_signal.measure import Mixture, Signal, accumulating, cut, moved, shuffled, wanted
from moemui.models import synthetic, training

TINY = {
    "training": {
        "family": "olmoe", "hidden": 16, "layers": 1, "heads": 2, "experts": 4, "neurons_per_expert": 8, "batch": 8,
        "steps": 20, "warm_up": 2, "learning_rate": 1e-2, "final_rate": 0.1,
    },
    "tasks": ["sorting", "reversal", "boolean"], "tokens": 4000, "rounds": 4, "validation": 6, "examples": 8,
}  # fmt: skip
LONGEST = 45  # tokens of any example of these tasks, and more
SEED = 5


def signal(token_accuracy, mui):
    return Signal(np.zeros(len(mui)), np.array(token_accuracy), np.array(mui))


def test_a_task_accumulates_where_right_tokens_and_mui_both_rise():
    before = signal([0.5, 0.5, 0.5, 0.5, 0.5], [0.2] * 5)
    after = signal([0.75, 0.75, 0.5, 0.25, 0.5625], [0.3, 0.2, 0.3, 0.3, 0.21])
    assert accumulating(before, after, 0.0).tolist() == [True, False, False, False, True]
    assert accumulating(before, after, 0.125).tolist() == [True, False, False, False, False]
    assert accumulating(before, after, 0.0625).tolist() == [True, False, False, False, True]


def test_one_loop_wants_what_is_not_known_yet_and_the_other_what_accumulates():
    before = Signal(np.array([0.0, 0.5]), np.array([0.2, 0.5]), np.array([0.1, 0.1]))
    after = Signal(np.array([0.25, 0.75]), np.array([0.3, 0.8]), np.array([0.2, 0.05]))
    assert wanted("accuracy", before, after, 0.01).tolist() == [0.75, 0.25]
    assert wanted("mui", before, after, 0.01).tolist() == [1, 0]
    assert wanted("progress", before, after, 0.01).tolist() == [1, 1]
    assert [wanted(arm, None, after, 0.01) for arm in ("accuracy", "progress", "mui")] == [None] * 3


def test_a_mixture_goes_a_part_of_the_way_to_what_is_wanted_over_the_floor():
    equal = np.full(4, 0.25)
    # the target is 0.5/4 + 0.5 · (1, 0, 0, 0), and half the way there
    step = moved(equal, np.array([2.0, 0, 0, 0]), pace=0.5, floor=0.5)
    assert step == pytest.approx([0.4375, 0.1875, 0.1875, 0.1875])
    assert moved(step, np.zeros(4), pace=1, floor=0.5) == pytest.approx(equal)
    assert moved(step, np.array([3.0, 1, 0, 0]), pace=1, floor=0.2) == pytest.approx([0.65, 0.25, 0.05, 0.05])


def test_no_task_falls_below_the_floor_however_long_it_is_not_wanted():
    weights = np.full(5, 0.2)
    for _ in range(60):
        weights = moved(weights, np.array([1.0, 0, 0, 0, 0]), pace=0.5, floor=0.3)
    assert weights == pytest.approx([0.76, 0.06, 0.06, 0.06, 0.06])


@pytest.mark.parametrize("seed", range(6))
def test_the_placebo_gives_each_tasks_shares_to_another_one_for_good(seed):
    shares = [np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.15, 0.25, 0.2])]
    first, second = shuffled(shares, seed)
    source = [shares[0].tolist().index(value) for value in first]
    assert sorted(source) == [0, 1, 2, 3]
    assert all(task != other for task, other in enumerate(source))
    assert second.tolist() == shares[1][source].tolist()


def test_a_batch_is_cut_after_the_examples_that_fit():
    ids = torch.arange(12).reshape(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    batch = (ids, mask, ids + 1)
    assert cut(batch, 9) is batch
    assert [part.tolist() for part in cut(batch, 8)] == [part[:2].tolist() for part in batch]
    assert len(cut(batch, 5)[0]) == 1
    assert cut(batch, 3) is None


def test_mixtures_draw_from_the_same_streams_whatever_the_shares():
    kept_out = {task: measuring.validation_examples(task, 30, 0) for task in ("sorting", "boolean")}
    equal, skewed = (Mixture(list(kept_out), kept_out, 0) for _ in range(2))
    halves, tenth = equal.draw(1500, np.array([0.5, 0.5])), skewed.draw(1500, np.array([0.1, 0.9]))
    assert np.mean([example.task == "sorting" for example in halves]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([example.task == "sorting" for example in tenth]) == pytest.approx(0.1, abs=0.03)
    for task in kept_out:
        streams = [[example for example in drawn if example.task == task] for drawn in (halves, tenth)]
        n = min(map(len, streams))
        assert n > 100
        assert streams[0][:n] == streams[1][:n]
    prompts = {example.prompt for example in halves + tenth}
    assert not prompts & {example.prompt for task in kept_out for example in kept_out[task]}
    assert not any(synthetic.is_held_out(prompt) for prompt in prompts)


def test_validation_problems_are_different_ones_outside_the_held_out_part():
    found = measuring.validation_examples("boolean", 100, 0)
    assert len({example.prompt for example in found}) == 100
    assert not any(synthetic.is_held_out(example.prompt) for example in found)
    assert found != measuring.validation_examples("boolean", 100, 1)


def test_too_few_validation_problems_are_an_error(monkeypatch):
    monkeypatch.setattr(synthetic, "PATIENCE", 3)
    one = synthetic.Task(lambda draws: ("sort b a", "a b"), "sequences")
    monkeypatch.setitem(synthetic.TASKS, "sorting", one)
    monkeypatch.setattr(synthetic, "is_held_out", lambda prompt: False)
    with pytest.raises(ValueError, match="task sorting has only 1 problems for validation where 2 are wanted"):
        measuring.validation_examples("sorting", 2, 0)


@pytest.fixture(scope="module")
def forced():
    """A run whose mui loop wants the first task in its first decision, the second one in its second, and so on."""
    turns, steps, starts, asked = itertools.count(), [], [], []

    def in_turn(before, after, least_rise):
        assert accumulating(before, after, least_rise).shape == (3,)
        return np.arange(3) == next(turns) % 3

    class Recording(training.Trainer):
        def __init__(self, recipe, model):
            super().__init__(recipe, model)
            starts.append({name: value.clone() for name, value in model.state_dict().items()})
            steps.append([])

        def step(self, batch, rate):
            assert self.model.training
            steps[-1].append((batch[0], rate))
            return super().step(batch, rate)

    class Asked(measuring.Probe):
        def needed(self, examples):
            asked.append(examples)
            return super().needed(examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "Probe", Asked)
        patch.setattr(measuring, "accumulating", in_turn)
        patch.setattr(measuring, "Trainer", Recording)
        frame = measuring.measure(Setup({}, SEED, 0, Reading(threshold=0.1)), Settings(**TINY))
    assert len(asked) == 9  # 3 tasks of one arm, from the second of 4 rounds on
    return frame, steps, starts


def weights_of(frame, arm):
    return series(frame, "weight", ["step", "task"], arm=arm).unstack("task")[TINY["tasks"]].to_numpy()


def test_arms_begin_with_the_same_weights_and_end_on_the_same_tokens(forced):
    frame, steps, starts = forced
    assert len(starts) == len(ARMS)
    for other in starts[1:]:
        assert all(torch.equal(other[name], starts[0][name]) for name in starts[0])
    first = frame[(frame["quantity"] == "accuracy") & (frame["step"] == 0)].set_index(["arm", "task"])["value"]
    assert all(first[arm].equals(first["static"]) for arm in ARMS)
    tokens = frame.groupby("arm")["tokens"].max()
    assert tokens.le(TINY["tokens"]).all()
    assert tokens.gt(TINY["tokens"] - LONGEST).all()
    same = [[torch.equal(a, b) for (a, _), (b, _) in zip(steps[arm], steps[0], strict=False)] for arm in range(4)]
    assert all(all(arm[:3]) for arm in same)  # nothing has been decided yet
    assert not all(same[2])
    assert not all(same[3])


def test_tokens_are_those_that_the_model_was_taught(forced):
    frame, steps, _ = forced
    for arm, taken in zip(ARMS, steps, strict=True):
        # token 0 is padding and occurs in no text
        assert sum(int((ids != 0).sum()) for ids, _ in taken) == frame.loc[frame["arm"] == arm, "tokens"].max()
        assert len(taken) == frame.loc[frame["arm"] == arm, "step"].max()


def test_the_rate_follows_the_share_of_the_budget(forced):
    _, steps, _ = forced
    recipe = Settings(**TINY).recipe(SEED)
    for taken in steps:
        rates, tokens = [rate for _, rate in taken], np.cumsum([int((ids != 0).sum()) for ids, _ in taken])
        expected = [training.learning_rate(recipe, recipe.steps * seen / TINY["tokens"]) for seen in tokens]
        assert rates == pytest.approx(expected)
        assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.final_rate, rel=0.05)


def test_the_loop_moves_toward_what_it_wants_and_the_placebo_has_its_shares_on_other_tasks(forced):
    frame, _, _ = forced
    equal = np.full(3, 1 / 3)
    after_first = moved(equal, np.array([1, 0, 0]), pace=0.5, floor=0.25)
    after_second = moved(after_first, np.array([0, 1, 0]), pace=0.5, floor=0.25)
    expected = np.array([equal, equal, after_first, after_second])
    np.testing.assert_allclose(weights_of(frame, "mui"), expected)
    np.testing.assert_allclose(weights_of(frame, "static"), np.tile(equal, (4, 1)))
    np.testing.assert_allclose(weights_of(frame, "shuffled"), shuffled(list(expected), SEED))
    seen = series(frame, "signal_accuracy", ["step", "task"], arm="accuracy").unstack("task")[TINY["tasks"]].to_numpy()
    course = [equal]
    for accuracy in seen:
        course.append(moved(course[-1], 1 - accuracy, pace=0.5, floor=0.25))
    np.testing.assert_allclose(weights_of(frame, "accuracy"), course)


def test_only_the_loops_look_and_only_one_at_neurons(forced):
    frame, _, _ = forced
    rows = frame.groupby(["quantity", "arm"]).size()
    loops = ("accuracy", "mui", "progress")
    assert rows["signal_accuracy"].to_dict() == dict.fromkeys(loops, 9)  # 3 tasks, from the second of 4 rounds on
    assert rows["signal_mui"].to_dict() == {"mui": 9}
    assert rows["wanted"].to_dict() == dict.fromkeys(loops, 6)  # a phase takes two looks, and all begin together
    assert rows["accuracy"].to_dict() == dict.fromkeys(ARMS, 5 * 4)
    seconds = series(frame, "measuring_seconds", ["arm"])
    assert seconds[["static", "shuffled"]].tolist() == [0, 0]
    assert (seconds[["mui", "accuracy"]] > 0).all()
    found = effects(frame, Settings(**TINY))
    assert set(found) == set(EFFECTS)
    assert all(np.isfinite(value) for value, _ in found.values())


def test_measuring_leaves_training_as_it_is():
    settings = Settings(**{**TINY, "floor": 1.0, "tokens": 2000})  # every target is equal shares
    state = torch.get_rng_state()
    frame = measuring.measure(Setup({}, 0, 0, Reading(threshold=0.1)), settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert frame["quantity"].isin(QUANTITIES).all()
    same = frame[frame["quantity"].isin(["accuracy", "weight"])].drop(columns=["seed", "unit"])
    by_arm = {arm: rows.drop(columns="arm").reset_index(drop=True) for arm, rows in same.groupby("arm")}
    static = by_arm.pop("static")
    for rows in by_arm.values():
        pd.testing.assert_frame_equal(rows, static)


def made_up():
    """Two tasks, two rounds; tokens 0, 100 and 400."""
    measured = Measured("training_signal", 0, QUANTITIES)
    final = {
        "static": (0.5, 0.25), "accuracy": (0.5, 0.5), "mui": (1.0, 0.25), "shuffled": (0.0, 0.75),
        "progress": (0.75, 0.0),
    }  # fmt: skip
    for arm, accuracies in final.items():
        for step, tokens, share in ((0, 0.0, 0.0), (1, 100.0, 0.5), (2, 400.0, 1.0)):
            for task, accuracy in zip("ab", accuracies, strict=True):
                measured.add("accuracy", accuracy * share, arm=arm, step=step, tokens=tokens, task=task)
            measured.add("accuracy", 77, arm=arm, step=step, tokens=tokens)  # the mean is worked out anew
        for step, weight in ((0, 0.5), (1, 0.9 if arm == "mui" else 0.6)):
            for task, value in (("a", weight), ("b", 1 - weight)):
                measured.add("weight", value, arm=arm, step=step, task=task)
        measured.add("training_seconds", 20, arm=arm, step=2)
        measured.add("measuring_seconds", {"mui": 5, "accuracy": 2}.get(arm, 0), arm=arm, step=2)
    measured.add("wanted", 1, arm="mui", step=1, task="a")
    measured.add("wanted", 0, arm="mui", step=1, task="b")
    measured.add("wanted", 0.3, arm="accuracy", step=1, task="b")
    return measured.frame()


def test_effects_are_worked_out_by_hand():
    found = {name: value for name, (value, _) in effects(made_up(), Settings()).items()}
    # area of a mean m: (0 + m/2)/2 · 100 + (m/2 + m)/2 · 300 = 250 m, over 400 tokens 0.625 m
    means = {"static": 0.375, "accuracy": 0.5, "mui": 0.625, "shuffled": 0.375}
    assert found["mui_minus_static_final"] == pytest.approx(0.25)
    assert found["mui_minus_accuracy_final"] == pytest.approx(0.125)
    assert found["mui_minus_shuffled_final"] == pytest.approx(0.25)
    assert found["mui_minus_progress_final"] == pytest.approx(0.25)
    assert found["worst_static"] == 0.25
    assert found["accuracy_minus_static_final"] == pytest.approx(0.125)
    assert found["mui_minus_static_worst"] == pytest.approx(0)
    assert found["mui_minus_accuracy_worst"] == pytest.approx(-0.25)
    assert found["mui_minus_shuffled_worst"] == pytest.approx(0.25)
    assert found["mui_minus_accuracy_area"] == pytest.approx(0.625 * (means["mui"] - means["accuracy"]))
    assert found["moved"] == pytest.approx(0.2)  # mean of 0 and (0.4 + 0.4)/2
    assert found["accumulating_share"] == 0.5
    assert (found["measuring_cost_mui"], found["measuring_cost_accuracy"]) == (0.25, 0.1)
    assert set(found) == set(EFFECTS)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tasks": ["sorting"]}, r"tasks are \['sorting'\]; a mixture takes at least two, each named once"),
        ({"tasks": ["sorting", "sorting"]}, "at least two, each named once"),
        ({"tasks": ["sorting", "chess"]}, "no synthetic task is called 'chess'"),
        ({"rounds": 1}, "rounds is 1; it is at least 2"),
        ({"pace": 0}, "pace is 0 and floor is 0.25; both lie above 0 and are at most 1"),
        ({"floor": 1.5}, "pace is 0.5 and floor is 1.5"),
        ({"least_rise": -0.1}, "least_rise is -0.1; it is 0 or more"),
        ({"training": {"family": "olmoe", "seed": 3}}, "training names seed, which this experiment sets itself"),
        ({"training": {"family": "olmoe", "depth": 3}}, "a training recipe has no depth"),
    ],
)
def test_settings_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Settings(**knobs)
