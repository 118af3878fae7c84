"""Sets drawn from domains: sizes by hand, sets that share no sample, unions and sums by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from moemui.diversity import domain_sets

POOLS = [np.arange(0, 12), np.arange(20, 30), np.arange(40, 52)]


@pytest.mark.parametrize(
    ("sizes", "samples", "expected"),
    [
        ([200, 200, 400], None, (22, 6)),  # 200 // 6 = 33 = 22 + 11
        ([3000] * 4, None, (200, 10)),  # at most 200; 3000 // 300
        ([90_000] * 2, None, (200, 20)),  # at most 20 parts
        ([40, 40, 40], None, (4, 6)),
        ([20, 20, 20, 20], None, (4, 0)),  # one of each domain, and 20 // 6 = 3 parts are too few
        ([200, 200], 33, (33, 4)),  # 33 + 17 of 200
        ([200, 200], 34, (34, 0)),  # 34 + 17 of 200 leave three parts
        ([5, 9], 5, (5, 0)),
    ],
)
def test_plan_by_hand(sizes, samples, expected):
    assert domain_sets.plan(sizes=sizes, samples=samples) == expected


@pytest.mark.parametrize(
    ("sizes", "samples"), [([], None), ([50], None), ([50, 50, 50], 2), ([50, 20], 21), ([1, 1, 1], None)]
)
def test_plans_that_can_not_be_are_refused(sizes, samples):
    with pytest.raises(ValueError, match=rf"from {len(sizes)} domains, .* it takes two domains or more"):
        domain_sets.plan(sizes=sizes, samples=samples)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(8, 40), st.integers(0, 9))
def test_quotas_are_even_over_the_chosen_domains(domains, chosen, n, seed):
    chosen = min(chosen, domains)
    found = domain_sets.quota(domains=domains, chosen=chosen, n=n, rng=np.random.default_rng(seed))
    used = found[found > 0]
    assert (found.sum(), len(found), len(used)) == (n, domains, chosen)
    assert np.ptp(used) <= 1


def test_every_choice_of_domains_is_equally_likely():
    rng = np.random.default_rng(0)
    drawn = [tuple(domain_sets.quota(domains=4, chosen=2, n=2, rng=rng)) for _ in range(6000)]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 850  # 1000 expected, standard deviation 29


def test_sets_take_their_quota_of_each_domain_and_share_no_sample():
    quotas = [np.array([6, 0, 0]), np.array([3, 3, 0])]
    for seed in range(20):
        sets = domain_sets.disjoint_sets(pools=POOLS, quotas=quotas, rng=np.random.default_rng(seed))
        assert [[int(np.isin(one, pool).sum()) for pool in POOLS] for one in sets] == [[6, 0, 0], [3, 3, 0]]
        assert len(set(np.concatenate(sets))) == 12
    with pytest.raises(ValueError, match="domain 0 has 12 samples, the sets need 13; draw smaller sets"):
        domain_sets.disjoint_sets(pools=POOLS, quotas=[np.array([13, 0, 0])], rng=np.random.default_rng(0))


def test_draws_and_pairs_have_their_numbers_of_domains():
    rng = np.random.default_rng(3)
    sets = domain_sets.draw(pools=POOLS, n=6, draws=5, rng=rng)
    pairs = domain_sets.draw_pairs(pools=POOLS, n=6, pairs=4, rng=rng)
    assert (sets.shape, pairs.shape) == ((3, 5, 6), (2, 4, 2, 6))
    assert [{len(set(one // 20)) for one in some} for some in sets] == [{1}, {2}, {3}]
    assert all(len(set(pair.ravel())) == 12 for step in pairs for pair in step)
    assert [{tuple(len(set(one // 20)) for one in pair) for pair in step} for step in pairs] == [{(1, 2)}, {(2, 3)}]


def test_all_samples_of_a_domain_can_be_one_set():
    sets = domain_sets.draw(pools=POOLS[1:2], n=10, draws=3, rng=np.random.default_rng(0))
    assert [sorted(one) for one in sets[0]] == [list(range(20, 30))] * 3


def test_parts_are_disjoint_and_equally_large():
    parts = domain_sets.split(pools=POOLS, parts=5, rng=np.random.default_rng(1))
    assert [[len(pool) for pool in part] for part in parts] == [[2, 2, 2]] * 5
    together = np.concatenate([pool for part in parts for pool in part])
    assert len(set(together)) == 30
    assert set(together) <= set(np.concatenate(POOLS))


def test_sums_and_unions_by_brute_force(monkeypatch):
    rng = np.random.default_rng(5)
    dense = rng.poisson(0.3, (30, 40))
    dense[7] = 0  # a sample with an empty key set
    sets = np.array([rng.choice(30, 6, replace=False) for _ in range(9)] + [[7, 0, 1, 2, 3, 4]])
    matrix = sparse.csr_array(dense)
    expected = np.array([dense[one].sum(axis=0) for one in sets])
    monkeypatch.setattr(domain_sets, "ENTRIES_AT_ONCE", 200)  # so that sets come in several goes
    parts = list(domain_sets.set_sums(matrix=matrix, sets=sets))
    assert len(parts) > 1
    assert np.concatenate([part.toarray() for part in parts]).tolist() == expected.tolist()
    assert domain_sets.union_sizes(incidence=matrix, sets=sets).tolist() == (expected > 0).sum(axis=1).tolist()
    assert domain_sets.union_sizes(incidence=matrix, sets=np.array([[7]])).tolist() == [0]
