"""Sets of samples drawn from one or several domains, and what a set's samples have together.

A set has n samples, spread as evenly as they go over d domains chosen at random, without replacement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

MOST_SAMPLES = 200  # of a set, where not told otherwise
PARTS = 6  # that n leaves room for, where not told otherwise
FEWEST_PARTS, MOST_PARTS = 4, 20
ENTRIES_AT_ONCE = 20_000_000  # bounds the memory of sums over sets


class Plan(NamedTuple):
    """n samples a set, and the number of disjoint parts of all samples (0: too few samples for a test)."""

    n: int
    parts: int


def plan(*, sizes: Sequence[int], samples: int | None = None) -> Plan:
    """How many samples a set has and how many parts there are, for domains of these sizes.

    n, where `samples` is None: as many as leave six parts, each with room for a set of one domain and a set of two
    that share no sample (n + ⌈n/2⌉ of a domain), at most 200, at least one of each domain.
    Raises ValueError for fewer than two domains, or where n is below their number or above the smallest one's samples.
    """
    smallest, domains = min(sizes, default=0), len(sizes)
    n = max(domains, min(MOST_SAMPLES, 2 * (smallest // PARTS) // 3)) if samples is None else samples
    if domains < 2 or not domains <= n <= smallest:
        raise ValueError(
            f"sets of {n} samples from {domains} domains, the smallest of {smallest} samples; it takes two domains or "
            "more, at least one sample of each in a set, and all samples of a set in the smallest domain"
        )
    parts = min(MOST_PARTS, smallest // (n + -(-n // 2)))
    return Plan(n, parts if parts >= FEWEST_PARTS else 0)


def quota(*, domains: int, chosen: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples spread as evenly as they go over `chosen` random domains: int64, (domains,), sum n."""
    shares = np.zeros(domains, dtype=np.int64)
    places = rng.permutation(domains)[:chosen]
    shares[places] = n // chosen
    shares[places[: n % chosen]] += 1
    return shares


def disjoint_sets(
    *, pools: Sequence[np.ndarray], quotas: Sequence[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """One random set of samples a quota, none in two sets: int64 sample numbers, each set in random order.

    pools: the sample numbers of each domain. Raises ValueError where the quotas ask a domain for more than it has.
    """
    asked = np.sum(quotas, axis=0)
    for number, (pool, count) in enumerate(zip(pools, asked, strict=True)):
        if count > len(pool):
            raise ValueError(f"domain {number} has {len(pool)} samples, the sets need {count}; draw smaller sets")
    mixed = [rng.choice(pool, count, replace=False) for pool, count in zip(pools, asked, strict=True)]
    ends = np.cumsum([np.zeros_like(asked), *quotas], axis=0)
    return [
        rng.permutation(np.concatenate([pool[a:b] for pool, a, b in zip(mixed, first, last, strict=True)]))
        for first, last in itertools.pairwise(ends)
    ]


def draw(*, pools: Sequence[np.ndarray], n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """`draws` sets of n samples for each number of domains 1..D: int64, (D, draws, n)."""
    domains = len(pools)
    return np.array(
        [
            [
                disjoint_sets(pools=pools, quotas=[quota(domains=domains, chosen=d, n=n, rng=rng)], rng=rng)[0]
                for _ in range(draws)
            ]
            for d in range(1, domains + 1)
        ]
    )


def draw_pairs(*, pools: Sequence[np.ndarray], n: int, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of disjoint sets, the first of d domains and the second of d+1: int64, (D−1, pairs, 2, n)."""
    domains = len(pools)
    return np.array(
        [
            [
                disjoint_sets(
                    pools=pools,
                    quotas=[quota(domains=domains, chosen=chosen, n=n, rng=rng) for chosen in (d, d + 1)],
                    rng=rng,
                )
                for _ in range(pairs)
            ]
            for d in range(1, domains)
        ]
    )


def split(*, pools: Sequence[np.ndarray], parts: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """The pools cut at random into `parts` disjoint parts: a list of pools for each; what is left over is not used."""
    mixed = [rng.permutation(pool) for pool in pools]
    return [[pool[part::parts][: len(pool) // parts] for pool in mixed] for part in range(parts)]


def set_sums(*, matrix: sparse.csr_array, sets: np.ndarray) -> Iterator[sparse.csr_array]:
    """Sums of a matrix (samples, columns) over the samples of each set, some sets at a time: (sets, columns).

    sets: int64 sample numbers, (sets, n). Stored are the entries above 0 alone where the matrix has none below.
    """
    n = sets.shape[1]
    step = max(1, ENTRIES_AT_ONCE // (n * (matrix.nnz // max(1, matrix.shape[0]) + 1)))
    for start in range(0, len(sets), step):
        some = sets[start : start + step]
        ones, ends = np.ones(some.size, dtype=np.int64), np.arange(len(some) + 1) * n
        yield sparse.csr_array((ones, some.ravel(), ends), shape=(len(some), matrix.shape[0])) @ matrix


def union_sizes(*, incidence: sparse.csr_array, sets: np.ndarray) -> np.ndarray:
    """Columns that are stored in at least one of a set's samples: int64, (sets,).

    incidence: (samples, columns), without stored zeros. sets: int64 sample numbers, (sets, n).
    """
    marked = np.zeros(incidence.shape[1], dtype=bool)
    stored = np.split(incidence.indices, incidence.indptr[1:-1])
    sizes = np.empty(len(sets), dtype=np.int64)
    # on large models marking takes a tenth of the time of `set_sums`
    for number, one in enumerate(sets):
        marked[:] = False
        marked[np.concatenate([stored[sample] for sample in one])] = True
        sizes[number] = np.count_nonzero(marked)
    return sizes
