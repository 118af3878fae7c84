"""Intervals against published numbers, the normal approximation, and their edge cases."""

import numpy as np
import pytest

from moemui.analyses import intervals


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
