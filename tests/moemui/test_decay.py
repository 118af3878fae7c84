"""Utilization decay: the bounded laws against scipy and by hand, recovery of a known exponent, and what has no fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from moemui.geometry import Geometry, Layer
from moemui.key_neurons import files as key_neurons
from moemui.key_neurons.files import Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.laws import decay
from moemui.laws.decay import Comparison

SETTING = Setting("projection", "pairs", 0.01)
PLACES = {("m", "s"): (1e6, 1)}


def draws(alpha, *, n, size, xmin=1, seed=0):
    """Values of the bounded power law: int64, (size,)."""
    support = np.arange(xmin, n + 1)
    chance = support**-alpha
    return np.random.default_rng(seed).choice(support, size=size, p=chance / chance.sum())


def test_two_values_by_hand():
    # on {1, 2}: P(2)/P(1) = 2^−α = 25/75, so α = log2 3; Var(ln q) = 0.75·0.25·ln²2
    found = decay.power_law(incidence=np.repeat([1, 2], [75, 25]), n=2, xmin=1)
    assert found.alpha == pytest.approx(np.log2(3), abs=1e-3)
    assert found.alpha_se == pytest.approx(1 / (np.sqrt(100 * 0.75 * 0.25) * np.log(2)), rel=1e-3)
    assert found.alpha_high - found.alpha == pytest.approx(1.959964 * found.alpha_se, rel=1e-6)
    assert (found.xmin, found.n_tail) == (1, 100)
    assert found.ks == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("alpha", "n", "xmin"), [(0.6, 200, 1), (1.0, 200, 4), (2.5, 1000, 1)])
def test_the_fit_is_the_maximum_of_scipys_zipfian_likelihood(alpha, n, xmin):
    values = draws(alpha, n=n, size=2000, xmin=xmin)
    found = decay.power_law(incidence=values, n=n, xmin=xmin)

    def cost(a):
        if xmin == 1 and a > 0:
            return -stats.zipfian.logpmf(values, a, n).sum()
        support = np.arange(xmin, n + 1)
        return a * np.log(values).sum() + len(values) * np.log((support**-a).sum())

    oracle = optimize.minimize_scalar(cost, bounds=(0.05, 5), method="bounded", options={"xatol": 1e-8})
    assert found.alpha == pytest.approx(oracle.x, abs=2e-3)
    # observed information by a second difference
    step = 1e-3
    curvature = (cost(oracle.x + step) - 2 * cost(oracle.x) + cost(oracle.x - step)) / step**2
    assert found.alpha_se == pytest.approx(curvature**-0.5, rel=5e-3)


def test_the_distance_is_that_of_the_distribution_functions():
    values = draws(1.5, n=50, size=300)
    found = decay.power_law(incidence=values, n=50, xmin=1)
    support = np.arange(1, 51)
    chance = support**-found.alpha
    theory = np.cumsum(chance) / chance.sum()
    empirical = np.searchsorted(np.sort(values), support, side="right") / len(values)
    # powerlaw compares P(q < k) at the values that occur
    seen = np.isin(support, values)
    below = np.abs(np.concatenate([[0], theory[:-1]]) - np.concatenate([[0], empirical[:-1]]))
    assert found.ks == pytest.approx(below[seen].max(), abs=1e-9)


def test_alternatives_have_scipys_likelihoods():
    n, values = 60, np.sort(draws(1.2, n=60, size=400))
    found = decay.compare(incidence=values, n=n, xmin=1)
    support = np.arange(1, n + 1)

    def likelihood(logarithms):
        return (logarithms - np.logaddexp.reduce(logarithms))[values - 1].sum()

    alpha = decay.power_law(incidence=values, n=n, xmin=1).alpha
    own = likelihood(-alpha * np.log(support))
    best = -optimize.minimize_scalar(lambda rate: -likelihood(-rate * support), bounds=(0, 2), method="bounded").fun
    assert found["exponential"].ratio == pytest.approx(own - best, abs=1e-3)
    cut = optimize.minimize(
        lambda p: -likelihood(-p[0] * np.log(support) - p[1] * support), [1, 0.01], bounds=[(0, 9), (0, 2)]
    )
    assert found["truncated_power_law"].ratio == pytest.approx(own + cut.fun, abs=1e-2)
    ratio = found["truncated_power_law"].ratio
    assert found["truncated_power_law"].p == pytest.approx(stats.chi2.sf(-2 * ratio, 1), abs=1e-6)
    assert found["exponential"].p < 1e-6
    assert decay.verdict(comparisons=found).startswith("power law")


def test_draws_of_an_alternative_are_told_from_a_power_law():
    support = np.arange(1, 201)
    chance = np.exp(-0.05 * support)
    values = np.random.default_rng(0).choice(support, size=1500, p=chance / chance.sum())
    found = decay.compare(incidence=values, n=200, xmin=1)
    assert found["exponential"].ratio < 0
    assert found["exponential"].p < 1e-6
    assert "exponential" in decay.verdict(comparisons=found)
    tail = decay.power_law(incidence=values, n=200, xmin=1)
    assert decay.fit_probability(tail=tail, n=200, seed=0, draws=30) == pytest.approx(1 / 31)


def test_the_bound_decides_for_a_power_law_that_fills_its_range():
    values = draws(0.8, n=200, size=800)
    found = decay.compare(incidence=values, n=200, xmin=1)
    assert found["exponential"].ratio > 50
    assert found["lognormal"].ratio <= 0  # it has the power law as its limit
    assert decay.verdict(comparisons=found) == "power law or log-normal"


@pytest.mark.parametrize(
    ("lognormal", "exponential", "truncated", "expected"),
    [
        (Comparison(-1, 0.4), Comparison(90, 0.0), Comparison(-1, 0.2), "power law or log-normal"),
        (Comparison(-1, 0.4), Comparison(9, 0.05), Comparison(-1, 0.2), "power law or log-normal or exponential"),
        (Comparison(-9, 0.01), Comparison(90, 0.0), Comparison(-1, 0.2), "log-normal"),
        (Comparison(-1, 0.4), Comparison(-9, 0.01), Comparison(-9, 0.0), "exponential or truncated power law"),
    ],
)
def test_verdicts(lognormal, exponential, truncated, expected):
    found = {"lognormal": lognormal, "exponential": exponential, "truncated_power_law": truncated}
    assert decay.verdict(comparisons=found) == expected


def test_the_tail_is_found_where_the_power_law_begins():
    flat = np.random.default_rng(1).integers(1, 10, size=1000)
    tail = draws(2.2, n=300, size=1500, xmin=10, seed=2)
    found = decay.best_tail(incidence=np.concatenate([flat, tail, np.zeros(50, dtype=int)]), n=300)
    assert 9 <= found.xmin <= 14
    assert found.alpha == pytest.approx(2.2, abs=0.15)


def test_a_tail_that_does_not_decay_has_no_fit():
    rising = np.repeat(np.arange(1, 21), np.arange(1, 21))
    assert decay.power_law(incidence=rising, n=20, xmin=1) is None
    assert decay.best_tail(incidence=rising, n=20) is None


def test_ranks_by_hand():
    q = np.array([0, 1, 4, 2, 2, 0, 3])
    found = decay.ranks(incidence=q, n=4, tail=None)
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]
    assert found["incidence"].tolist() == [1.0, 0.75, 0.5, 0.5, 0.25]
    assert found["fitted"].isna().all()
    many = decay.ranks(incidence=np.arange(1, 5001), n=5000, tail=None)
    assert len(many) <= 60
    assert many["rank"].iloc[[0, -1]].tolist() == [1, 5000]
    assert decay.ranks(incidence=np.zeros(3, dtype=int), n=4, tail=None).empty


def test_the_fitted_curve_follows_its_own_draws():
    values = draws(1.4, n=400, size=4000)
    tail = decay.power_law(incidence=values, n=400, xmin=1)
    found = decay.ranks(incidence=values, n=400, tail=tail)
    # the curve is smooth, incidence an integer: they part where few ranks, or few samples, make steps
    inner = found[(found["rank"] >= 100) & (found["incidence"] >= 5 / 400)]
    assert len(inner) > 15
    assert (inner["fitted"] / inner["incidence"]).between(0.8, 1.25).all()
    assert found["fitted"].is_monotonic_decreasing


def written(tmp_path, sets, *, task="add", correct=None):
    """A key neuron file of one layer of 400 neurons with these key sets, opened."""
    n = len(sets)
    samples = Samples(
        id=np.array([f"{task}-{i}" for i in range(n)], dtype=object),
        domain=np.array(["math"] * n, dtype=object),
        correct=np.full(n, 1, dtype=np.int8) if correct is None else correct,
        response_tokens=np.ones(n, dtype=np.int32),
    )
    geometry = Geometry((Layer(index=0, routed=4, shared=0, width=100, shared_width=0, top_k=1),))
    indptr = np.concatenate([[0], np.cumsum([len(chosen) for chosen in sets])]).astype(np.int64)
    flat = np.concatenate([*sets, np.empty(0, dtype=np.int64)]).astype(np.int64)
    path = tmp_path / f"{task}.h5"
    key_neurons.write(
        path, model="m", checkpoint="s", task=task, geometry=geometry, samples=samples,
        sets={SETTING: KeySets(indptr, flat)}, routed_tokens=np.zeros((1, 4), dtype=np.int64),
    )  # fmt: skip
    return key_neurons.read(path)


def drawn_sets(samples, seed):
    """Key sets in which neuron u is key with chance (u + 1)^−0.7."""
    chance = np.arange(1, 401) ** -0.7
    return [np.flatnonzero(row < chance) for row in np.random.default_rng(seed).random((samples, 400))]


def test_rows_of_tasks_and_of_all_tasks(tmp_path):
    files = [written(tmp_path, drawn_sets(60, seed), task=task) for seed, task in enumerate(("add", "sort"))]
    found, curves = decay.rows(key_neurons=files, setting=SETTING, places=PLACES)
    found = found.set_index("task")
    assert list(found.index) == ["add", "sort", "all"]
    assert found["n_samples"].tolist() == [60, 60, 120]
    q = [file.sets(*SETTING).incidence(400) for file in files]
    assert found.loc["all", "q_max"] == int((q[0] + q[1]).max())
    assert found.loc["add", "n_key"] == int((q[0] > 0).sum())
    assert found["alpha"].notna().all()
    assert found["p_fit"].between(0, 1).all()
    assert (found["alpha_low"] < found["alpha"]).all()
    assert set(found["note"]) == {decay.CAVEAT}
    assert (found["best"] != "").all()
    share = curves[curves["task"] == "all"].set_index("rank")["incidence"]
    assert share.loc[1] == pytest.approx((q[0] + q[1]).max() / 120)
    again, _ = decay.rows(key_neurons=files, setting=SETTING, places=PLACES)
    assert again.set_index("task").equals(found)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        (drawn_sets(1, 0), "1 sample: incidence has no distribution"),
        ([[0, 1, 2]] * 9, "needs 50 key neurons, found 3"),
        ([np.arange(80)] * 9, "needs 3 values of incidence, found 1"),
        ([[]] * 9, "needs 50 key neurons, found 0"),
    ],
    ids=["one sample", "few neurons", "identical samples", "empty responses"],
)
def test_what_has_no_fit_says_why(tmp_path, sets, reason):
    found, curves = decay.rows(key_neurons=[written(tmp_path, sets)], setting=SETTING, places=PLACES)
    assert found["note"].tolist() == [reason] * 2
    assert found["alpha"].isna().all()
    assert found["best"].tolist() == ["", ""]
    assert curves["fitted"].isna().all()
    assert len(curves) == 0 or set(curves["note"]) == {"no power law is fitted"}


def test_no_files_and_wrong_input():
    found, curves = decay.rows(key_neurons=[], setting=SETTING, places={})
    assert found.empty
    assert curves.empty
    with pytest.raises(ValueError, match="a neuron is key in 7 samples, but there are only 5"):
        decay.power_law(incidence=np.array([1, 7]), n=5, xmin=1)
    with pytest.raises(ValueError, match="the tail from xmin = 3 has 1 values; a law takes two or more"):
        decay.power_law(incidence=np.array([1, 3, 3]), n=5, xmin=3)
    with pytest.raises(ValueError, match="xmin is 0"):
        decay.power_law(incidence=np.array([1, 3]), n=5, xmin=0)


def test_a_task_named_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a task is named 'all'"):
        decay.rows(key_neurons=[written(tmp_path, drawn_sets(5, 0), task="all")], setting=SETTING, places=PLACES)


@pytest.mark.simulation
@pytest.mark.parametrize("alpha", [0.7, 1.8])
def test_the_interval_holds_its_level_and_the_probability_is_cautious(alpha):
    held, rejected, rounds = 0, 0, 500
    for seed in range(rounds):
        values = draws(alpha, n=200, size=300, seed=seed)
        tail = decay.power_law(incidence=values, n=200, xmin=1)
        held += tail.alpha_low <= alpha <= tail.alpha_high
        if seed < 60:
            rejected += decay.fit_probability(tail=tail, n=200, seed=seed, draws=19) <= 0.05
    assert 0.92 <= held / rounds <= 0.98
    assert rejected <= 9  # 3 expected of 60
