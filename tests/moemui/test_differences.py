"""Differences of MUI: the paired jackknife by hand, by brute force and by simulation; alignment; means over tasks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moemui.key_neurons.key_sets import KeySets
from moemui.mui import differences
from moemui.mui.differences import aligned, difference, mean_difference, paired_mui
from moemui.mui.rarefaction import absent


def key_sets(table):
    """Key sets of a boolean table (samples, neurons), or of a list of lists of neurons."""
    listed = [np.flatnonzero(row) for row in table] if isinstance(table, np.ndarray) else table
    indptr = np.cumsum([0, *map(len, listed)]).astype(np.int64)
    return KeySets(indptr, np.array(list(itertools.chain.from_iterable(listed)), dtype=np.int32))


def test_by_hand_at_half_of_the_samples():
    # q = 2, 1, 1 of n = 4, m = 1: MUI(1) is the mean size, 4 entries / 4 samples / 10 neurons
    found = paired_mui(cells=[key_sets([[0], [0, 1], [], [2]])], n_neurons=[10], m=1)
    assert found.estimates == pytest.approx([0.1])
    # without each sample the mean size is 1, 2/3, 4/3, 1: deviations 0, −1/3, 1/3, 0, so 3/4 · 2/9 / 10²
    assert found.covariance == pytest.approx(np.array([[1 / 6 / 100]]))
    assert found.n_samples == 4


def test_by_hand_at_all_samples():
    # neuron 0 in both, 1 and 2 in one sample each, and pairs: {0, 1} share neuron 3, {0, 2} share neuron 4
    cell = key_sets([[0, 1, 2, 3, 4], [0, 3], [0, 4]])
    found = paired_mui(cells=[cell], n_neurons=[5], m=3)
    assert found.estimates == pytest.approx([1.0])
    # alone in a sample are 2, 0, 0: C1 = 2/3 · Σ(u − 2/3)² = 16/9; pairs are 1, 1, 0: C2 = 2 − 4/3 = 2/3
    assert found.covariance == pytest.approx(np.array([[(16 / 9 - 1 / 3) / 25]]))


def test_pairs_are_taken_off_at_most_once():
    # alone: 1, 0, 0 → C1 = 4/9; pairs: 3, 0, 0 → C2 = 9 − 3 = 6, more than C1, so half of C1 stays
    found = paired_mui(cells=[key_sets([[0, 1, 2, 3], [1, 2, 3], []])], n_neurons=[4], m=3)
    assert found.covariance == pytest.approx(np.array([[2 / 9 / 16]]))


def union_mean(table, m):
    """Mean size of the union over all subsets of m samples, by enumeration."""
    return np.mean([table[list(chosen)].any(axis=0).sum() for chosen in itertools.combinations(range(len(table)), m)])


@pytest.mark.parametrize("m", [1, 2, 3])
def test_brute_force_of_the_jackknife(m):
    generator = np.random.default_rng(m)
    tables = [generator.random((7, width)) < 0.3 for width in (12, 20)]
    found = paired_mui(cells=[key_sets(table) for table in tables], n_neurons=[12, 20], m=m)
    without = np.array([[union_mean(np.delete(t, s, 0), m) / t.shape[1] for s in range(7)] for t in tables])
    deviations = without - without.mean(axis=1, keepdims=True)
    assert found.estimates == pytest.approx([union_mean(t, m) / t.shape[1] for t in tables])
    assert found.covariance == pytest.approx(6 / 7 * deviations @ deviations.T)


@pytest.mark.parametrize("m", [4, 5, 7])
def test_brute_force_above_half_of_the_samples(m):
    generator = np.random.default_rng(m)
    table = generator.random((7, 15)) < 0.25
    (variance,) = paired_mui(cells=[key_sets(table)], n_neurons=[15], m=m).covariance.ravel()
    singles = np.array([union_mean(np.delete(table, s, 0), min(m, 6)) for s in range(7)])

    def both(s, t):
        # α of n − 2 samples at each number of the others that hold a neuron, over the neurons that s and t share
        shared = table[s] & table[t]
        alpha = np.append(absent(n=5, m=min(m, 5)), [0.0, 0.0])
        others = table[:, shared].sum(axis=0) - 2
        return (alpha[others] - 2 * alpha[others + 1] + alpha[others + 2]).sum()

    pairs = np.array([both(s, t) for s, t in itertools.combinations(range(7), 2)])
    first, second = 6 / 7 * ((singles - singles.mean()) ** 2).sum(), ((pairs - pairs.mean()) ** 2).sum()
    assert variance * 15**2 == pytest.approx(first - min(second, first) / 2, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000))
def test_properties(n, seed):
    generator = np.random.default_rng(seed)
    m = int(generator.integers(1, n + 1))
    tables = [generator.random((n, 15)) < share for share in (0.1, 0.3, 0.5)]
    found = paired_mui(cells=[key_sets(t) for t in tables], n_neurons=[15] * 3, m=m)
    assert np.linalg.eigvalsh(found.covariance).min() >= -1e-12
    order = generator.permutation(n)
    shuffled = paired_mui(cells=[key_sets(t[order]) for t in tables], n_neurons=[15] * 3, m=m)
    assert shuffled.covariance == pytest.approx(found.covariance, abs=1e-12)
    there, back = difference(paired=found, before=0, after=2), difference(paired=found, before=2, after=0)
    assert there.change.estimate == -back.change.estimate
    assert there.p == pytest.approx(back.p, nan_ok=True)


def test_a_long_task_is_read_in_parts(monkeypatch):
    table = np.random.default_rng(0).random((40, 30)) < 0.2
    whole = paired_mui(cells=[key_sets(table)], n_neurons=[30], m=15)
    monkeypatch.setattr(differences, "ENTRIES_AT_ONCE", 7)
    assert paired_mui(cells=[key_sets(table)], n_neurons=[30], m=15).covariance == pytest.approx(whole.covariance)


def test_what_two_cells_share_cancels():
    cell = key_sets([[0, 1], [1], [2, 3, 4], []])
    more = key_sets([[0, 1, 9], [1, 9], [2, 3, 4, 9], [9]])  # one neuron more in every sample
    same = difference(paired=paired_mui(cells=[cell, cell], n_neurons=[10, 10], m=2), before=0, after=1)
    assert same[:3] == ((0, 0, 0), 0, 1)
    shifted = difference(paired=paired_mui(cells=[cell, more], n_neurons=[10, 10], m=2), before=0, after=1)
    # the difference is the same whatever the samples, so nothing tells how sure it is
    assert shifted.change.estimate == pytest.approx(0.1)
    assert np.isnan([shifted.change.low, shifted.change.high, shifted.standard_error, shifted.p]).all()


@pytest.mark.parametrize("m", [7, 20, 40])
def test_rounding_is_no_spread(m):
    """Samples of three own neurons, then of five: the difference is the same without any one sample, at every m."""
    three, five = (key_sets(np.arange(40 * size).reshape(40, size).tolist()) for size in (3, 5))
    paired = paired_mui(cells=[three, five], n_neurons=[400, 400], m=m)
    assert paired.estimates == pytest.approx([3 * m / 400, 5 * m / 400])
    assert not difference(paired=paired, before=0, after=1).change.known


def test_identical_and_empty_samples():
    equal = key_sets([[0, 1]] * 5)
    empty = key_sets([[]] * 5)
    paired = paired_mui(cells=[equal, empty], n_neurons=[4, 4], m=5)
    assert paired.estimates.tolist() == [0.5, 0.0]
    assert paired.covariance.tolist() == [[0, 0], [0, 0]]
    assert not difference(paired=paired, before=0, after=1).change.known
    assert difference(paired=paired, before=1, after=1).change == (0, 0, 0)


def test_student_interval_and_p_by_hand():
    paired = differences.PairedMui(np.array([0.2, 0.3]), np.array([[0.0008, 0.0002], [0.0002, 0.0005]]), 11)
    found = difference(paired=paired, before=0, after=1)
    assert found.standard_error == pytest.approx(0.03)  # √(0.0008 + 0.0005 − 2·0.0002)
    assert found.change == pytest.approx((0.1, 0.1 - 2.228139 * 0.03, 0.1 + 2.228139 * 0.03))
    assert found.p == pytest.approx(0.0075, abs=2e-4)  # t = 3.33 on 10 degrees of freedom
    assert found.degrees == 10


def test_mean_difference_by_hand():
    tasks = [differences.Difference(differences.Change(d, 0, 0), e, 0, 50) for d, e in ((0.1, 0.03), (0.3, 0.04))]
    found = mean_difference(differences=tasks)
    assert (found.change.estimate, found.standard_error) == pytest.approx((0.2, 0.025))  # √(0.03² + 0.04²) / 2
    with pytest.raises(ValueError, match="give one or more that are known"):
        mean_difference(differences=[])
    with pytest.raises(ValueError, match="nan"):
        mean_difference(differences=[tasks[0]._replace(standard_error=np.nan)])


def test_aligned_puts_common_samples_in_one_order():
    first = np.array(["c", "a", "x", "b"]), key_sets([[3], [1, 5], [9], [2]])
    second = np.array(["b", "y", "c", "a"]), key_sets([[2], [], [3, 4], []])
    found = aligned(cells=[first, second])
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.positions.tolist() == [[1, 3, 0], [3, 0, 2]]
    split = [[one.neurons[i:j].tolist() for i, j in itertools.pairwise(one.indptr)] for one in found.sets]
    assert split == [[[1, 5], [2], [3]], [[], [2], [3, 4]]]
    assert aligned(cells=[first, (np.array(["a", "z"]), key_sets([[], []]))]) is None


def test_refusals():
    cell = key_sets([[0], [1], []])
    with pytest.raises(ValueError, match=r"cells have \[2, 3\] samples; all must hold the same ones"):
        paired_mui(cells=[cell, key_sets([[0], [1]])], n_neurons=[4, 4], m=1)
    with pytest.raises(ValueError, match="cells have 1 samples; the noise over samples takes two"):
        paired_mui(cells=[key_sets([[0]])], n_neurons=[4], m=1)
    for m in (0, 4):
        with pytest.raises(ValueError, match=f"m is {m}; rarefaction draws 1 to n = 3 samples"):
            paired_mui(cells=[cell], n_neurons=[4], m=m)
    with pytest.raises(ValueError, match="1 cells and 2 numbers of neurons"):
        paired_mui(cells=[cell], n_neurons=[4, 4], m=1)
    with pytest.raises(ValueError, match="2 sample ids and 3 key sets"):
        aligned(cells=[(np.array(["a", "b"]), cell)])
    with pytest.raises(ValueError, match="there is no cell to align"):
        aligned(cells=[])


class World:
    """Samples of several latent kinds; a kind gives each neuron its chance, alike but not the same in two cells."""

    def __init__(self, *, generator, kinds, neurons, level, spread):
        own = generator.normal(size=(2, kinds, neurons))
        shared = generator.normal(size=(kinds, neurons))
        logit = level + 1.5 * generator.normal(size=neurons) + spread * (0.7 * shared + 0.7 * own)
        self.chances = 1 / (1 + np.exp(-logit))
        self.kinds = generator.dirichlet(np.full(kinds, 2.0))
        self.generator = generator

    def truth(self, m):
        """Expected MUI of m samples in both cells, exact since samples are independent."""
        chance = np.einsum("k,cku->cu", self.kinds, self.chances)
        return (1 - (1 - chance) ** m).mean(axis=1)

    def draw(self, n):
        kind = self.generator.choice(len(self.kinds), size=n, p=self.kinds)
        common = self.generator.random((n, self.chances.shape[2]))
        # the second cell repeats the first one's luck in half of the neurons
        fresh = np.where(np.arange(common.shape[1]) % 2, common, self.generator.random(common.shape))
        return [luck < chances[kind] for luck, chances in zip((common, fresh), self.chances, strict=True)]


@pytest.mark.simulation
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5])
@pytest.mark.parametrize(("kinds", "level", "spread"), [(1, -6, 0.5), (6, -6, 2.5), (1, -4, 0.5), (6, -4, 2.5)])
def test_coverage(share, kinds, level, spread):
    generator = np.random.default_rng([kinds, -level])
    n, hits = 80, []
    m = int(share * n)
    for _ in range(4):
        world = World(generator=generator, kinds=kinds, neurons=1200, level=level, spread=spread)
        before, after = world.truth(m)
        for _ in range(120):
            paired = paired_mui(cells=[key_sets(t) for t in world.draw(n)], n_neurons=[1200] * 2, m=m)
            result = difference(paired=paired, before=0, after=1)
            hits.append(result.change.low <= after - before <= result.change.high)
    assert 0.92 <= np.mean(hits) <= 0.98
