"""Means over samples × seeds: worked by hand, against statsmodels' two-way table, and their coverage."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import anova_lm

from moemui.statistics.crossed_means import alike, crossed_mean


def test_two_seeds_and_three_samples_by_hand():
    """[[0, 2, 4], [2, 6, 10]]: means 4, of samples 1, 4, 7, of seeds 2, 6.

    MS_samples = 2·9 = 18, MS_seeds = 3·8 = 24, residuals ±1, 0, ∓1 so MS_rest = 4/2 = 2. Variance (18 + 24 − 2)/6,
    degrees of freedom 40² / (18²/2 + 24²/1 + 2²/2).
    """
    found = crossed_mean(values=np.array([[0.0, 2, 4], [2, 6, 10]]))
    freedom, error = 1600 / (162 + 576 + 2), np.sqrt(40 / 6)
    assert found.mean == 4
    assert found.high == pytest.approx(4 + stats.t.ppf(0.975, freedom) * error)
    assert found.low == pytest.approx(4 - stats.t.ppf(0.975, freedom) * error)
    assert found.p == pytest.approx(2 * stats.t.sf(4 / error, freedom))


def test_mean_squares_are_those_of_a_two_way_table():
    values = np.random.default_rng(0).normal(size=(4, 7)) + np.arange(4)[:, None] + np.arange(7)
    long = pd.DataFrame(
        [(value, f"s{row}", f"x{column}") for (row, column), value in np.ndenumerate(values)],
        columns=["value", "seed", "sample"],
    )
    table = anova_lm(smf.ols("value ~ C(seed) + C(sample)", long).fit())
    mean_square = table["sum_sq"] / table["df"]
    seeds, samples, rest = mean_square["C(seed)"], mean_square["C(sample)"], mean_square["Residual"]
    variance = (seeds + samples - rest) / 28
    freedom = (seeds + samples - rest) ** 2 / (seeds**2 / 3 + samples**2 / 6 + rest**2 / 18)
    found = crossed_mean(values=values)
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def test_one_seed_is_the_one_sample_t_test():
    values = np.random.default_rng(1).normal(0.3, 1, size=(1, 40))
    found, wanted = crossed_mean(values=values), stats.ttest_1samp(values[0], 0)
    assert found.p == pytest.approx(wanted.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))


def test_seeds_that_all_agree_add_nothing():
    one = np.random.default_rng(2).normal(0.3, 1, size=40)
    assert crossed_mean(values=np.stack([one] * 5)) == pytest.approx(crossed_mean(values=one[None]))


def test_seeds_that_differ_widen_the_interval():
    one = np.random.default_rng(2).normal(0.3, 1, size=40)
    apart = crossed_mean(values=one + np.array([[-2.0], [-1], [0], [1], [2]]))
    alone = crossed_mean(values=one[None])
    assert apart.mean == pytest.approx(alone.mean)
    assert apart.high - apart.low > 4 * (alone.high - alone.low)
    assert apart.p > 0.5 > 0.1 > alone.p


@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 1000))
def test_interval_and_p_agree(seeds, samples, seed):
    values = np.random.default_rng(seed).normal(0.3, 1, size=(seeds, samples))
    found = crossed_mean(values=values)
    assert found.low <= found.mean <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_values_alike_have_no_width():
    assert crossed_mean(values=np.zeros((3, 4))) == (0, 0, 0, 1)
    assert crossed_mean(values=np.full((3, 6), 0.5)) == (0.5, 0.5, 0.5, 2 * 0.5**6)  # all six samples on one side


def test_what_can_not_be_had_is_missing():
    assert np.isnan(crossed_mean(values=np.empty((5, 0)))).all()
    single = crossed_mean(values=np.array([[1.0], [2], [3]]))
    assert single.mean == 2
    assert np.isnan(single[1:]).all()


ENDS = [-1.0, 1.0]


def test_pseudo_samples_by_hand():
    """One seed, lost 1, 1, 0: with −1 and 1 more the mean is 2/5, the variance (4 − 0.8)/4, the error √(0.8/5)."""
    found = crossed_mean(values=np.array([[1.0, 1, 0]]), pseudo_samples=np.array([ENDS]))
    half = stats.t.ppf(0.975, 4) * 0.4
    assert found == pytest.approx((2 / 3, 0.4 - half, 0.4 + half, 2 * stats.t.sf(1, 4)))


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(("value", "samples"), [(0, 12), (1, 2), (1, 12), (0.4, 40)])
def test_answers_alike_keep_a_width_and_agree_with_their_p(seeds, value, samples):
    found = crossed_mean(values=np.full((seeds, samples), float(value)), pseudo_samples=np.tile(ENDS, (seeds, 1)))
    assert found.mean == pytest.approx(value)
    assert found.low <= value <= found.high
    assert found.high - found.low > 0.05
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    assert (found.p < 0.05) == (value > 0 and samples > 2)


@given(st.integers(1, 5), st.integers(2, 40), st.floats(0, 1), st.integers(0, 1000))
def test_interval_and_p_of_answers_agree(seeds, samples, lost, seed):
    generator = np.random.default_rng(seed)
    values = (generator.random(samples) < lost) - (generator.random((seeds, samples)) < 0.05).astype(float)
    found = crossed_mean(values=values, pseudo_samples=np.tile(ENDS, (seeds, 1)))
    assert found.low <= found.mean <= found.high
    assert found.low < found.high
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


@pytest.mark.parametrize(("lost", "gained", "n"), [(4, 0, 200), (6, 0, 200), (8, 1, 200), (12, 0, 12), (15, 5, 40)])
def test_one_seed_decides_as_mcnemars_exact_test(lost, gained, n):
    values = np.repeat([1.0, -1, 0], [lost, gained, n - lost - gained])[None]
    found = crossed_mean(values=values, pseudo_samples=np.array([ENDS]))
    exact = stats.binomtest(lost, lost + gained).pvalue
    assert (found.p < 0.05) == (exact < 0.05)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ValueError, match="1 of 4 values are not finite; all must be"):
        crossed_mean(values=np.array([[0, 1], [2, wrong]]))


def test_rounding_is_no_spread():
    assert alike(np.array([0.1 + 0.2, 0.3]))
    assert not alike(np.array([0.3, 0.3001]))


@pytest.mark.simulation
@pytest.mark.parametrize("between_seeds", [0, 0.03, 0.1, 0.5])
@pytest.mark.parametrize("skewed", [False, True])
def test_coverage_where_samples_and_seeds_are_both_drawn(between_seeds, skewed):
    """Nominal 95 % over 2,000 studies of 200 samples and 5 seeds, samples and rest of spread 1."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        samples = generator.lognormal(0, 1, 200) / 2.161 - 0.763 if skewed else generator.normal(size=200)
        values = samples + generator.normal(0, 1, (5, 200)) + generator.normal(0, between_seeds, (5, 1))
        found = crossed_mean(values=values)
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 2000 <= 0.98


@pytest.mark.simulation
def test_coverage_for_answers_that_are_right_or_wrong():
    """Accuracy under 5 random controls less that under key: samples of many difficulties, seeds of several effects."""
    generator = np.random.default_rng(0)

    def draw(seeds, samples):
        logit = generator.normal(2, 1.5, samples)
        key = generator.random(samples) < 1 / (1 + np.exp(1.5 - logit))
        harm = generator.normal(0, 0.5, (seeds, 1))
        return (generator.random((seeds, samples)) < 1 / (1 + np.exp(harm - logit))).astype(float) - key

    truth = np.mean([draw(100, 10_000).mean() for _ in range(20)])
    found = [crossed_mean(values=draw(5, 200)) for _ in range(2000)]
    assert 0.92 <= np.mean([low <= truth <= high for _, low, high, _ in found]) <= 0.98


@pytest.mark.simulation
@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(("n", "loss", "most"), [(40, 0.01, 1), (40, 0.1, 0.995), (200, 0.005, 1), (200, 0.03, 0.98)])
def test_coverage_of_rare_losses(seeds, n, loss, most):
    """Key neurons lose a few answers, controls lose none. Rare losses are covered in all cases: a width at 0 must."""
    generator, held = np.random.default_rng(0), []
    for _ in range(1000):
        values = np.tile((generator.random(n) < loss).astype(float), (seeds, 1))
        found = crossed_mean(values=values, pseudo_samples=np.tile(ENDS, (seeds, 1)))
        held.append(found.low <= loss <= found.high)
    assert 0.92 <= np.mean(held) <= most
