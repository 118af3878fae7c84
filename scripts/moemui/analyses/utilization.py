"""MUI with its saturation curve, confidence band and asymptote (SPEC section 4).

A union grows with the number of samples n, so MUI is reported at a common number of samples m too. All that is needed
is q_u, the number of samples in which neuron u is key (`KeySets.incidence`), and of it only Q_k, how many neurons have
q_u = k. Sources: Hurlbert 1971; Chao 1987; Colwell et al. 2012 (J. Plant Ecology 5:3–21).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moemui.analyses.intervals import Z
from moemui.analyses.key_neurons import KeyNeurons
from moemui.analyses.key_sets import KeySets
from moemui.analyses.settings import Setting
from moemui.geometry import Geometry
from moemui.tables.table import conform
from moemui.tables.utilization import SATURATION, UTILIZATION

ONE_SAMPLE = "one sample: no interval and no asymptote"


def mui(*, n_key: int, n_neurons: int) -> float:
    """MUI = |∪ K(s)| / Σ M_l, in 0..1. Raises ValueError for no neurons or more key neurons than neurons."""
    if not 0 <= n_key <= n_neurons or n_neurons == 0:
        raise ValueError(f"{n_key} key neurons of {n_neurons}; there must be a neuron, and no more key ones")
    return n_key / n_neurons


def frequency_counts(*, incidence: np.ndarray, n: int) -> np.ndarray:
    """Q_k, the number of neurons that are key in exactly k of n samples, k = 0..n: int64, (n + 1,).

    incidence: q_u of the scope's neurons. Raises ValueError where a q_u exceeds n.
    """
    if len(incidence) and int(incidence.max()) > n:
        raise ValueError(f"a neuron is key in {int(incidence.max())} samples, but there are only {n}")
    return np.bincount(incidence, minlength=n + 1)


def absent(*, n: int, m: int) -> np.ndarray:
    """α_k = C(n−k, m) / C(n, m): the chance that m of n samples miss all k that hold a neuron: float64, (n + 1,).

    A running product of (n−m−i)/(n−i): exact 0 from k = n−m+1 on, no factorials, no overflow.
    Raises ValueError unless 1 ≤ m ≤ n.
    """
    if not 1 <= m <= n:
        raise ValueError(f"m is {m}; rarefaction draws 1 to n = {n} samples")
    steps = np.arange(n, dtype=float)
    return np.concatenate([[1.0], np.cumprod(np.maximum(n - m - steps, 0.0) / (n - steps))])


class Rarefied(NamedTuple):
    """Expected number of key neurons of m samples and its variance (NaN with a single sample)."""

    estimate: float
    variance: float


def rarefied(*, counts: np.ndarray, m: int, cap: int) -> Rarefied:
    """S(m) = Σ_k (1 − α_k) Q_k and σ²(m) = Σ_k (1 − α_k)² Q_k − S(m)²/S_est, S_est being Chao2 (capped).

    The unconditional variance of Colwell et al. 2012, eq. 5: samples, and how likely each neuron is key, are seen as
    drawn from all there could be, so it is above 0 at m = n too. Where the neurons stay the same and only the samples
    vary, as between task sets on one model, it is cautious (twice the true one with chances from Beta(1, 8)).
    counts: Q_k, k = 0..n. cap: neurons of the scope. The estimate lies in 0..cap; 0 without key neurons.
    """
    n = len(counts) - 1
    present = 1.0 - absent(n=n, m=m)
    estimate = float(present @ counts)
    if n < 2:
        return Rarefied(estimate, float("nan"))
    asymptote = chao2(counts=counts, cap=cap).estimate
    if asymptote == 0:
        return Rarefied(0.0, 0.0)
    return Rarefied(estimate, max(0.0, float(present**2 @ counts) - estimate**2 / asymptote))


class Chao2(NamedTuple):
    """Estimated number of neurons that would ever be key, its variance and its 95 % interval."""

    estimate: float
    variance: float
    low: float
    high: float


def chao2(*, counts: np.ndarray, cap: int) -> Chao2:
    """Chao2 with A = (n−1)/n: S_obs + A·Q1²/(2·Q2) where Q1, Q2 > 0, else S_obs + A·Q1(Q1−1)/(2(Q2+1)).

    A lower bound of the richness by construction. Variance and log-normal interval after Chao 1987, as in EstimateS
    and SpadeR; where nothing is added to S_obs, their interval for a complete census. All of it at most `cap`, the
    neurons of the scope. counts: Q_k, k = 0..n. Raises ValueError for n < 2: one sample says nothing about a second.
    """
    n = len(counts) - 1
    if n < 2:
        raise ValueError(f"Chao2 needs two samples or more, found {n}")
    observed, q1, q2, a = float(counts[1:].sum()), float(counts[1]), float(counts[2]), (n - 1) / n
    if q1 > 0 and q2 > 0:
        ratio = q1 / q2
        added = a * q1**2 / (2 * q2)
        variance = q2 * (a * ratio**2 / 2 + a**2 * ratio**3 + a**2 * ratio**4 / 4)
    elif q1 > 1:
        added = a * q1 * (q1 - 1) / 2
        variance = a * q1 * (q1 - 1) / 2 + a**2 * q1 * (2 * q1 - 1) ** 2 / 4 - a**2 * q1**4 / (4 * (observed + added))
    else:
        return _census(counts, observed, cap)
    estimate = observed + added
    spread = np.exp(Z * np.sqrt(np.log1p(variance / added**2)))
    low, high = observed + added / spread, observed + added * spread
    return Chao2(min(estimate, cap), float(variance), min(float(low), cap), min(float(high), cap))


def _census(counts: np.ndarray, observed: float, cap: int) -> Chao2:
    """Chao2 where Q1 adds nothing: S_obs, with e^−k as the chance to have missed a neuron that is key k times."""
    if observed == 0:
        return Chao2(0.0, 0.0, 0.0, 0.0)
    k = np.arange(1, len(counts))
    missed = np.exp(-k) * counts[1:]
    variance = max(0.0, float((missed - np.exp(-2 * k) * counts[1:]).sum() - (k * missed).sum() ** 2 / len(k)))
    seen = 1 - missed.sum() / observed
    low = max(observed, (observed - Z * np.sqrt(variance)) / seen)
    high = (observed + Z * np.sqrt(variance)) / seen
    return Chao2(min(observed, cap), variance, min(float(low), cap), min(float(high), cap))


def mui_at(*, counts: np.ndarray, m: int, n_neurons: int) -> tuple[float, float, float, float]:
    """Expected MUI of m samples, its standard error and its 95 % normal interval kept within 0..1.

    Standard error and interval are NaN with a single sample.
    """
    estimate, variance = rarefied(counts=counts, m=m, cap=n_neurons)
    value, error = estimate / n_neurons, float(np.sqrt(variance)) / n_neurons
    return value, error, float(np.maximum(value - Z * error, 0)), float(np.minimum(value + Z * error, 1))


def saturation_curve(*, counts: np.ndarray, ms: Sequence[int], n_neurons: int) -> pd.DataFrame:
    """MUI(m) with its 95 % band at each m of `ms`: columns m, mui, low, high (NaN with a single sample)."""
    rows = []
    for m in ms:
        value, _, low, high = mui_at(counts=counts, m=m, n_neurons=n_neurons)
        rows.append((m, value, low, high))
    return pd.DataFrame(rows, columns=["m", "mui", "low", "high"])


def saturation_points(n: int, points: int = 25) -> list[int]:
    """Numbers of samples at which a curve is drawn: 1 to n, at most about `points`, spaced by equal ratios."""
    return sorted({round(m) for m in np.geomspace(1, n, points)}) if n else []


def common_samples(counts: Iterable[int]) -> int | None:
    """The common m of many cells: the smallest of their numbers of samples above 0; None where there is none.

    Cells without samples can't be compared at any m and have no MUI, so they don't lower it.
    """
    return min((n for n in counts if n > 0), default=None)


def _scopes(geometry: Geometry) -> list[tuple[str, int | None, np.ndarray]]:
    """(scope, layer index, mask of neurons) of every scope that has neurons."""
    shared = geometry.neuron_is_shared
    found: list[tuple[str, int | None, np.ndarray]] = [("total", None, np.ones(geometry.neurons, dtype=bool))]
    found += [(name, None, mask) for name, mask in (("routed", ~shared), ("shared", shared)) if mask.any()]
    for position, layer in enumerate(geometry.layers):
        mask = np.zeros(geometry.neurons, dtype=bool)
        mask[geometry.layer_offsets[position] : geometry.layer_offsets[position + 1]] = True
        found.append(("layer", layer.index, mask))
    return found


def rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    common_m: Mapping[str, int | None],
    settings: Sequence[Setting] | None = None,
) -> pd.DataFrame:
    """The rows of one task in the table `utilization`: settings × samples (all, correct) × scopes.

    common_m: m for `all` and for `correct`, see `common_samples`; None or absent leaves the comparison out, with a
    note. A scope without neurons (shared of a routed-only model) has no row. A cell without samples keeps its row,
    with n_samples 0, no MUI and a note.
    """
    samples, records = key_neurons.samples, []
    masks = {"all": np.ones(samples.n, dtype=bool), "correct": samples.correct == 1}
    scopes = _scopes(key_neurons.geometry)
    for setting in key_neurons.among(settings):
        sets = key_neurons.sets(*setting)
        for name, mask in masks.items():
            n = int(mask.sum())
            incidence = sets.incidence(key_neurons.geometry.neurons, mask)
            for scope, layer, neurons in scopes:
                records.append(
                    {
                        "model": key_neurons.model,
                        "checkpoint": key_neurons.checkpoint,
                        "tokens": tokens,
                        "order": order,
                        "task": key_neurons.task,
                        "domain": samples.task_domain,
                        **setting._asdict(),
                        "samples": name,
                        "scope": scope,
                        "layer": layer,
                        "n_samples": n,
                        "n_response_tokens": int(samples.response_tokens[mask].sum()),
                        "n_neurons": int(neurons.sum()),
                        **_measures(frequency_counts(incidence=incidence[neurons], n=n), common_m.get(name), name),
                    }
                )
    return UTILIZATION.frame(records)


def _measures(counts: np.ndarray, m: int | None, samples: str) -> dict[str, Any]:
    """The measured columns of a `utilization` row; what can't be had is missing, with a note."""
    n, n_neurons = len(counts) - 1, int(counts.sum())
    gap = np.nan
    record: dict[str, Any] = {
        "n_key": None,
        "mui": gap,
        "common_m": m,
        "mui_at_m": gap,
        "mui_at_m_low": gap,
        "mui_at_m_high": gap,
        "mui_at_m_se": gap,
        "chao2": gap,
        "chao2_low": gap,
        "chao2_high": gap,
        "q1": None,
        "q2": None,
        "note": "",
    }
    if n == 0:
        return record | {"note": "no samples" if samples == "all" else "no correct answers"}
    n_key = int(counts[1:].sum())
    record |= {"n_key": n_key, "mui": mui(n_key=n_key, n_neurons=n_neurons), "q1": int(counts[1])}
    record["q2"] = int(counts[2]) if n > 1 else 0
    notes = []
    if m is None or m > n:
        notes.append("no common m" if m is None else f"fewer than {m} samples, so not comparable at the common m")
    else:
        value, error, low, high = mui_at(counts=counts, m=m, n_neurons=n_neurons)
        record |= {"mui_at_m": value, "mui_at_m_se": error, "mui_at_m_low": low, "mui_at_m_high": high}
    if n < 2:
        notes.append(ONE_SAMPLE)
    else:
        asymptote = chao2(counts=counts, cap=n_neurons)
        record |= {"chao2": asymptote.estimate / n_neurons, "chao2_low": asymptote.low / n_neurons}
        record["chao2_high"] = asymptote.high / n_neurons
    return record | {"note": "; ".join(notes)}


def saturation_rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    settings: Sequence[Setting] | None = None,
    points: int = 25,
) -> pd.DataFrame:
    """The rows of one task in the table `saturation`: MUI(m) over all samples, total scope; none without samples."""
    geometry, n, records = key_neurons.geometry, key_neurons.samples.n, []
    for setting in key_neurons.among(settings):
        sets: KeySets = key_neurons.sets(*setting)
        counts = frequency_counts(incidence=sets.incidence(geometry.neurons), n=n)
        curve = saturation_curve(counts=counts, ms=saturation_points(n, points), n_neurons=geometry.neurons)
        records.append(
            curve.assign(
                model=key_neurons.model,
                checkpoint=key_neurons.checkpoint,
                tokens=np.nan if tokens is None else tokens,
                order=order,
                task=key_neurons.task,
                **setting._asdict(),
                n_samples=n,
                note=ONE_SAMPLE if n < 2 else "",
            )
        )
    table = SATURATION
    return conform(pd.concat(records, ignore_index=True), table) if records else table.frame([])
