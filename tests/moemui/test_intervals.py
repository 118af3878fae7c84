"""Intervals against published numbers, the normal approximation, and their edge cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from moemui.statistics import intervals


def test_wilson_of_81_in_263():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    low, high = intervals.wilson(successes=81, trials=263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("successes", "trials"), [(0, 12), (0, 20), (12, 12), (20, 20), (1, 1)])
def test_wilson_stays_inside_0_and_1(successes, trials):
    low, high = intervals.wilson(successes=successes, trials=trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert high - low > 0.1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes of {trials} trials"):
        intervals.wilson(successes=successes, trials=trials)


def test_bootstrap_of_many_values_is_the_normal_interval():
    values = np.random.default_rng(1).normal(size=2000)
    low, high = intervals.mean_interval(values=values, seed=0, resamples=1000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 8)
    assert high == pytest.approx(values.mean() + half, abs=half / 8)


def test_bootstrap_repeats_with_its_seed_and_differs_with_another():
    values = np.arange(30.0)
    once, again, other = (intervals.mean_interval(values=values, seed=seed) for seed in (5, 5, 6))
    assert once == again != other


def test_equal_values_have_no_width_and_none_are_refused():
    assert intervals.mean_interval(values=np.zeros(9), seed=0) == (0.0, 0.0)
    with pytest.raises(ValueError, match="nothing to resample"):
        intervals.mean_interval(values=np.empty(0), seed=0)


def test_resampled_means_are_those_of_all_equally_likely_resamples():
    values = np.array([0.0, 1.0, 5.0])
    every = np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=3)])
    means, shares = np.unique(every.round(9), return_counts=True)
    drawn = intervals.resampled_means(values=values, seed=3, resamples=20_000).round(9)
    found = np.array([(drawn == mean).mean() for mean in means])
    assert found.tolist() == pytest.approx((shares / 27).tolist(), abs=0.015)
    assert set(drawn) == set(means)


def test_percentile_by_hand():
    # of 0, 1, …, 40 the 2.5 % and 97.5 % points are 1 and 39
    assert intervals.percentile(means=np.arange(41.0)) == pytest.approx((1.0, 39.0))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-1e3, 1e3))
def test_interval_of_a_mean_lies_among_the_values_and_moves_with_them(values, shift):
    low, high = intervals.mean_interval(values=np.array(values), seed=1, resamples=100)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    moved = intervals.mean_interval(values=np.array(values) + shift, seed=1, resamples=100)
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


@pytest.mark.parametrize(("change", "known"), [((0.1, 0.0, 0.2), True), ((0.1, np.nan, np.nan), False)])
def test_a_change_is_known_with_its_interval(change, known):
    assert bool(intervals.Change(*change).known) is known


def differences(lost, gained, n):
    return np.repeat([1, -1, 0], [lost, gained, n - lost - gained])


def test_paired_proportions_by_hand():
    # 5 lost and 1 gained of 18: (4 ± 1.96·√(8 − 16/20)) / 20
    half = 1.959964 * np.sqrt(7.2) / 20
    assert intervals.paired_proportions(differences=differences(5, 1, 18)) == pytest.approx((0.2 - half, 0.2 + half))


def test_answers_that_never_changed_or_all_did_keep_a_width():
    # ± 1.96·√2 / 14
    assert intervals.paired_proportions(differences=np.zeros(12)) == pytest.approx((-0.19799, 0.19799), abs=1e-5)
    low, high = intervals.paired_proportions(differences=np.ones(2))
    assert low < 0 < high == 1  # two samples of two: nothing shown
    assert intervals.paired_proportions(differences=np.ones(12))[0] == pytest.approx(
        12 / 14 - 1.959964 * np.sqrt(14 - 144 / 14) / 14
    )


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60))
def test_a_paired_interval_holds_the_mean_and_turns_with_the_sign(listed):
    values = np.array(listed)
    low, high = intervals.paired_proportions(differences=values)
    assert -1 <= low <= values.mean() <= high <= 1
    assert high - low > 0
    assert intervals.paired_proportions(differences=-values) == pytest.approx((-high, -low))


@pytest.mark.parametrize("wrong", [[], [0.5], [0, 2], [np.nan]])
def test_paired_proportions_refuse_what_is_no_difference_of_answers(wrong):
    with pytest.raises(ValueError, match="give one or more, each −1, 0 or 1"):
        intervals.paired_proportions(differences=np.array(wrong))


def coverage(lost, gained, n):
    """Exact: the probability of all numbers lost and gained whose interval holds the truth."""
    held = 0.0
    for b in range(n + 1):
        if stats.binom.pmf(b, n, lost) < 1e-9:
            continue
        for c in range(n - b + 1):
            chance = stats.multinomial.pmf([b, c, n - b - c], n, [lost, gained, 1 - lost - gained])
            if chance > 1e-9:
                low, high = intervals.paired_proportions(differences=differences(b, c, n))
                held += chance * (low <= lost - gained <= high)
    return held


@pytest.mark.simulation
@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize("loss", [0.005, 0.01, 0.03, 0.1])
def test_coverage_of_rare_losses(n, loss):
    """At least the level. Above 98 % where fewer than about six samples are lost, as a width at 0 must."""
    found = coverage(loss, 0.0, n)
    assert found >= 0.92
    assert found <= 0.99 or loss * n < 6


@pytest.mark.simulation
@pytest.mark.parametrize(("lost", "gained"), [(0.15, 0.05), (0.3, 0.3), (0.6, 0.05)])
def test_coverage_of_common_changes(lost, gained):
    assert 0.92 <= coverage(lost, gained, 40) <= 0.98


def test_mean_of_changes_by_hand():
    changes = [intervals.Change(0.1, 0.07, 0.14), intervals.Change(0.3, 0.26, 0.33)]
    # below √(0.03² + 0.04²) / 2, above √(0.04² + 0.03²) / 2
    assert intervals.mean_of_changes(changes=changes) == pytest.approx((0.2, 0.175, 0.225))
    assert intervals.mean_of_changes(changes=changes[:1]) == pytest.approx(changes[0])
    for wrong in ([], [intervals.Change(0.1, np.nan, np.nan)]):
        with pytest.raises(ValueError, match="give one or more that have an interval"):
            intervals.mean_of_changes(changes=wrong)


@pytest.mark.simulation
@pytest.mark.parametrize(("lost", "gained", "most"), [(0.005, 0, 1), (0.03, 0, 1), (0.1, 0, 0.985), (0.3, 0.3, 0.98)])
def test_coverage_of_the_mean_of_eight_tasks(lost, gained, most):
    """Of 40 samples each. Every task brings its own pseudo-samples, so rare changes are covered in almost all cases."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        drawn = generator.choice([1, -1, 0], p=[lost, gained, 1 - lost - gained], size=(8, 40))
        tasks = [intervals.Change(own.mean(), *intervals.paired_proportions(differences=own)) for own in drawn]
        found = intervals.mean_of_changes(changes=tasks)
        held.append(found.low <= lost - gained <= found.high)
    assert 0.92 <= np.mean(held) <= most


def test_mean_interval_adds_distances_in_quadrature():
    mean, low, high = intervals.mean_of_estimates(
        values=np.array([0.2, 0.6]), lows=np.array([0.17, 0.56]), highs=np.array([0.26, 0.68])
    )
    assert mean == pytest.approx(0.4)
    assert low == pytest.approx(0.4 - 0.05 / 2)  # √(0.03² + 0.04²) = 0.05
    assert high == pytest.approx(0.4 + 0.10 / 2)  # √(0.06² + 0.08²) = 0.10
    with pytest.raises(ValueError, match="a mean needs one or more finite values"):
        intervals.mean_of_estimates(values=np.array([]), lows=np.array([]), highs=np.array([]))
