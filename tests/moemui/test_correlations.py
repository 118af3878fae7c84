"""Correlations: published examples, resamples against copies of the data, coverage over cells and over clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from moemui.statistics import correlations as module
from moemui.statistics.correlations import STATISTICS, correlations, resampled

# Anscombe's first set
X = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5.0])
Y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])


def pair(a, b, seed=0, **options):
    vectors = np.array([a, b], dtype=float)
    return correlations(vectors=vectors, pairs=[(0, 1)], seed=seed, **options)[0]


def test_anscombes_first_set():
    # R: cor.test(anscombe$x1, anscombe$y1): r = 0.8164205, p = 0.00217; Spearman's rho = 0.8181818
    found = pair(X, Y)
    assert found["pearson"] == pytest.approx(0.8164205, abs=1e-7)
    assert found["pearson_p"] == pytest.approx(0.00217, abs=1e-5)
    assert found["spearman"] == pytest.approx(0.8181818, abs=1e-7)
    for name in STATISTICS:
        assert -1 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 1
        assert np.isnan(found[f"{name}_clustered_low"])
    assert (found["n_cells"], found["n_clusters"], found["note"]) == (11, 0, "")


def test_hollander_and_wolfes_tuna():
    # R: example(cor.test): tau = 0.4444444, p = 0.1194; r = 0.5711816, p = 0.1082
    found = pair([44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1], [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8])
    assert found["kendall"] == pytest.approx(0.4444444, abs=1e-7)
    assert found["kendall_p"] == pytest.approx(0.1194, abs=5e-5)
    assert found["pearson"] == pytest.approx(0.5711816, abs=1e-7)
    assert found["pearson_p"] == pytest.approx(0.1082, abs=5e-5)


def test_cosine_and_tau_by_hand():
    found = pair([1, 0, 0], [1, 1, 0])
    assert found["cosine"] == pytest.approx(0.5**0.5)
    # of three pairs one is concordant, none discordant; two are untied in a, two in b
    assert found["kendall"] == pytest.approx(1 / 2)


def test_a_monotone_curve_has_perfect_ranks_in_every_resample():
    found = pair(X, np.exp(X))
    for name in ("spearman", "kendall"):
        assert [found[name], found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx([1, 1, 1])
    assert found["pearson"] < 0.8


def copies_of(vectors, weights):
    return [np.repeat(vector, weights.astype(int)) for vector in vectors]


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 9), st.integers(0, 10**6))
def test_weights_give_what_copies_of_the_cells_give(cells, seed):
    rng = np.random.default_rng(seed)
    # few values, so that there are ties beside those of cells drawn twice
    vectors = np.add(rng.integers(-2, 3, size=(3, cells)), [[0], [0], [0.25]])
    weights = rng.multinomial(cells, np.full(cells, 1 / cells), size=4).astype(float)
    pairs = [(0, 1), (0, 2), (2, 1)]
    found = resampled(vectors=vectors, pairs=pairs, weights=weights)
    for row in range(4):
        drawn = copies_of(vectors, weights[row])
        for place, (a, b) in enumerate(pairs):
            got = {name: found[name][row, place] for name in STATISTICS}
            if np.ptp(drawn[a]) == 0 or np.ptp(drawn[b]) == 0:
                assert np.isnan([got["pearson"], got["spearman"], got["kendall"]]).all()
                continue
            assert got["pearson"] == pytest.approx(stats.pearsonr(drawn[a], drawn[b]).statistic)
            assert got["spearman"] == pytest.approx(stats.spearmanr(drawn[a], drawn[b]).statistic)
            assert got["kendall"] == pytest.approx(stats.kendalltau(drawn[a], drawn[b]).statistic)
            lengths = np.linalg.norm(drawn[a]) * np.linalg.norm(drawn[b])
            assert got["cosine"] == pytest.approx(drawn[a] @ drawn[b] / lengths)


def test_pairs_are_the_same_together_and_alone_and_in_parts(monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(4, 20))
    pairs = [(0, 1), (2, 3), (1, 3)]
    together = correlations(vectors=vectors, pairs=pairs, seed=5, clusters=np.arange(20) // 2)
    for (a, b), found in zip(pairs, together, strict=True):
        alone = correlations(vectors=vectors[[a, b]], pairs=[(0, 1)], seed=5, clusters=np.arange(20) // 2)[0]
        assert alone == pytest.approx(found)
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", 80)
    parts = correlations(vectors=vectors, pairs=pairs, seed=5, clusters=np.arange(20) // 2)
    assert [record["spearman_low"] for record in parts] == pytest.approx([r["spearman_low"] for r in together])


def test_the_interval_repeats_with_its_seed():
    first, again = (pair(X, Y, seed=3, clusters=X) for _ in range(2))
    assert first == again
    assert first["pearson_low"] != pair(X, Y, seed=4)["pearson_low"]


def test_clusters_of_one_cell_each_are_the_cells():
    found = pair(X, Y, clusters=np.arange(11))
    assert found["n_clusters"] == 11
    for name in STATISTICS:
        assert found[f"{name}_clustered_low"] == found[f"{name}_low"]
        assert found[f"{name}_clustered_high"] == found[f"{name}_high"]


def test_clusters_are_drawn_whole():
    # two cells of each cluster are the same, so a resample of clusters is one of half the cells
    half = pair(X, Y, clusters=np.arange(11), seed=2)
    twice = pair(np.repeat(X, 2), np.repeat(Y, 2), clusters=np.repeat(np.arange(11), 2), seed=2)
    for name in ("pearson", "cosine"):
        assert twice[f"{name}_clustered_low"] == pytest.approx(half[f"{name}_low"])
        assert twice[f"{name}_low"] > half[f"{name}_low"]


@pytest.mark.parametrize(
    ("a", "b", "note", "has_cosine"),
    [
        ([1, 2], [2, 1], "2 cells in common, a correlation or cosine needs 3", False),
        ([], [], "0 cells in common, a correlation or cosine needs 3", False),
        ([1, 1, 1, 1], [1, 2, 3, 4], "a vector is constant: no correlation", True),
        ([0, 0, 0], [1, 2, 3], "a vector is constant: no correlation; a vector is zero: no cosine", False),
    ],
)
def test_what_has_no_correlation_says_why(a, b, note, has_cosine):
    found = pair(a, b)
    assert found["note"] == note
    for name in ("pearson", "spearman", "kendall"):
        assert np.isnan([found[name], found[f"{name}_p"], found[f"{name}_low"], found[f"{name}_high"]]).all()
    assert np.isnan(found["cosine"]) != has_cosine
    assert np.isnan(found["cosine_low"]) != has_cosine


def test_three_cells_have_a_correlation_but_no_interval():
    found = pair([1.0, 2, 4], [1.0, 3, 2])
    assert (found["spearman"], found["kendall"]) == (pytest.approx(0.5), pytest.approx(1 / 3))
    assert np.isnan([found["pearson_low"], found["spearman_high"], found["kendall_low"]]).all()
    assert found["note"] == "too few cells for an interval: resamples are constant"


def test_few_clusters_have_no_clustered_interval_and_say_so():
    found = pair(X, Y, clusters=np.arange(11) % 4)
    assert found["note"] == "4 checkpoints in common, an interval over whole ones needs 5"
    assert np.isnan(found["pearson_clustered_low"])
    assert found["pearson_low"] < found["pearson"]


def test_fewer_resamples_of_kendalls_tau_are_said(monkeypatch):
    monkeypatch.setattr(module, "KENDALL_PRODUCTS", 300 * 11**2 * 3)
    found = pair(X, Y)
    assert found["note"] == "kendall: intervals from 300 resamples"
    monkeypatch.setattr(module, "KENDALL_PRODUCTS", 1)
    assert pair(X, Y)["note"] == "kendall: intervals from 200 resamples"
    assert found["kendall_low"] < found["kendall"] < found["kendall_high"]


@pytest.mark.parametrize("b", [[1.0, np.nan, 3], [1.0, np.inf, 3]])
def test_vectors_with_gaps_are_refused(b):
    with pytest.raises(ValueError, match="of which 1 values are not finite; all must be finite"):
        pair([1.0, 2, 3], b)


def test_clusters_of_other_cells_are_refused():
    with pytest.raises(ValueError, match=r"clusters of shape \(2,\) for 3 cells"):
        pair([1.0, 2, 3], [2.0, 1, 3], clusters=np.arange(2))


def test_no_pairs_no_records():
    assert correlations(vectors=np.ones((1, 5)), pairs=[], seed=0) == []


RHO = 0.7
SHIFT = 2.0  # of the vectors whose cosine is looked at
TRUE = {
    "pearson": RHO,
    "spearman": 6 / np.pi * np.arcsin(RHO / 2),
    "kendall": 2 / np.pi * np.arcsin(RHO),
    "cosine": (RHO + SHIFT**2) / (1 + SHIFT**2),
}


def normals(rng, n):
    a, b = rng.normal(size=(2, n))
    return np.array([a, RHO * a + np.sqrt(1 - RHO**2) * b])


def coverage(runs, clusters, size, common):
    """Share of intervals that hold the truth, by name and kind; common: part of the variance that a cluster shares."""
    rng, ends = np.random.default_rng(2), ["", "_clustered"]
    hits = {(name, which): 0 for name in TRUE for which in ends}
    member = np.repeat(np.arange(clusters), size)
    for seed in range(runs):
        vectors = np.sqrt(common) * normals(rng, clusters)[:, member]
        vectors = vectors + np.sqrt(1 - common) * normals(rng, clusters * size) + SHIFT
        found = correlations(vectors=vectors, pairs=[(0, 1)], seed=seed, clusters=member, resamples=400)[0]
        for name, which in hits:
            hits[name, which] += found[f"{name}{which}_low"] <= TRUE[name] <= found[f"{name}{which}_high"]
    return [{name: float(hits[name, which] / runs) for name in TRUE} for which in ends]


@pytest.mark.simulation
def test_intervals_over_independent_cells_cover_the_truth():
    over_cells, _ = coverage(500, clusters=70, size=1, common=0)
    assert all(0.92 <= share <= 0.98 for share in over_cells.values()), over_cells


@pytest.mark.simulation
def test_clustered_intervals_cover_what_those_over_cells_miss():
    over_cells, clustered = coverage(400, clusters=70, size=3, common=0.6)
    assert all(0.92 <= share <= 0.98 for share in clustered.values()), clustered
    assert all(share < 0.9 for share in over_cells.values()), over_cells
