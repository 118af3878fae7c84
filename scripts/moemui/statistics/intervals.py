"""Intervals that several analyses share: Wilson for shares, percentile bootstrap for means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95
RESAMPLES = 2000
Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))  # 1.96


class Change(NamedTuple):
    """A difference after − before with its 95 % interval; NaN where it is not known."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether difference and interval are there."""
        return not np.isnan(self).any()


def wilson(*, successes: int, trials: int) -> tuple[float, float]:
    """95 % Wilson interval of a share, inside 0..1. Raises ValueError for no trials or more successes than trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials; there must be a trial, and no more successes")
    low, high = proportion_confint(successes, trials, alpha=1 - CONFIDENCE, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def resampled_means(*, values: np.ndarray, seed: int | Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """Means of `resamples` bootstrap samples of `values` (n,), n ≥ 1: float64, (resamples,), the same for one seed."""
    if len(values) == 0:
        raise ValueError("there is nothing to resample; give at least one value")
    draws = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)), dtype=np.int32)
    return np.asarray(values, dtype=float)[draws].mean(axis=1)


def percentile(*, means: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of a bootstrap distribution."""
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mean_interval(*, values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (n,), n ≥ 1, over samples.

    Paired differences of two conditions on the same samples give the paired interval of their difference. Values that
    are all equal give an interval without width: the bootstrap can't know of what it has not seen.
    """
    return percentile(means=resampled_means(values=values, seed=seed, resamples=resamples))
