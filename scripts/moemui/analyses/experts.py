"""Experts as the key neurons show them (SPEC section 5): frequency, key experts, their share, expert MUI."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from moemui.analyses import intervals
from moemui.analyses.key_neurons import KeyNeurons
from moemui.analyses.key_sets import KeySets
from moemui.analyses.settings import Setting
from moemui.geometry import Geometry
from moemui.tables.experts import EXPERT_FREQUENCY, KEY_EXPERTS
from moemui.tables.table import conform

EXPERT_THRESHOLD = 0.6  # η_expert of the paper
RESAMPLES_AT_ONCE = 200  # bounds the memory of the bootstrap


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


def key_experts(*, frequency: np.ndarray, expert_threshold: float = EXPERT_THRESHOLD) -> np.ndarray:
    """E_key = {e : freq(e) ≥ η_expert}: bool, the shape of `frequency`. Raises ValueError unless 0 < η_expert ≤ 1."""
    if not 0 < expert_threshold <= 1:
        raise ValueError(f"expert threshold is {expert_threshold}; it is a frequency, above 0 and at most 1")
    return frequency >= expert_threshold


def proportion_interval(
    *, activity: np.ndarray, expert_threshold: float = EXPERT_THRESHOLD, seed: int, resamples: int = intervals.RESAMPLES
) -> tuple[float, float]:
    """95 % percentile bootstrap interval over samples of KeyExpertProportion, |E_key| / experts.

    Raises ValueError for fewer than two samples.
    """
    n = len(activity)
    if n < 2:
        raise ValueError(f"found {n} samples; an interval over samples needs two or more")
    times, found = _times_drawn(n, seed, resamples), []
    active = activity.astype(np.float32)  # exact for counts up to 2^24
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        counts = (times[start : start + RESAMPLES_AT_ONCE] @ active).astype(np.float64)
        found.append(key_experts(frequency=counts / n, expert_threshold=expert_threshold).mean(axis=1))
    return intervals.percentile(means=np.concatenate(found))


@lru_cache(maxsize=1)  # all settings of a task share their resamples
def _times_drawn(n: int, seed: int, resamples: int) -> np.ndarray:
    """How often each of n samples is in each bootstrap resample: float32, (resamples, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)


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
    cell = ["model", "order", "checkpoint", "task", "formulation", "selection", "threshold"]
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


def rows(
    *,
    key_neurons: KeyNeurons,
    tokens: float | None,
    order: int,
    expert_threshold: float = EXPERT_THRESHOLD,
    seed: int = 0,
    settings: Sequence[Setting] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one task in the tables `expert_frequency` and `key_experts`, for all settings.

    Raises ValueError, naming the cell, for a task without samples.
    """
    geometry, n = key_neurons.geometry, key_neurons.samples.n
    if n == 0:
        raise ValueError(
            f"{key_neurons.model} {key_neurons.checkpoint} {key_neurons.task} has no samples, so its experts have no "
            "frequency; give the task at least one sample"
        )
    shared, seen = geometry.expert_is_shared, _tokens_seen(key_neurons)
    frequencies, proportions = [], []
    for setting in key_neurons.among(settings):
        sets = key_neurons.sets(*setting)
        identity = _identity(key_neurons, tokens, order, setting)
        active = activity(sets=sets, geometry=geometry)
        often, used = frequency(activity=active), expert_mui(sets=sets, geometry=geometry)
        key = key_experts(frequency=often, expert_threshold=expert_threshold)
        frequencies.append(
            pd.DataFrame(
                {
                    **identity,
                    "expert": geometry.expert_names,
                    "layer": np.array([layer.index for layer in geometry.layers])[geometry.expert_layer],
                    "kind": np.where(shared, "shared", "routed"),
                    "frequency": often,
                    "expert_mui": used,
                    "is_key": key,
                    "rank": ranks(frequency=often, expert_mui=used),
                    "routed_tokens": seen,
                }
            )
        )
        low, high = (
            proportion_interval(activity=active, expert_threshold=expert_threshold, seed=seed)
            if n > 1
            else (np.nan, np.nan)
        )
        proportions.append(
            identity
            | {
                "expert_threshold": expert_threshold,
                "n_experts": geometry.experts,
                "n_key": int(key.sum()),
                "n_key_shared": int((key & shared).sum()),
                "proportion": float(key.mean()),
                "proportion_low": low,
                "proportion_high": high,
                "note": "" if n > 1 else "one sample: no interval",
            }
        )
    table = EXPERT_FREQUENCY
    together = pd.concat(frequencies, ignore_index=True) if frequencies else table.frame([])
    return conform(together, table), KEY_EXPERTS.frame(proportions)
