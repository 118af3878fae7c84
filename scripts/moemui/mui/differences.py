"""Differences of MUI between cells, with the noise that comes from the samples alone.

A cell is a task's key sets at one checkpoint of one model. Cells that hold the same samples are compared in pairs: a
sample that brings many neurons at one checkpoint mostly does so at the next, and what they share cancels.

Why not the variance of `rarefaction.rarefied` (Colwell et al. 2012)? It takes each neuron for a draw of its own from
all there could be and knows nothing of pairs. The neurons of a model are always the same ones, which makes it too wide,
and a sample brings many of them at once, which makes it too narrow; which of the two wins differs from study to study.
It stays beside every single MUI (SPEC section 4). Differences rest on the jackknife over samples: it assumes neither.
Written here because neither scipy nor statsmodels has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from moemui.key_neurons.key_sets import KeySets
from moemui.mui.rarefaction import absent
from moemui.statistics.intervals import CONFIDENCE, Change

NEGLIGIBLE = 0.01  # weight, of 1, below which a neuron says nothing about pairs: 0.1 % of a standard error
ENTRIES_AT_ONCE = 2**21  # bounds memory
ROUNDING = 1e-12  # share of a number that floating point may make up


class PairedMui(NamedTuple):
    """MUI of several cells over the same samples.

    estimates: expected MUI of m samples in each cell, 0..1: float64, (cells,).
    covariance: of the estimates, over samples, positive semidefinite: float64, (cells, cells).
    n_samples: the samples that both rest on.
    """

    estimates: np.ndarray
    covariance: np.ndarray
    n_samples: int


class Difference(NamedTuple):
    """A difference after − before: with its interval, standard error and two-sided p-value.

    degrees: of freedom of Student's t behind both, the samples less one.
    """

    change: Change
    standard_error: float
    p: float
    degrees: int


class Aligned(NamedTuple):
    """The samples that several cells share, in one order.

    ids: (common,), ascending. positions: where each stands in its cell: int64, (cells, common). sets: the cells' key
    sets of these samples in this order.
    """

    ids: np.ndarray
    positions: np.ndarray
    sets: tuple[KeySets, ...]


def aligned(*, cells: Sequence[tuple[np.ndarray, KeySets]]) -> Aligned | None:
    """The common samples of one or more cells, each given as (sample ids, key sets); None for fewer than two.

    Raises ValueError for no cell, or a cell with another number of ids than of sets.
    """
    if not cells:
        raise ValueError("there is no cell to align; give at least one")
    for ids, sets in cells:
        if len(ids) != sets.n_samples:
            raise ValueError(f"a cell has {len(ids)} sample ids and {sets.n_samples} key sets; give one id a set")
    common = reduce(np.intersect1d, [np.unique(ids) for ids, _ in cells])
    if len(common) < 2:
        return None
    positions = np.array([_positions(ids, common) for ids, _ in cells])
    taken = tuple(_taken(sets, where) for (_, sets), where in zip(cells, positions, strict=True))
    return Aligned(common, positions, taken)


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    order = np.argsort(ids, kind="stable")
    return order[np.searchsorted(ids, wanted, sorter=order)]


def _taken(sets: KeySets, positions: np.ndarray) -> KeySets:
    """The sets at some positions, in their order."""
    sizes = np.diff(sets.indptr)[positions]
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    # entry e of sample s moves from indptr[positions[s]] + e to indptr[s] + e
    entries = np.arange(indptr[-1]) + np.repeat(sets.indptr[positions] - indptr[:-1], sizes)
    return KeySets(indptr, sets.neurons[entries])


def paired_mui(*, cells: Sequence[KeySets], n_neurons: Sequence[int], m: int) -> PairedMui:
    """Expected MUI of m of n samples in each cell, and the covariance of these numbers over samples.

    cells: key sets of the same n samples in the same order. n_neurons: Σ M_l of each cell's model.
    Estimates: S(m) / Σ M_l, S(m) as in `rarefaction.rarefied`. S(m) is a U-statistic of the samples, so leaving samples
    out is exact and cheap: without s, q_u becomes q_u − 1 for u in K(s), and n becomes n − 1.
    Covariance: with θ_(s) the cells' MUI without sample s (of min(m, n − 1) samples), the jackknife
    C1 = (n−1)/n · Σ_s (θ_(s) − mean)(θ_(s) − mean)ᵀ; for m = n the one of Heltshe & Forrester 1983. It is biased upward
    (Efron & Stein 1981): what k samples do only together counts k times. That hardly matters to m ≤ n/2, where C1 is
    returned, but at m = n it doubles a nearly saturated union's variance, and 95 % intervals hold 99 %. So above n/2
    the pairs are taken off. With D_ss' the cells' second differences (at m = n: the share of neurons that are key in
    s and s' alone), C2 = Σ_{s<s'} (D_ss' − mean)(D_ss' − mean)ᵀ. C1 and C1 − C2 are the first partial sums of an
    alternating series (Bonferroni), the truth lies between, and their middle is returned, in each direction with C2 at
    most C1. Simulated with samples of one or six kinds: the variance is 1.1 to 1.3 of the true one at m = n/2, 3n/4 and
    n, and 95 % intervals hold 95 to 97 %; with fewer than 30 samples 91 to 95 %.
    Raises ValueError for cells of unequal numbers of samples, n < 2, or m outside 1..n.
    """
    if len(cells) != len(n_neurons) or not cells:
        raise ValueError(f"{len(cells)} cells and {len(n_neurons)} numbers of neurons; give one number a cell")
    found = sorted({cell.n_samples for cell in cells})
    if len(found) > 1:
        raise ValueError(f"cells have {found} samples; all must hold the same ones, so align them first")
    (n,) = found
    if n < 2:
        raise ValueError(f"cells have {n} samples; the noise over samples takes two or more")
    if not 1 <= m <= n:
        raise ValueError(f"m is {m}; rarefaction draws 1 to n = {n} samples")
    incidences = [cell.incidence(width) for cell, width in zip(cells, n_neurons, strict=True)]
    widths = np.array(n_neurons, dtype=float)
    estimates = 1 - np.array([absent(n=n, m=m)[incidence].sum() for incidence in incidences]) / widths
    singles = np.array([_losses(cell, q, m) for cell, q in zip(cells, incidences, strict=True)]) / widths[:, None]
    # what rounding leaves of losses that are all the same is no spread, or any difference would look certain
    rounding = ROUNDING * np.abs(singles).max(axis=1, keepdims=True)
    singles -= singles.mean(axis=1, keepdims=True)
    singles[np.abs(singles) <= rounding] = 0.0
    first = (n - 1) / n * singles @ singles.T
    if 2 * m <= n or n < 3:
        return PairedMui(estimates, first, n)
    pairs = [_pair_losses(cell, q, m) / width for cell, q, width in zip(cells, incidences, widths, strict=True)]
    products = np.array([[a.multiply(b).sum() for b in pairs] for a in pairs])
    sums = np.array([a.sum() for a in pairs])
    second = products - np.outer(sums, sums) / (n * (n - 1) / 2)
    return PairedMui(estimates, _middle(first, second), n)


def _losses(sets: KeySets, incidence: np.ndarray, m: int) -> np.ndarray:
    """What each sample's absence takes from S(min(m, n − 1)), up to a constant: float64, (samples,)."""
    n = sets.n_samples
    # a neuron that is key in all n samples is never missed by the others: α of n is 0
    missed = np.append(absent(n=n - 1, m=min(m, n - 1)), 0.0)
    loss = missed[np.maximum(incidence - 1, 0)] - missed[incidence]
    found = np.empty(n)
    at_once = max(1, n * ENTRIES_AT_ONCE // max(len(sets.neurons), 1))
    for first in range(0, n, at_once):
        ends = sets.indptr[first : first + at_once + 1]
        sample = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        weights = loss[sets.neurons[ends[0] : ends[-1]]]
        found[first : first + at_once] = np.bincount(sample, weights=weights, minlength=len(ends) - 1)
    return found


def _pair_losses(sets: KeySets, incidence: np.ndarray, m: int) -> sparse.csr_array:
    """What each pair of samples s < s' adds to S(m) only together: sparse, (samples, samples)."""
    n = sets.n_samples
    missed = np.concatenate([absent(n=n - 2, m=min(m, n - 2)), [0.0, 0.0]])
    weights = np.zeros(n + 1)
    weights[2:] = missed[:-2] - 2 * missed[1:-1] + missed[2:]
    weight = weights[incidence]
    # m > n/2, so a neuron says at most half as much with every further sample: only those of few samples matter
    entries = np.flatnonzero((weight > NEGLIGIBLE)[sets.neurons])
    kept, numbers = np.unique(sets.neurons[entries], return_inverse=True)
    shape = (n, len(kept))
    where = (np.searchsorted(sets.indptr, entries, side="right") - 1, numbers)
    held = sparse.csr_array((np.ones(len(entries)), where), shape=shape)
    together = sparse.csr_array((weight[kept][numbers], where), shape=shape) @ held.T
    return sparse.triu(together, k=1, format="csr")


def _middle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """C1 − min(C2, C1) / 2, the minimum taken along the directions in which C1 and C2 are both diagonal."""
    values, vectors = np.linalg.eigh(first)
    present = values > values.max() * ROUNDING
    root = vectors[:, present] * np.sqrt(values[present])
    inverse = vectors[:, present] / np.sqrt(values[present])
    shares, directions = np.linalg.eigh(inverse.T @ second @ inverse)
    half = root @ directions * np.sqrt(1 - np.clip(shares, 0, 1) / 2)
    return half @ half.T


def _tested(estimate: float, variance: float, degrees: int) -> Difference:
    """Student's interval and test. Where nothing varies, 0 stays 0 and another difference has no interval (NaN)."""
    error = float(np.sqrt(variance))
    if error == 0:
        same = estimate == 0
        gap = 0.0 if same else float("nan")
        return Difference(Change(estimate, gap, gap), gap, 1.0 if same else gap, degrees)
    margin = float(stats.t.ppf(0.5 + CONFIDENCE / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, degrees))
    return Difference(Change(estimate, estimate - margin, estimate + margin), error, p, degrees)


def difference(*, paired: PairedMui, before: int, after: int) -> Difference:
    """MUI of the cell `after` − that of `before`, over the same samples; before and after: numbers of cells."""
    covariance = paired.covariance
    own = covariance[before, before] + covariance[after, after]
    variance = own - 2 * covariance[before, after]
    # what rounding leaves where the two cells' errors are the same is no variance
    known = variance if variance > own * ROUNDING else 0.0
    return _tested(float(paired.estimates[after] - paired.estimates[before]), float(known), paired.n_samples - 1)


def mean_difference(*, differences: Sequence[Difference]) -> Difference:
    """Mean of the differences of several tasks. Their samples are independent, so variances add.

    Raises ValueError for no differences, or one without a standard error.
    """
    errors = np.array([found.standard_error for found in differences])
    if not len(errors) or np.isnan(errors).any():
        raise ValueError(f"standard errors of the differences are {errors.tolist()}; give one or more that are known")
    estimate = float(np.mean([found.change.estimate for found in differences]))
    variance = float((errors**2).sum()) / len(errors) ** 2
    return _tested(estimate, variance, min(found.degrees for found in differences))
