"""MUI: rarefaction against enumeration of all subsets, Chao2 and its variance by hand, rows of a file."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.analyses import utilization
from moemui.analyses.key_neurons import Samples, read, write
from moemui.analyses.key_sets import KeySets
from moemui.analyses.settings import Setting
from moemui.analyses.utilization import (
    absent,
    chao2,
    common_samples,
    frequency_counts,
    mui_at,
    rarefied,
    saturation_curve,
)
from moemui.geometry import Geometry, Layer

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
    # A = 1/2: 3 + ½·2²/2 = 4; variance 1·(½·2²/2 + ¼·2³ + ¼·2⁴/4) = 1 + 2 + 1; C = exp(1.96·√ln(1 + 4/1²)) = 12.0206
    found = chao2(counts=PAIR, cap=10)
    assert (found.estimate, found.variance) == (4.0, 4.0)
    assert found.low == pytest.approx(3 + 1 / 12.0147, abs=1e-4)
    assert found.high == pytest.approx(10)  # 3 + 12.01, capped


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


def test_mui_is_a_share_of_all_neurons():
    assert utilization.mui(n_key=3, n_neurons=12) == 0.25
    with pytest.raises(ValueError, match="13 key neurons of 12"):
        utilization.mui(n_key=13, n_neurons=12)
    with pytest.raises(ValueError, match="0 key neurons of 0"):
        utilization.mui(n_key=0, n_neurons=0)


def test_a_neuron_can_not_be_key_in_more_samples_than_there_are():
    with pytest.raises(ValueError, match="key in 3 samples, but there are only 2"):
        counts_of([3], 2)


def test_common_samples_skips_empty_cells():
    assert common_samples([200, 40, 0]) == 40
    assert common_samples([0]) is None


# One layer of two routed experts of 3 neurons and a shared one of 4; layer 3 of the model.
MIXED = Geometry((Layer(3, 2, 1, 3, 4, 1),))
PROJECTION = Setting("projection", "pairs", 0.1)


@pytest.fixture
def file(tmp_path):
    def make(geometry=MIXED, correct=(1, 0, 1), lists=((0, 6), (0, 7), ())):
        indptr = np.concatenate([[0], np.cumsum([len(own) for own in lists])]).astype(np.int64)
        n = len(lists)
        path = tmp_path / "key_neurons.h5"
        write(
            path,
            model="m",
            checkpoint="c",
            task="t",
            geometry=geometry,
            samples=Samples(
                id=np.array([f"t-{i}" for i in range(n)], dtype=object),
                domain=np.array(["math"] * n, dtype=object),
                correct=np.array(correct, dtype=np.int8),
                response_tokens=np.arange(1, n + 1, dtype=np.int32),
            ),
            sets={PROJECTION: KeySets(indptr, np.array([u for own in lists for u in own], dtype=np.int32))},
            routed_tokens=np.zeros((len(geometry.layers), geometry.layers[0].routed), dtype=np.int64),
        )
        return read(path)

    return make


def rows(key_neurons, common_m):
    frame = utilization.rows(key_neurons=key_neurons, tokens=1e6, order=2, common_m=common_m)
    return frame.set_index(["samples", "scope"])


def test_rows_of_a_file_by_hand(file):
    found = rows(file(), {"all": 2, "correct": 2})
    assert found.index.tolist() == [(s, x) for s in ("all", "correct") for x in ("total", "routed", "shared", "layer")]
    assert found.loc["all", "n_key"].tolist() == [3, 1, 2, 3]
    assert found.loc["all", "n_neurons"].tolist() == [10, 6, 4, 10]
    assert found.loc["all", "mui"].tolist() == pytest.approx([0.3, 1 / 6, 0.5, 0.3])
    assert found.loc["all", "n_samples"].unique().tolist() == [3]  # the sample with the empty set counts
    assert found.loc["all", "n_response_tokens"].unique().tolist() == [6]
    assert found.loc[("all", "layer"), "layer"] == 3
    # unions of the three pairs: {0,6,7}, {0,6}, {0,7}: 7/3 neurons of 10
    assert found.loc[("all", "total"), "mui_at_m"] == pytest.approx(7 / 30)
    assert found.loc[("all", "total"), ["q1", "q2"]].tolist() == [2, 1]
    assert found.loc["correct", "n_key"].tolist() == [2, 1, 1, 2]
    assert found["note"].eq("").all()
    total = found.loc[("all", "total")]
    half = (total["mui_at_m_high"] - total["mui_at_m_low"]) / 2
    assert half <= 1.96 * total["mui_at_m_se"] + 1e-9


def test_no_correct_answers_keep_a_row_with_a_reason(file):
    found = rows(file(correct=(0, 0, -1)), {"all": 3})
    assert found.loc["correct", "n_samples"].eq(0).all()
    assert found.loc["correct", "mui"].isna().all()
    assert found.loc["correct", "n_key"].isna().all()
    assert found.loc["correct", "note"].unique().tolist() == ["no correct answers"]
    assert found.loc["all", "mui_at_m"].tolist() == pytest.approx(found.loc["all", "mui"].tolist())


def test_a_cell_with_fewer_samples_than_the_common_m_says_so(file):
    found = rows(file(), {"all": 3, "correct": 3})
    assert found.loc["correct", "mui_at_m"].isna().all()
    assert found.loc[("correct", "total"), "note"] == "fewer than 3 samples, so not comparable at the common m"
    assert rows(file(), {}).loc[("all", "total"), "note"] == "no common m"


def test_one_sample_has_mui_but_no_interval_and_no_asymptote(file):
    found = rows(file(correct=(1,), lists=((0, 6),)), {"all": 1, "correct": 1}).loc[("all", "total")]
    assert (found["mui"], found["mui_at_m"]) == (0.2, 0.2)
    assert pd.isna(found[["mui_at_m_low", "mui_at_m_high", "mui_at_m_se", "chao2", "chao2_low"]]).all()
    assert found["note"] == "one sample: no interval and no asymptote"


def test_empty_responses_everywhere_are_a_mui_of_zero(file):
    found = rows(file(lists=((), (), ())), {"all": 3, "correct": 2})
    assert found["mui"].tolist() == [0.0] * 8
    assert found["chao2_high"].tolist() == [0.0] * 8


@pytest.mark.parametrize(
    ("layer", "scopes"),
    [(Layer(0, 2, 0, 5, 0, 1), ["total", "routed", "layer"]), (Layer(0, 0, 1, 0, 10, 0), ["total", "shared", "layer"])],
)
def test_a_scope_without_neurons_has_no_row(file, layer, scopes):
    found = rows(file(Geometry((layer,))), {"all": 3, "correct": 2})
    assert found.loc["all"].index.tolist() == scopes


def test_saturation_rows_start_at_one_sample_and_end_at_the_union(file):
    found = utilization.saturation_rows(key_neurons=file(), tokens=None, order=0)
    assert found["m"].tolist() == [1, 2, 3]
    assert found["mui"].tolist() == pytest.approx([4 / 30, 7 / 30, 3 / 10])
    assert (found["low"] <= found["mui"]).all()
    assert (found["mui"] <= found["high"]).all()


def test_saturation_points_are_few_and_hold_both_ends():
    points = utilization.saturation_points(10_000)
    assert (points[0], points[-1]) == (1, 10_000)
    assert len(points) <= 40
    assert utilization.saturation_points(0) == []
