"""Intervals against published numbers, the normal approximation, and their edge cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moemui.statistics import intervals


def test_wilson_of_81_in_263():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    low, high = intervals.wilson(successes=81, trials=263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (20, 20), (1, 1)])
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
