"""Experts as the key neurons show them (SPEC section 5): frequency, key experts, their share, expert MUI."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from moemui.geometry import Geometry
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui.utilization import expert_mui_at
from moemui.statistics import intervals
from moemui.tables.columns import SETTING_KEY
from moemui.tables.experts import EXPERT_FREQUENCY, KEY_EXPERTS
from moemui.tables.table import conform

EXPERT_THRESHOLD = 0.6  # η_expert of the paper
RESAMPLES_AT_ONCE = 200  # bounds the memory of drawing them
ONE_SAMPLE = "one sample: no interval"
NEVER = 1e-12  # a chance below which a resample is not expected to make an expert key, or stop it being key


def activity(*, sets: KeySets, geometry: Geometry) -> np.ndarray:
    """Whether a sample's key set holds a neuron of an expert: bool, (samples, experts)."""
    active = np.zeros((sets.n_samples, geometry.experts), dtype=bool)
    active[sets.sample_of, geometry.expert_of(sets.neurons)] = True
    return active


def frequency(*, activity: np.ndarray) -> np.ndarray:
    """freq(e), the share of samples in which expert e is active: float64, (experts,), 0..1.

    Samples with an empty key set count. Raises ValueError for no samples.
    """
    if len(activity) == 0:
        raise ValueError("there are no samples, so an expert has no frequency; give at least one")
    return activity.sum(axis=0) / len(activity)


def frequency_interval(*, activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % Wilson interval of freq(e) over samples: low and high, float64, (experts,), 0..1.

    Raises ValueError for no samples.
    """
    n, alpha = len(activity), 1 - intervals.CONFIDENCE
    if n == 0:
        raise ValueError("there are no samples, so a frequency has no interval; give at least one")
    low, high = proportion_confint(activity.sum(axis=0), n, alpha=alpha, method="wilson")
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)  # rounding may leave 0..1


def key_experts(*, frequency: np.ndarray, expert_threshold: float = EXPERT_THRESHOLD) -> np.ndarray:
    """E_key = {e : freq(e) ≥ η_expert}: bool, the shape of `frequency`. Raises ValueError unless 0 < η_expert ≤ 1."""
    if not 0 < expert_threshold <= 1:
        raise ValueError(f"expert threshold is {expert_threshold}; it is a frequency, above 0 and at most 1")
    return frequency >= expert_threshold


def resampled_key(
    *,
    activity: np.ndarray,
    expert_thresholds: Sequence[float],
    seed: int | tuple[int, ...],
    resamples: int = intervals.RESAMPLES,
) -> np.ndarray:
    """E_key of every bootstrap resample of the samples: bool, (thresholds, resamples, experts).

    All η_expert see the same resamples. In a resample the active samples of an expert are Binomial(n, freq(e)), so an
    expert whose chance to change sides is below NEVER at every η_expert keeps its side and costs nothing.
    Raises ValueError for fewer than two samples, and as `key_experts`.
    """
    n = len(activity)
    if n < 2:
        raise ValueError(f"found {n} samples; an interval over samples needs two or more")
    often = frequency(activity=activity)
    key = np.stack([key_experts(frequency=often, expert_threshold=value) for value in expert_thresholds])
    needed = np.searchsorted(np.arange(n + 1) / n, expert_thresholds)[:, None]  # active samples that make it key
    crossing = np.where(key, stats.binom.cdf(needed - 1, n, often), stats.binom.sf(needed - 1, n, often))
    near = (crossing > NEVER).any(axis=0)
    found = np.repeat(key[:, None, :], resamples, axis=1)
    counts = _times_drawn(n, seed, resamples) @ activity[:, near].astype(np.float32)  # exact up to 2^24
    shares = counts.astype(np.float64) / n
    for position, value in enumerate(expert_thresholds):
        found[position][:, near] = shares >= value
    return found


def proportion_interval(
    *, activity: np.ndarray, expert_threshold: float = EXPERT_THRESHOLD, seed: int, resamples: int = intervals.RESAMPLES
) -> tuple[float, float]:
    """95 % percentile bootstrap interval over samples of KeyExpertProportion, |E_key| / experts.

    A count over a threshold is no smooth statistic. Where frequencies are spread out, the interval is cautious (tests
    accept 92 % and more; normal and bias-corrected ones cover in fewer cases); where many experts lie on one side of
    η_expert, nearer than their frequencies are known, no resampling sees it and it covers in far fewer: `undecided`
    counts them.
    Raises ValueError for fewer than two samples.
    """
    draws = resampled_key(activity=activity, expert_thresholds=[expert_threshold], seed=seed, resamples=resamples)
    return intervals.percentile(means=draws[0].mean(axis=1))


def undecided(*, activity: np.ndarray, expert_threshold: float = EXPERT_THRESHOLD) -> np.ndarray:
    """Experts that may as well be key as not, η_expert lying in the interval of their frequency: bool, (experts,)."""
    low, high = frequency_interval(activity=activity)
    return (low < expert_threshold) & (high >= expert_threshold)


@lru_cache(maxsize=1)  # all settings of a task share their resamples
def _times_drawn(n: int, seed: int | tuple[int, ...], resamples: int) -> np.ndarray:
    """How often each of n samples is in each bootstrap resample: float32, (resamples, n)."""
    generator, times = np.random.default_rng(seed), np.empty((resamples, n), dtype=np.float32)
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        rows = times[start : start + RESAMPLES_AT_ONCE]
        drawn = generator.integers(0, n, size=rows.shape) + n * np.arange(len(rows))[:, None]
        rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
    return times


def expert_mui(*, sets: KeySets, geometry: Geometry) -> np.ndarray:
    """|∪_s K(s) ∩ e| / the width of e: float64, (experts,), 0..1; 0 for an expert never active."""
    counts = np.bincount(geometry.expert_of(sets.union()), minlength=geometry.experts)
    return counts / np.diff(geometry.expert_offsets)


def ranks(*, frequency: np.ndarray, expert_mui: np.ndarray) -> np.ndarray:
    """1 for the most frequent expert; ties: higher expert MUI, then lower expert number: int64, (experts,)."""
    order = np.lexsort((np.arange(len(frequency)), -expert_mui, -frequency))
    rank = np.empty(len(frequency), dtype=np.int64)
    rank[order] = np.arange(1, len(frequency) + 1)
    return rank


def top(*, frequencies: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The `count` most frequent experts of every cell of a table `expert_frequency`, best first."""
    cell = ["model", "order", "checkpoint", "task", *SETTING_KEY]
    return frequencies[frequencies["rank"] <= count].sort_values([*cell, "rank"]).reset_index(drop=True)


def _identity(key_neurons: KeyNeurons, tokens: float | None, order: int, setting: Setting) -> dict[str, Any]:
    return {
        "model": key_neurons.model,
        "checkpoint": key_neurons.checkpoint,
        "tokens": tokens,
        "order": order,
        "task": key_neurons.task,
        **setting._asdict(),
        "n_samples": key_neurons.samples.n,
    }


def _tokens_seen(key_neurons: KeyNeurons) -> np.ndarray:
    """Response tokens of every expert: those routed to it, or all of them for a shared one: int64, (experts,)."""
    geometry = key_neurons.geometry
    everything = int(key_neurons.samples.response_tokens.sum())
    seen = [
        np.concatenate([routed[: layer.routed], np.full(layer.shared, everything)])
        for layer, routed in zip(geometry.layers, key_neurons.routed_tokens, strict=True)
    ]
    return np.concatenate(seen).astype(np.int64)


def activities(*, key_neurons: Sequence[KeyNeurons], setting: Setting) -> list[np.ndarray]:
    """`activity` of every task of one checkpoint, in the order of the files.

    Raises ValueError for no file, a task that is given twice or has no samples, or files of several checkpoints.
    """
    if not key_neurons:
        raise ValueError("there is no key neuron file; give those of a checkpoint, one a task")
    cells = {(file.model, file.checkpoint, file.geometry) for file in key_neurons}
    if len(cells) > 1:
        names = sorted({f"{file.model} {file.checkpoint}" for file in key_neurons})
        raise ValueError(f"the key neuron files are of {', '.join(names)}; give those of one checkpoint of one shape")
    tasks = [file.task for file in key_neurons]
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"the key neuron files are of the tasks {', '.join(tasks)}; give each task once")
    for file in key_neurons:
        _refuse_empty(file)
    return [activity(sets=file.sets(*setting), geometry=file.geometry) for file in key_neurons]


def _refuse_empty(file: KeyNeurons) -> None:
    if file.samples.n == 0:
        raise ValueError(
            f"{file.model} {file.checkpoint} {file.task} has no samples, so its experts have no frequency; give the "
            "task at least one sample"
        )


def rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    common_m: int | None,
    expert_threshold: float = EXPERT_THRESHOLD,
    expert_thresholds: Sequence[float] = (),
    main_settings: Sequence[Setting] = (),
    seed: int = 0,
    settings: Sequence[Setting] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one task in the tables `expert_frequency` and `key_experts`, for all settings.

    common_m: the number of samples at which expert MUI is compared, see `utilization.common_samples`; None, or one
    above the task's samples, leaves it out with a note. expert_thresholds: a grid of η_expert, for the settings among
    `main_settings`; `expert_threshold` is in the table for every setting, and decides is_key.
    Raises ValueError, naming the cell, for a task without samples.
    """
    _refuse_empty(key_neurons)
    geometry = key_neurons.geometry
    shared, seen = geometry.expert_is_shared, _tokens_seen(key_neurons)
    frequencies, proportions = [], []
    for setting in key_neurons.among(settings):
        sets = key_neurons.sets(*setting)
        identity = _identity(key_neurons, tokens, order, setting)
        active = activity(sets=sets, geometry=geometry)
        often, used = frequency(activity=active), expert_mui(sets=sets, geometry=geometry)
        low, high = frequency_interval(activity=active)
        frequencies.append(
            pd.DataFrame(
                {
                    **identity,
                    "expert": geometry.expert_names,
                    "layer": np.array([layer.index for layer in geometry.layers])[geometry.expert_layer],
                    "kind": np.where(shared, "shared", "routed"),
                    "frequency": often,
                    "frequency_low": low,
                    "frequency_high": high,
                    "expert_mui": used,
                    **_at_common_m(sets, geometry, common_m),
                    "is_key": key_experts(frequency=often, expert_threshold=expert_threshold),
                    "rank": ranks(frequency=often, expert_mui=used),
                    "routed_tokens": seen,
                }
            )
        )
        grid = sorted({expert_threshold, *(expert_thresholds if setting in main_settings else ())})
        proportions += [identity | record for record in _proportions(active, shared, grid, seed)]
    table = EXPERT_FREQUENCY
    together = pd.concat(frequencies, ignore_index=True) if frequencies else table.frame([])
    return conform(together, table), KEY_EXPERTS.frame(proportions)


def _at_common_m(sets: KeySets, geometry: Geometry, m: int | None) -> dict[str, Any]:
    """Expert MUI at the common m; what can't be had is missing, with a note."""
    n, gap = sets.n_samples, np.full(geometry.experts, np.nan)
    record: dict[str, Any] = {"common_m": pd.array([m] * geometry.experts, dtype="Int64")}
    if m is None or m > n:
        note = "no common m" if m is None else f"fewer than {m} samples, so not comparable at the common m"
        return record | dict.fromkeys(("expert_mui_at_m", "expert_mui_at_m_low", "expert_mui_at_m_high"), gap) | {
            "note": note
        }  # fmt: skip
    found = expert_mui_at(sets=sets, geometry=geometry, m=m)
    return record | {
        "expert_mui_at_m": found.estimate,
        "expert_mui_at_m_low": found.low,
        "expert_mui_at_m_high": found.high,
        "note": ONE_SAMPLE if n < 2 else "",
    }


def _proportions(
    active: np.ndarray, shared: np.ndarray, expert_thresholds: Sequence[float], seed: int
) -> list[dict[str, Any]]:
    """The measured columns of the `key_experts` rows of a cell, one row an η_expert."""
    n, often, records = len(active), frequency(activity=active), []
    draws = resampled_key(activity=active, expert_thresholds=expert_thresholds, seed=seed) if n > 1 else None
    for position, value in enumerate(expert_thresholds):
        key = key_experts(frequency=often, expert_threshold=value)
        interval = (np.nan, np.nan) if draws is None else intervals.percentile(means=draws[position].mean(axis=1))
        records.append(
            {
                "expert_threshold": value,
                "n_experts": len(key),
                "n_key": int(key.sum()),
                "n_key_shared": int((key & shared).sum()),
                "n_undecided": int(undecided(activity=active, expert_threshold=value).sum()),
                "proportion": float(key.mean()),
                "proportion_low": interval[0],
                "proportion_high": interval[1],
                "note": ONE_SAMPLE if n < 2 else "",
            }
        )
    return records
