"""Do tasks share their key experts (SPEC section 5)? Overlap of every pair of tasks, and experts shared by k tasks.

Overlap is set against key experts placed at random. Shared experts see every token and are key on most tasks by
construction, so a second chance places routed and shared key experts separately: of overlap beyond it, the kind of an
expert is no explanation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui.experts.key_experts import EXPERT_THRESHOLD, activities, frequency, key_experts, resampled_key
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.statistics import intervals
from moemui.tables.experts import EXPERT_OVERLAP, EXPERTS_SHARED

MOST_UNDEFINED = 0.05  # share of resamples without a key expert from which no interval is given


class Chance(NamedTuple):
    """Key experts placed at random: expected Jaccard index (NaN for no key expert), chance p of this overlap or more.

    testable: False where the overlap could not have come out otherwise; p is 1 then.
    """

    jaccard: float
    p: float
    testable: bool


def jaccard(*, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|A ∩ B| / |A ∪ B| of sets of experts as masks, over the last axis: float64, 0..1; NaN where both are empty."""
    both, either = (a & b).sum(axis=-1), (a | b).sum(axis=-1)
    return np.divide(both, either, out=np.full(np.shape(both), np.nan), where=either > 0)


def jaccard_interval(*, draws_a: np.ndarray, draws_b: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the Jaccard index from bootstrap resamples of two tasks' samples.

    draws_a, draws_b: E_key of each resample, bool, (resamples, experts), drawn independently of each other. Resamples
    without any key expert have no index: they are left out, and above 5 % of them both ends are NaN.
    """
    drawn = jaccard(a=draws_a, b=draws_b)
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < (1 - MOST_UNDEFINED) * len(drawn):
        return float("nan"), float("nan")
    return intervals.percentile(means=defined)


def chance(*, a: np.ndarray, b: np.ndarray, strata: np.ndarray) -> Chance:
    """The overlap of two sets when each stratum's members of B fall on its experts at random.

    a, b: bool, (experts,). strata: int, (experts,); zeros for one draw over all experts. The overlap is a sum of
    independent hypergeometric variables, one a stratum; p is the chance of the overlap found or more, which with one
    stratum is Fisher's one-sided exact test. The distribution of the sum is a convolution, which scipy has no word for.
    """
    parts = []
    for stratum in np.unique(strata):
        inside = strata == stratum
        n_a, n_b = int((a & inside).sum()), int((b & inside).sum())
        parts.append(stats.hypergeom.pmf(np.arange(min(n_a, n_b) + 1), int(inside.sum()), n_a, n_b))
    weights = reduce(np.convolve, parts, np.ones(1))
    both, sizes = np.arange(len(weights)), int(a.sum() + b.sum())
    p = min(1.0, float(weights[int((a & b).sum()) :].sum()))
    expected = float(weights @ (both / (sizes - both))) if sizes else float("nan")
    return Chance(expected, p, bool((weights > 0).sum() > 1))


def shared_by(*, keys: Sequence[np.ndarray]) -> np.ndarray:
    """How many experts are key on exactly k of T tasks, k = 0..T: int64, (T + 1,). keys: a mask (experts,) a task.

    Raises ValueError for no task.
    """
    if not len(keys):
        raise ValueError("there is no task; give the key experts of at least one")
    return np.bincount(np.sum(list(keys), axis=0), minlength=len(keys) + 1)


def rows(
    *,
    key_neurons: Sequence[KeyNeurons],
    tokens: float | None,
    order: int,
    setting: Setting,
    expert_threshold: float = EXPERT_THRESHOLD,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one checkpoint in the tables `expert_overlap` and `experts_shared`, at one setting.

    key_neurons: the files of the checkpoint, one a task. A single task has no pair, so no row in `expert_overlap`.
    Raises ValueError as `experts.activities`.
    """
    active = activities(key_neurons=key_neurons, setting=setting)
    geometry, tasks = key_neurons[0].geometry, [file.task for file in key_neurons]
    often = [frequency(activity=each) for each in active]
    keys = [key_experts(frequency=each, expert_threshold=expert_threshold) for each in often]
    identity = {
        "model": key_neurons[0].model,
        "checkpoint": key_neurons[0].checkpoint,
        "tokens": tokens,
        "order": order,
        **setting._asdict(),
        "expert_threshold": expert_threshold,
    }
    # Tasks must not share the numbers of the drawn samples, or their resamples would not be independent.
    draws = [
        resampled_key(activity=each, expert_thresholds=[expert_threshold], seed=(seed, number))[0]
        if len(each) > 1
        else None
        for number, each in enumerate(active)
    ]
    pairs = list(itertools.combinations(range(len(tasks)), 2))
    found = [_overlap(keys[a], keys[b], draws[a], draws[b]) for a, b in pairs]
    for name, strata in (("", np.zeros(geometry.experts, dtype=int)), ("_within_kind", geometry.expert_is_shared)):
        chances = [chance(a=keys[a], b=keys[b], strata=strata.astype(int)) for a, b in pairs]
        for record, each, q in zip(found, chances, _corrected(chances), strict=True):
            record |= {f"jaccard_expected{name}": each.jaccard, f"p{name}": each.p, f"q{name}": q}
    overlaps = [
        identity | {"task_a": tasks[a], "task_b": tasks[b]} | record
        for (a, b), record in zip(pairs, found, strict=True)
    ]
    counted = [
        identity | {"kind": kind, "k": k, "n_experts": int(n), "n_tasks": len(tasks), "n_kind": int(mask.sum())}
        for kind, mask in (("routed", ~geometry.expert_is_shared), ("shared", geometry.expert_is_shared))
        if mask.any()
        for k, n in enumerate(shared_by(keys=[key[mask] for key in keys]))
    ]
    return EXPERT_OVERLAP.frame(overlaps), EXPERTS_SHARED.frame(counted)


def _overlap(a: np.ndarray, b: np.ndarray, draws_a: np.ndarray | None, draws_b: np.ndarray | None) -> dict[str, Any]:
    """The measured columns of an `expert_overlap` row, without what chance gives."""
    notes = [f"no key expert on {name}" for name, key in (("task_a", a), ("task_b", b)) if not key.any()]
    low, high = float("nan"), float("nan")
    if not (a | b).any():
        notes.append("so no index")
    elif draws_a is None or draws_b is None:
        notes.append("a task of one sample: no interval")
    else:
        low, high = jaccard_interval(draws_a=draws_a, draws_b=draws_b)
        if np.isnan(low):
            notes.append("too many resamples without a key expert: no interval")
    return {
        "n_experts": len(a),
        "n_key_a": int(a.sum()),
        "n_key_b": int(b.sum()),
        "n_both": int((a & b).sum()),
        "jaccard": float(jaccard(a=a, b=b)),
        "jaccard_low": low,
        "jaccard_high": high,
        "note": ", ".join(notes),
    }


def _corrected(chances: Sequence[Chance]) -> np.ndarray:
    """Their p after Benjamini–Hochberg over the testable ones; 1 for the others."""
    q, testable = np.ones(len(chances)), np.array([each.testable for each in chances], dtype=bool)
    if testable.any():
        q[testable] = stats.false_discovery_control([each.p for each in chances if each.testable], method="bh")
    return np.clip(q, 0.0, 1.0)
