"""Rarefaction against enumeration of all subsets and published numbers, Chao2 by hand, noise over samples."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.mui.rarefaction import (
    absent,
    chao2,
    frequency_counts,
    mui_at,
    rarefied,
    saturation_curve,
    unseen,
)

# Ants on a mountain in Costa Rica (Longino & Colwell 2011): elevation → samples, species found in exactly 1, 2, … of
# them, and in how many each of the others was found. The published answers are those that iNEXT 3.0 prints for its data
# set `ant`: the Chao2 estimate of all species and the expected number in t samples.
ANTS = {
    "50 m": (
        599,
        [49, 23, 18, 14, 9, 10, 4, 8, 6, 2, 1, 2, 2, 5, 2, 4, 3, 2, 2, 3, 1, 1, 2, 0, 1, 0, 2, 0, 1, 2, 1, 0, 1],
        "39 40 43 46 46 47 48 51 52 52 56 56 58 58 61 61 65 69 72 77 79 82 83 84 86 91 95 97 98 98 106 113 124 126 127 "
        "128 129 129 182 183 186 195 222 236 263 330",
    ),
    "1500 m": (
        200,
        [13, 4, 2, 2, 4, 2, 0, 0, 4, 0, 2, 0, 0, 0, 0, 0, 2, 1, 1, 0, 0, 0, 2, 1, 3],
        "29 30 32 33 43 50 53 73 74 76 79 113 144",
    ),
    "2000 m": (200, [1, 2, 1, 1, 0, 0, 0, 2], "13 15 19 23 34 59 80"),
}


def ants(elevation):
    n, few, frequent = ANTS[elevation]
    rare = np.repeat(np.arange(1, len(few) + 1), few)
    return counts_of(np.concatenate([rare, np.array(frequent.split(), dtype=int)]), n)


# Two samples {0, 1} and {1, 2} of a model of 10 neurons: Q0 = 7, Q1 = 2, Q2 = 1
PAIR = np.array([7, 2, 1])


def counts_of(incidence, n):
    return frequency_counts(incidence=np.asarray(incidence), n=n)


@st.composite
def key_matrices(draw):
    """Which of up to 6 neurons is key in which of up to 8 samples."""
    n, neurons = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    return np.array(draw(st.lists(st.lists(st.booleans(), min_size=neurons, max_size=neurons), min_size=n, max_size=n)))


@settings(max_examples=60, deadline=None)
@given(key_matrices())
def test_rarefaction_is_the_mean_union_over_all_subsets(matrix):
    n, neurons = matrix.shape
    counts = counts_of(matrix.sum(axis=0), n)
    for m in range(1, n + 1):
        unions = [matrix[list(chosen)].any(axis=0).sum() for chosen in itertools.combinations(range(n), m)]
        assert rarefied(counts=counts, m=m, cap=neurons).estimate == pytest.approx(np.mean(unions), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(key_matrices(), st.randoms())
def test_rarefaction_rises_to_the_union_slows_down_and_ignores_order(matrix, shuffler):
    n, neurons = matrix.shape
    ms = list(range(1, n + 1))
    curve = saturation_curve(counts=counts_of(matrix.sum(axis=0), n), ms=ms, n_neurons=neurons)["mui"].to_numpy()
    assert curve[-1] == matrix.any(axis=0).mean()  # exact, not approximate
    assert curve[0] == pytest.approx(matrix.mean())
    assert (np.diff(curve) >= -1e-12).all()
    assert (np.diff(curve, 2) <= 1e-12).all()
    order = list(range(n))
    shuffler.shuffle(order)
    again = counts_of(matrix[order].sum(axis=0), n)
    assert saturation_curve(counts=again, ms=ms, n_neurons=neurons)["mui"].tolist() == curve.tolist()


@settings(max_examples=60, deadline=None)
@given(key_matrices())
def test_variance_is_never_negative_and_bands_hold_their_estimate(matrix):
    n, neurons = matrix.shape
    counts = counts_of(matrix.sum(axis=0), n)
    if n == 1:
        assert np.isnan(rarefied(counts=counts, m=1, cap=neurons).variance)
        return
    for m in range(1, n + 1):
        value, error, low, high = mui_at(counts=counts, m=m, n_neurons=neurons)
        assert error >= 0
        assert 0 <= low <= value + 1e-12
        assert value - 1e-12 <= high <= 1
    asymptote = chao2(counts=counts, cap=neurons)
    assert matrix.any(axis=0).sum() <= asymptote.estimate <= neurons
    assert asymptote.low <= asymptote.high <= neurons


@pytest.mark.parametrize(("n", "m"), [(10_000, 1), (10_000, 5_000), (10_000, 9_999), (3, 3)])
def test_absence_is_a_falling_chance_at_any_size(n, m):
    chance = absent(n=n, m=m)
    assert (chance[0], chance[n]) == (1.0, 0.0)
    assert (np.diff(chance) <= 0).all()
    assert chance[1] == pytest.approx(1 - m / n)


@pytest.mark.parametrize("m", [0, 4])
def test_rarefaction_does_not_extrapolate(m):
    with pytest.raises(ValueError, match=f"m is {m}; rarefaction draws 1 to n = 3"):
        absent(n=3, m=m)


def test_chao2_classic_by_hand():
    # A = 1/2: 3 + ½·2²/2 = 4; variance 1·(½·2²/2 + ¼·2³ + ¼·2⁴/4) = 1 + 2 + 1; C = exp(1.96·√ln(1 + 4/1²)) = 12.0189
    found = chao2(counts=PAIR, cap=10)
    assert (found.estimate, found.variance) == (4.0, 4.0)
    assert found.low == 3  # 3 + 1/C in whole neurons
    assert found.high == 10  # 3 + 12.02, capped
    assert chao2(counts=PAIR, cap=100).high == pytest.approx(3 + 12.0189, abs=1e-4)


def test_chao2_without_duplicates_is_bias_corrected():
    # A = 2/3, Q1 = 3, Q2 = 0: 3 + ⅔·3·2/2 = 5; variance ⅔·3 + 4/9·3·25/4 − 4/9·81/(4·5) = 2 + 25/3 − 9/5
    found = chao2(counts=np.array([90, 3, 0, 0]), cap=93)
    assert found.estimate == pytest.approx(5)
    assert found.variance == pytest.approx(2 + 25 / 3 - 9 / 5)


@pytest.mark.parametrize("counts", [[8, 0, 0, 2, 0], [8, 0, 2, 0, 0], [8, 1, 0, 0, 1]])
def test_chao2_adds_nothing_where_no_neuron_was_key_once_or_only_one_was(counts):
    found = chao2(counts=np.array(counts), cap=10)
    assert found.estimate == 2
    assert 2 <= found.low <= found.high <= 10


def test_chao2_census_by_hand():
    # two neurons key in 3 of 4 samples: e⁻³ of each missed; variance 2(e⁻³ − e⁻⁶) − (3·2·e⁻³)²/4
    found = chao2(counts=np.array([8, 0, 0, 2, 0]), cap=10)
    missed = np.exp(-3)
    variance = 2 * (missed - missed**2) - (6 * missed) ** 2 / 4
    assert found.variance == pytest.approx(variance)
    assert found.high == pytest.approx((2 + 1.959964 * np.sqrt(variance)) / (1 - missed), abs=1e-5)


def test_chao2_of_nothing_is_nothing_and_one_sample_is_refused():
    assert chao2(counts=np.array([5, 0, 0]), cap=5) == (0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="Chao2 needs two samples or more, found 1"):
        chao2(counts=np.array([5, 2]), cap=7)


def test_variance_by_hand():
    # α₁ = C(1,1)/C(2,1) = ½, α₂ = 0, S_est = 4: S(1) = 2, σ² = ¼·2 + 1 − 4/4; S(2) = 3, σ² = 3 − 9/4
    assert rarefied(counts=PAIR, m=1, cap=10) == (2.0, 0.5)
    assert rarefied(counts=PAIR, m=2, cap=10) == (3.0, 0.75)
    # with the estimate capped at 3 neurons nothing is left to find: σ²(2) = 3 − 9/3
    assert rarefied(counts=np.array([0, 2, 1]), m=2, cap=3) == (3.0, 0.0)


@pytest.mark.parametrize(("redrawn", "chances", "ratio"), [(True, (20, 300), 1.0), (False, (1, 8), 0.5)])
def test_variance_against_repeated_studies(redrawn, chances, ratio):
    """Right where the neurons' chances are drawn too, as Colwell et al. see it; cautious where they are fixed."""
    generator = np.random.default_rng(3)
    chance, found = generator.beta(*chances, size=300), []
    for _ in range(500):
        chance = generator.beta(*chances, size=300) if redrawn else chance
        incidence = (generator.random((40, 300)) < chance).sum(axis=0)
        found.append(rarefied(counts=counts_of(incidence, 40), m=20, cap=300))
    estimates, variances = np.array(found).T
    assert estimates.var(ddof=1) / variances.mean() == pytest.approx(ratio, rel=0.2)


def test_a_neuron_can_not_be_key_in_more_samples_than_there_are():
    with pytest.raises(ValueError, match="key in 3 samples, but there are only 2"):
        counts_of([3], 2)


@pytest.mark.parametrize(
    ("elevation", "observed", "asymptote", "t", "expected"),
    [
        ("50 m", 227, 279.108514, 299, 193.069392),
        ("1500 m", 56, 77.019375, 100, 47.982643),
        ("2000 m", 14, 14.248750, 100, 12.811923),
    ],
)
def test_published_ants(elevation, observed, asymptote, t, expected):
    counts = ants(elevation)
    assert counts.sum() == observed
    assert chao2(counts=counts, cap=1000).estimate == pytest.approx(asymptote, abs=1e-6)
    assert rarefied(counts=counts, m=t, cap=1000).estimate == pytest.approx(expected, abs=1e-6)


def test_rarefaction_is_the_mean_union_of_resampled_subsets():
    generator = np.random.default_rng(5)
    matrix = generator.random((300, 2000)) < generator.beta(0.3, 8, size=2000)
    unions = [matrix[generator.choice(300, 120, replace=False)].any(axis=0).sum() for _ in range(400)]
    expected = rarefied(counts=counts_of(matrix.sum(axis=0), 300), m=120, cap=2000).estimate
    assert expected == pytest.approx(np.mean(unions), abs=4 * np.std(unions) / np.sqrt(400))


def test_unseen_of_many_scopes_at_once_by_hand():
    # A = 3/4: ¾·4²/(2·2) = 3; without duplicates ¾·3·2/2 = 2.25; one unique or none adds nothing
    found = unseen(q1=np.array([4, 3, 1, 0]), q2=np.array([2, 0, 0, 5]), n=4)
    assert found.tolist() == [3.0, 2.25, 0.0, 0.0]
