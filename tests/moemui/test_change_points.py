"""Change points: broken lines by hand, against a search over all of them, and by simulation; rows and their gaps."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons.files import Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui import change_points
from moemui.mui.change_points import Trajectory, accuracy_trajectory, mean_trajectory, mui_trajectory, turn
from moemui.mui.differences import PairedMui
from moemui.mui.dynamics import Cell

SETTING = Setting("projection", "pairs", 0.01)
NEURONS = 300
GEOMETRY = Geometry((Layer(index=0, routed=3, shared=0, width=100, shared_width=0, top_k=1),))
ROWS_RESAMPLES = 200


def broken(length, position, before, after):
    """A line through 0 with slope `before`, from `position` on `after`."""
    x = np.arange(length, dtype=float)
    return before * x + (after - before) * np.maximum(x - position, 0)


def test_turn_by_hand():
    assert turn(values=np.array([0.1, 0.2, 0.3, 0.25])) == pytest.approx((2, 0.1, -0.05))
    assert turn(values=np.array([0.5, 0.1, 0.2, 0.3])) == pytest.approx((1, -0.4, 0.1))
    # squares left by a turn at 1: (0.2 − 0.133)² + (0.4 − 0.167)² = 0.059, at 2: 0.2² = 0.04, at 3: 0.0056
    assert turn(values=np.array([0.0, 0.1, 0.2, 0.4, 0.2])).position == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 12), st.integers(0, 10_000))
def test_turn_is_the_best_of_all_broken_lines(length, seed):
    values = np.random.default_rng(seed).normal(size=length)
    x = np.arange(length)
    errors = [
        ((values - np.interp(x, [0, k, length - 1], values[[0, k, length - 1]])) ** 2).sum()
        for k in range(1, length - 1)
    ]
    found = turn(values=values)
    assert found.position == 1 + int(np.argmin(errors))
    assert found.slope_before == pytest.approx((values[found.position] - values[0]) / found.position)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 9), st.data())
def test_a_noiseless_broken_line_is_found(length, data):
    position = data.draw(st.integers(1, length - 2))
    before, after = data.draw(st.sampled_from([(1, -1), (0.2, 0.05), (-0.3, 0.1), (0, 2)]))
    assert turn(values=broken(length, position, before, after)) == pytest.approx((position, before, after), abs=1e-12)


def test_three_values_are_too_few():
    with pytest.raises(ValueError, match="a trajectory has 3 values; a change point takes 4 or more"):
        turn(values=np.zeros(3))


def noisy(estimates, sd, seed=0, resamples=2000):
    estimates = np.asarray(estimates, dtype=float)
    paired = PairedMui(estimates, np.eye(len(estimates)) * sd**2, 100)
    return mui_trajectory(paired=paired, seed=[seed], resamples=resamples)


def test_no_change_by_hand():
    straight = noisy([0.1, 0.2, 0.3, 0.4], 0.01)
    assert change_points.no_change(trajectory=straight) > 0.9
    # slope after − before of either change point is ± 0.3, a hundred standard errors: no resample reaches it
    assert change_points.no_change(trajectory=noisy([0.0, 0.1, 0.2, 0.0], 0.001)) == pytest.approx(1 / 2001)


def test_no_change_depends_on_no_line_and_no_scale():
    values = np.array([0.1, 0.12, 0.11, 0.15, 0.13])
    expected = change_points.no_change(trajectory=noisy(values, 0.02))
    tilted = noisy(values, 0.02)
    tilt = 0.3 + 0.05 * np.arange(5)
    moved = Trajectory(tilted.estimates + tilt, tilted.resampled + tilt)
    scaled = Trajectory(tilted.estimates * 7, tilted.resampled * 7)
    assert change_points.no_change(trajectory=moved) == pytest.approx(expected)
    assert change_points.no_change(trajectory=scaled) == pytest.approx(expected)


def test_a_trajectory_without_noise_has_no_test():
    assert np.isnan(change_points.no_change(trajectory=noisy([0, 1, 1, 1], 0)))
    assert change_points.no_change(trajectory=noisy([0, 0.1, 0.2, 0.3], 0)) == 1.0
    # the first three values never vary, so only the change point before the last can be judged
    values = np.array([0, 0, 0, 0.5, 0.1])
    resampled = values + np.random.default_rng(0).normal(size=(500, 5)) * [0, 0, 0, 0.01, 0.01]
    assert change_points.no_change(trajectory=Trajectory(values, resampled)) == pytest.approx(1 / 501)


def test_mui_resamples_have_the_given_covariance():
    covariance = np.array([[4.0, 2, 0], [2, 4, 0], [0, 0, 0]]) * 1e-6
    paired = PairedMui(np.array([0.1, 0.2, 0.3]), covariance, 50)
    found = mui_trajectory(paired=paired, seed=[1], resamples=20_000)
    assert np.cov(found.resampled.T) == pytest.approx(covariance, abs=2e-7)
    assert found.resampled.mean(axis=0) == pytest.approx(paired.estimates, abs=1e-4)


def test_accuracy_resamples_keep_a_sample_s_answers_together(monkeypatch):
    answers = np.random.default_rng(0).random((60, 1)) < 0.4
    correct = np.concatenate([answers, answers, ~answers, np.ones((60, 1))], axis=1)
    found = accuracy_trajectory(correct=correct, seed=[0], resamples=4000)
    share = answers.mean()
    assert found.estimates == pytest.approx([share, share, 1 - share, 1])
    # four coins of variance 1/4 a checkpoint are all that the equal columns differ by: 2 / 60² between any two
    own, coins = share * (1 - share) / 60, 1 / 60**2
    assert found.resampled[:, 0].var() == pytest.approx(own + coins, rel=0.1)
    for difference in (found.resampled[:, 0] - found.resampled[:, 1], found.resampled[:, 0] + found.resampled[:, 2]):
        assert difference.var() == pytest.approx(2 * coins, rel=0.1)
    assert found.resampled[:, 3].var() == pytest.approx(coins, rel=0.1)
    assert found.resampled[:, 3].mean() == pytest.approx(1, abs=0.002)
    monkeypatch.setattr(change_points, "VALUES_AT_ONCE", 600)
    assert accuracy_trajectory(correct=correct, seed=[0], resamples=37).resampled.shape == (37, 4)
    with pytest.raises(ValueError, match="there is nothing to resample"):
        accuracy_trajectory(correct=correct[:0], seed=[0])


def test_mean_trajectory_by_hand():
    found = mean_trajectory(trajectories=[noisy([0, 0.2, 0.4, 0.6], 0.03, 1), noisy([0.2, 0.2, 0.2, 0.2], 0.04, 2)])
    assert found.estimates == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert found.resampled.std(axis=0) == pytest.approx([0.025] * 4, rel=0.1)  # √(0.03² + 0.04²) / 2
    with pytest.raises(ValueError, match="there is no trajectory to average"):
        mean_trajectory(trajectories=[])


def samples(correct, first=0):
    n = len(correct)
    return Samples(
        id=np.array([f"t-{first + i}" for i in range(n)], dtype=object),
        domain=np.array(["math"] * n, dtype=object),
        correct=np.array(correct, dtype=np.int8),
        response_tokens=np.ones(n, dtype=np.int32),
    )


@pytest.fixture
def cells(tmp_path):
    """Cells of a task: a share of the neurons and of correct answers for each checkpoint; order 0 is untrained."""
    counter = itertools.count()

    def make(task, shares, accuracies, *, n=60, graded=True, untrained=True, first=0):
        generator = np.random.default_rng([len(task), n])
        luck, skill = generator.random((n, NEURONS)), np.arange(n) / n
        found = []
        for order, (share, accuracy) in enumerate(zip(shares, accuracies, strict=True)):
            table = luck < share
            path = tmp_path / f"{next(counter)}.h5"
            key_neurons.write(
                path,
                model="m",
                checkpoint=f"s{order}",
                task=task,
                geometry=GEOMETRY,
                samples=samples(skill < accuracy if graded else [-1] * n, first),
                sets={
                    SETTING: KeySets(
                        np.concatenate([[0], table.sum(axis=1).cumsum()]).astype(np.int64),
                        np.nonzero(table)[1].astype(np.int32),
                    )
                },
                routed_tokens=np.zeros((1, 3), dtype=np.int64),
            )
            tokens = 0.0 if untrained and order == 0 else 1e6 * order
            found.append(Cell(key_neurons.read(path), order, tokens))
        return found

    return make


def rows(cells, **options):
    table = change_points.rows(cells=cells, settings=[SETTING], resamples=ROWS_RESAMPLES, **options)
    return table.set_index(["measure", "task"])


RISE_FALL = [0.03, 0.001, 0.004, 0.010, 0.004, 0.001]  # the untrained checkpoint first; it must not count
RISING = [0.03, 0.001, 0.002, 0.008, 0.014, 0.020]
ACCURACY = [0.0, 0.05, 0.1, 0.4, 0.7, 0.95]


def test_rows(cells):
    found = rows([*cells("add", RISE_FALL, ACCURACY), *cells("sort", RISING, ACCURACY)])
    assert list(found.index) == list(itertools.product(("mui", "accuracy"), ("add", "sort", "mean")))
    add = found.loc[("mui", "add")]
    assert (add["n_checkpoints"], add["n_samples"], add["common_m"], add["note"]) == (5, 60, 30, "")
    assert add[["change_checkpoint", "change_order", "low_order", "high_order"]].tolist() == ["s3", 3, 3, 3]
    assert add[["peak_checkpoint", "peak_order", "peak_low_order", "peak_high_order"]].tolist() == ["s3", 3, 3, 3]
    assert add["slope_before_low"] > 0 > add["slope_after_high"]
    assert (add["p_rise_then_fall"], add["share_at_estimate"]) == (1, 1)
    assert add["p_no_change"] == pytest.approx(1 / (1 + ROWS_RESAMPLES))
    mean = found.loc[("mui", "mean")]
    assert mean["n_samples"] == 120
    assert pd.isna(mean["lag_to_mean"])
    sort = found.loc[("mui", "sort")]
    assert sort["p_rise_then_fall"] == 0
    assert sort["peak_checkpoint"] == "s5"
    assert sort["lag_to_mean"] == sort["change_order"] - mean["change_order"]
    # accuracy is 0.05, 0.1, 0.4, 0.7, 0.95 from order 1 on: slopes 0.05 to order 2 and 0.85 / 3 after it
    accuracy = found.loc[("accuracy", "add")]
    assert accuracy[["change_order", "slope_before", "slope_after"]].tolist() == pytest.approx([2, 0.05, 0.85 / 3])
    assert pd.isna(accuracy["common_m"])


def test_a_straight_line_is_said(cells):
    found = rows(cells("add", RISING, [0, 0.1, 0.3, 0.5, 0.7, 0.9])).loc[("accuracy", "add")]
    assert found["note"] == "no change of slope: a straight line is not rejected"
    assert found["p_no_change"] > 0.05
    assert pd.isna(found["lag_to_mean"])
    assert (found["slope_before"], found["slope_after"]) == pytest.approx((0.2, 0.2))


def test_too_few_checkpoints_and_nothing_graded(cells):
    found = rows([*cells("add", RISING[:4], ACCURACY[:4])])
    assert set(found["note"]) == {"fewer than 4 trained checkpoints, so no change point is sought"}
    assert found["n_checkpoints"].tolist() == [3] * 4
    assert found["change_order"].isna().all()
    assert found["change_checkpoint"].tolist() == [""] * 4
    found = rows(cells("add", RISING, ACCURACY, graded=False))
    assert found.loc[("accuracy", "add"), "note"] == "no sample is graded at all trained checkpoints"
    assert found.loc[("accuracy", "mean"), "note"] == "no task has a trajectory over all trained checkpoints"
    assert found.loc[("mui", "add"), "note"] == ""
    assert len(rows(cells("add", RISING[:1], ACCURACY[:1]))) == 0


def test_the_mean_is_over_tasks_with_all_trained_checkpoints(cells):
    short = cells("sort", RISING, ACCURACY)[:-1]
    found = rows([*cells("add", RISING, ACCURACY), *short])
    assert found["n_checkpoints"].tolist() == [5, 4, 5] * 2
    assert found.loc[("mui", "mean"), "note"] == "without sort"
    assert found.loc[("mui", "mean"), "n_samples"] == 60


def test_samples_that_not_all_checkpoints_answered_are_left_out(cells):
    whole, other = cells("add", RISING, ACCURACY, n=30), cells("add", RISING, ACCURACY, n=30, first=5)
    found = rows([*whole[:-1], other[-1]])
    assert found.loc["accuracy", "n_samples"].tolist() == [25] * 2
    # m is 15, half of each cell's 30 samples, so 25 common ones are too few for an interval of MUI
    assert found.loc[("mui", "add"), "note"] == (
        "samples at all trained checkpoints: 25, fewer than 2 · 15, so MUI has no interval and no change point is "
        "sought"
    )
    assert found.loc[("mui", "mean"), "note"] == "no task has a trajectory over all trained checkpoints"
    apart = cells("add", RISING, ACCURACY, n=30, first=29)
    found = rows([*whole[:-1], apart[-1]])
    assert found.loc[("mui", "add"), "note"] == "fewer than two samples are at all trained checkpoints"


@pytest.mark.parametrize(("n", "sought"), [(9, False), (20, True)])
def test_a_handful_of_graded_answers_has_no_change_point(cells, n, sought):
    found = rows([*cells("add", RISING, ACCURACY), *cells("sort", RISING, [0, 0, 0, 0, 1, 1], n=n)])
    assert bool(found.loc[("accuracy", "sort"), "change_checkpoint"]) == sought
    if sought:
        # answers that all turn at once still have noise, so there is a test
        assert found.loc[("accuracy", "sort"), "p_no_change"] < 0.05
        assert found.loc[("accuracy", "mean"), "n_samples"] == 80
    else:
        assert found.loc[("accuracy", "sort"), "note"] == (
            "graded at all trained checkpoints: 9, fewer than 10, so no change point is sought"
        )
        assert "without sort" in found.loc[("accuracy", "mean"), "note"]
        assert found.loc[("accuracy", "mean"), "n_samples"] == 60


def test_rows_repeat_with_their_seed(cells):
    given_cells = cells("add", RISING, ACCURACY)
    pd.testing.assert_frame_equal(rows(given_cells, seed=3), rows(given_cells[::-1], seed=3))


def joint(generator, length):
    """A covariance of checkpoints that answered the same samples: neighbours correlated, noise of several sizes."""
    sd = 0.002 * generator.uniform(0.7, 1.4, length)
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    return 0.5**distance * np.outer(sd, sd)


def simulated(truth, covariance, generator, trials, resamples):
    for trial in range(trials):
        paired = PairedMui(generator.multivariate_normal(truth, covariance), covariance, 200)
        yield mui_trajectory(paired=paired, seed=[trial], resamples=resamples)


@pytest.mark.simulation
@pytest.mark.parametrize(("length", "position"), [(5, 2), (8, 5)])
def test_coverage_of_position_and_slopes(length, position):
    generator = np.random.default_rng(length)
    truth = broken(length, position, 0.010, -0.004)
    hits = []
    for trajectory in simulated(truth, joint(generator, length), generator, 250, 200):
        turns = [turn(values=values) for values in trajectory.resampled]
        columns = [np.array(values) for values in zip(*turns, strict=True)]
        low, high = change_points._ends(columns[0])
        inside = [low <= position <= high]
        for values, slope in zip(columns[1:], (0.010, -0.004), strict=True):
            ends = np.quantile(values, change_points.ENDS)
            inside.append(ends[0] <= slope <= ends[1])
        hits.append(inside)
    found, before, after = np.mean(hits, axis=0)
    assert found >= 0.92  # positions are whole, so more than 95 % is no fault
    assert 0.92 <= before <= 0.98
    assert 0.92 <= after <= 0.98


@pytest.mark.simulation
@pytest.mark.parametrize("length", [4, 6, 12])
def test_a_straight_line_is_rejected_in_one_of_twenty(length):
    generator = np.random.default_rng(length)
    truth = 0.1 + 0.01 * np.arange(length)
    found = [
        change_points.no_change(trajectory=trajectory) <= 0.05
        for trajectory in simulated(truth, joint(generator, length), generator, 1500, 800)
    ]
    assert 0.03 <= np.mean(found) <= 0.07


@pytest.mark.simulation
@pytest.mark.parametrize(("n", "accuracy"), [(20, 0.02), (20, 0.5), (100, 0.5)])
def test_accuracy_that_does_not_change_is_seldom_said_to(n, accuracy):
    """Fresh answers at each of five checkpoints. Rare right answers leave the test cautious, as a width at 0 must."""
    generator, found = np.random.default_rng(n), []
    for trial in range(500):
        correct = (generator.random((n, 5)) < accuracy).astype(int)
        trajectory = accuracy_trajectory(correct=correct, seed=[trial], resamples=400)
        found.append(change_points.no_change(trajectory=trajectory) <= 0.05)
    assert np.mean(found) <= 0.07
    assert np.mean(found) >= 0.02 or accuracy < 0.1
