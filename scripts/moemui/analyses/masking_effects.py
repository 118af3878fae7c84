"""What masking costs (SPEC section 7): key neurons against as many random ones, from outcomes a sample.

Outcomes come from running the model; nothing here does. All comparisons are paired over the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moemui.analyses import intervals
from moemui.analyses.settings import Setting
from moemui.tables.masking import MASKING, MASKING_EFFECT

NO_SEED = -1
ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """Outcomes of a task's samples under one condition.

    name: none, key or random. seed: of the random neurons, −1 otherwise. n_masked: neurons set to 0.
    correct: int8, (samples,), 1 correct, 0 not, −1 not graded.
    nll: float, (samples,), negative log-likelihood of the reference answer, mean over its tokens, in nats; NaN where
    the sample has no reference answer.
    """

    name: str
    n_masked: int
    correct: np.ndarray
    nll: np.ndarray
    seed: int = NO_SEED


def effect_size(*, differences: np.ndarray) -> float:
    """Paired Cohen's d: mean / standard deviation (n − 1) of the differences over samples; NaN without spread."""
    # a spread of rounding errors is none; it would make any effect look enormous
    if len(differences) < 2 or np.ptp(differences) <= ROUNDING * max(1.0, float(np.abs(differences).max())):
        return float("nan")
    return float(differences.mean() / differences.std(ddof=1))


def _check(conditions: Sequence[Condition]) -> tuple[Condition, Condition, list[Condition]]:
    named = {name: [c for c in conditions if c.name == name] for name in ("none", "key", "random")}
    if len(conditions) != sum(map(len, named.values())) or [len(named["none"]), len(named["key"])] != [1, 1]:
        raise ValueError(
            f"conditions are {[c.name for c in conditions]}; there must be one none, one key and at least one random"
        )
    none, key, random = named["none"][0], named["key"][0], named["random"]
    if not random or len({c.seed for c in random}) < len(random) or any(c.seed < 0 for c in random):
        raise ValueError(
            f"random conditions have seeds {[c.seed for c in random]}; give at least one, each its own ≥ 0"
        )
    for condition in conditions:
        label = f"{condition.name} (seed {condition.seed})"
        if condition.correct.shape != none.correct.shape or condition.nll.shape != none.correct.shape:
            raise ValueError(f"{label} has other samples than the condition none; run all on the same samples")
        if ((condition.correct < 0) != (none.correct < 0)).any() or (
            np.isnan(condition.nll) != np.isnan(none.nll)
        ).any():
            raise ValueError(f"{label}: other samples are graded or have a reference answer than in the condition none")
        if np.isinf(condition.nll).any():
            raise ValueError(
                f"{label}: the log-likelihood of a reference answer is infinite; the model's logits are broken"
            )
    if len(none.correct) == 0:
        raise ValueError("there are no samples; give the task at least one")
    return none, key, random


def rows(
    *,
    model: str,
    checkpoint: str,
    task: str,
    setting: Setting,
    n_neurons: int,
    conditions: Sequence[Condition],
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one task and setting in the tables `masking` and `masking_effect`.

    conditions: one none, one key, at least one random, over the same samples in the same order. n_neurons: Σ M_l.
    What can't be had (nothing graded, no reference answers, a single sample or seed) is missing, with a note.
    Raises ValueError for conditions that are incomplete or over different samples.
    """
    none, key, random = _check(conditions)
    identity = {"model": model, "checkpoint": checkpoint, "task": task, **setting._asdict()}
    outcomes = [
        identity | _outcome(condition, n_neurons, seed)
        for condition in (none, key, *sorted(random, key=lambda c: c.seed))
    ]
    effect = identity | _effect(none, key, random, seed)
    return MASKING.frame(outcomes), MASKING_EFFECT.frame([effect])


def _outcome(condition: Condition, n_neurons: int, seed: int) -> dict[str, Any]:
    graded, nll = condition.correct[condition.correct >= 0], condition.nll[~np.isnan(condition.nll)]
    gap, notes = float("nan"), []
    accuracy = nll_band = (gap, gap)
    if len(graded):
        accuracy = intervals.wilson(successes=int(graded.sum()), trials=len(graded))
    else:
        notes.append("no sample was graded")
    if len(nll) > 1:
        nll_band = intervals.mean_interval(values=nll, seed=seed)
    else:
        notes.append("one reference answer: no interval" if len(nll) else "no reference answers")
    return {
        "condition": condition.name,
        "seed": condition.seed,
        "n_masked": condition.n_masked,
        "share_masked": condition.n_masked / n_neurons,
        "n_samples": len(condition.correct),
        "n_graded": len(graded),
        "accuracy": float(graded.mean()) if len(graded) else gap,
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        "n_references": len(nll),
        "nll": float(nll.mean()) if len(nll) else gap,
        "nll_low": nll_band[0],
        "nll_high": nll_band[1],
        "note": "; ".join(notes),
    }


def _estimate(name: str, differences: np.ndarray, seed: int) -> dict[str, float]:
    """Mean of paired differences with its interval under the names of a table; missing for none, or one, of them."""
    gap, n = float("nan"), len(differences)
    low, high = intervals.mean_interval(values=differences, seed=seed) if n > 1 else (gap, gap)
    return {name: float(differences.mean()) if n else gap, f"{name}_low": low, f"{name}_high": high}


def _effect(none: Condition, key: Condition, random: Sequence[Condition], seed: int) -> dict[str, Any]:
    graded, referenced = none.correct >= 0, ~np.isnan(none.nll)
    was, with_key = none.correct[graded].astype(float), key.correct[graded].astype(float)
    by_seed = np.array([c.correct[graded] for c in random], dtype=float)
    with_random = by_seed.mean(axis=0)
    nll_was, nll_key = none.nll[referenced], key.nll[referenced]
    nll_random = np.array([c.nll[referenced] for c in random]).mean(axis=0)
    seeded = len(random) > 1 and len(was) > 0
    notes = []
    for found, what in ((len(was), "graded sample"), (len(nll_was), "reference answer")):
        if found < 2:
            notes.append(f"one {what}: no interval" if found else f"no {what}")
    size = effect_size(differences=with_random - with_key)
    nll_size = effect_size(differences=nll_key - nll_random)
    if len(was) > 1 and np.isnan(size):
        notes.append("key and random differ alike in every sample's answer: no effect size")
    if len(nll_was) > 1 and np.isnan(nll_size):
        notes.append("key and random differ alike in every sample's nll: no effect size")
    if len(random) < 2:
        notes.append("one seed: no standard deviation over seeds")
    if strange := sorted({c.n_masked for c in random} - {key.n_masked}):
        notes.append(f"random controls mask {', '.join(map(str, strange))} neurons instead of {key.n_masked}")
    return {
        "n_masked": key.n_masked,
        "n_samples": len(none.correct),
        "accuracy_none": float(was.mean()) if len(was) else float("nan"),
        **_estimate("loss_key", was - with_key, seed),
        **_estimate("loss_random", was - with_random, seed),
        **_estimate("loss_difference", with_random - with_key, seed),
        "loss_random_sd": float(by_seed.mean(axis=1).std(ddof=1)) if seeded else float("nan"),
        **_estimate("nll_increase_key", nll_key - nll_was, seed),
        **_estimate("nll_increase_random", nll_random - nll_was, seed),
        **_estimate("nll_difference", nll_key - nll_random, seed),
        "effect_size": size,
        "nll_effect_size": nll_size,
        "n_seeds": len(random),
        "note": "; ".join(notes),
    }
