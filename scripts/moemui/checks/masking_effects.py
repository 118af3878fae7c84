"""What masking costs (SPEC section 7): key neurons against as many others, from outcomes a sample.

Outcomes come from running the model; nothing here does. All comparisons are paired over the same samples. Those with a
control are means over samples × seeds, and their intervals hold both (`crossed_means`). Losses of accuracy are of
answers right or wrong, so one lost and one gained answer more stand in their intervals: these keep a width where no
answer changed (`intervals.paired_proportions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moemui.checks.masking import NO_SEED, balance
from moemui.key_neurons.settings import Setting
from moemui.statistics import intervals
from moemui.statistics.crossed_means import CrossedMean, alike, crossed_mean
from moemui.tables.masking import MASKING, MASKING_EFFECT

# What the table `masking_effect` calls the controls, by condition.
CONTROLS = {"random": "expert", "matched": "frequency"}
FEWEST_SEEDS = 5  # SPEC section 7
BALANCED = 0.1  # standardised mean difference up to which groups count as alike (Austin 2009)
GAP = float("nan")


@dataclass(frozen=True)
class Condition:
    """Outcomes of a task's samples under one condition.

    name: none, key, random (matched per layer and expert) or matched (on activation frequency as well). seed: of the
    control, −1 otherwise. n_masked: neurons set to 0.
    correct: int8, (samples,), 1 correct, 0 not, −1 not graded.
    nll: float, (samples,), negative log-likelihood of the reference answer, mean over its tokens, in nats; NaN where
    the sample has no reference answer.
    frequency: float64, (n_masked,), activation frequency of the masked neurons; None where it was not counted.
    """

    name: str
    n_masked: int
    correct: np.ndarray
    nll: np.ndarray
    seed: int = NO_SEED
    frequency: np.ndarray | None = None


def effect_size(*, differences: np.ndarray) -> float:
    """Paired Cohen's d: mean / standard deviation (n − 1) of the differences over samples; NaN without spread."""
    # a spread of rounding errors is none; it would make any effect look enormous
    if len(differences) < 2 or alike(differences):
        return GAP
    return float(differences.mean() / differences.std(ddof=1))


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
    """The rows of one task and setting in the tables `masking` and `masking_effect` (one row a control).

    conditions: one none, one key, at least one random, any number of matched, over the same samples in the same order.
    n_neurons: Σ M_l. What can't be had (nothing graded, no reference answers, a single sample or seed, no key neurons,
    an expert without other neurons) is missing, with a note.
    Raises ValueError for conditions that are incomplete or over different samples.
    """
    none, key, controls = _check(conditions)
    identity = {"model": model, "checkpoint": checkpoint, "task": task, **setting._asdict()}
    ordered = [none, key, *(condition for drawn in controls.values() for condition in drawn)]
    outcomes = [identity | _outcome(condition, n_neurons, seed) for condition in ordered]
    effects = [
        identity | {"control": CONTROLS[name]} | _effect(none, key, drawn, n_neurons, seed)
        for name, drawn in controls.items()
    ]
    return MASKING.frame(outcomes), MASKING_EFFECT.frame(effects)


def _check(conditions: Sequence[Condition]) -> tuple[Condition, Condition, dict[str, list[Condition]]]:
    """None, key, and the controls that there are, by condition and in order of seed."""
    named = {name: [c for c in conditions if c.name == name] for name in ("none", "key", *CONTROLS)}
    if len(conditions) != sum(map(len, named.values())) or [len(named["none"]), len(named["key"])] != [1, 1]:
        raise ValueError(
            f"conditions are {[c.name for c in conditions]}; there must be one none, one key, at least one random, "
            "and may be matched ones"
        )
    none, key = named["none"][0], named["key"][0]
    controls = {name: sorted(named[name], key=lambda c: c.seed) for name in CONTROLS if named[name] or name == "random"}
    for name, drawn in controls.items():
        seeds = [c.seed for c in drawn]
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"{name} conditions have seeds {seeds}; give at least one, each its own ≥ 0")
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
    return none, key, controls


def _mean_frequency(condition: Condition) -> float:
    """Mean activation frequency of the masked neurons; NaN where none is masked or none was counted."""
    frequency = condition.frequency
    return float(frequency.mean()) if frequency is not None and len(frequency) else GAP


def _outcome(condition: Condition, n_neurons: int, seed: int) -> dict[str, Any]:
    graded, nll = condition.correct[condition.correct >= 0], condition.nll[~np.isnan(condition.nll)]
    accuracy = nll_band = (GAP, GAP)
    notes = []
    frequency = _mean_frequency(condition)
    if np.isnan(frequency):
        notes.append("activation frequency was not counted" if condition.n_masked else "nothing is masked")
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
        "mean_activation_frequency": frequency,
        "n_samples": len(condition.correct),
        "n_graded": len(graded),
        "accuracy": float(graded.mean()) if len(graded) else GAP,
        "accuracy_low": accuracy[0],
        "accuracy_high": accuracy[1],
        "n_references": len(nll),
        "nll": float(nll.mean()) if len(nll) else GAP,
        "nll_low": nll_band[0],
        "nll_high": nll_band[1],
        "note": "; ".join(notes),
    }


def _effect(none: Condition, key: Condition, control: Sequence[Condition], n_neurons: int, seed: int) -> dict[str, Any]:
    graded, referenced = none.correct >= 0, ~np.isnan(none.nll)
    was, nll_was = none.correct[graded].astype(float), none.nll[referenced]
    key_lost, key_rise = was - key.correct[graded], key.nll[referenced] - nll_was
    # (seeds, samples) of the control
    lost = np.array([was - c.correct[graded] for c in control])
    rise = np.array([c.nll[referenced] - nll_was for c in control])
    masked = [c.n_masked for c in control]
    notes = _notes(none, key, control)
    if key.n_masked == 0:  # what was then measured is the condition none once more
        key_lost, key_rise = key_lost[:0], key_rise[:0]
    if min(key.n_masked, *masked) == 0:
        lost, rise = lost[:, :0], rise[:, :0]
    seeded = len(control) > 1 and lost.size > 0
    against, nll_against = key_lost[: lost.shape[1]] - lost, key_rise[: rise.shape[1]] - rise
    size = effect_size(differences=against.mean(axis=0))
    nll_size = effect_size(differences=nll_against.mean(axis=0))
    for estimated, found, what in ((size, against, "answer"), (nll_size, nll_against, "nll")):
        if found.shape[1] > 1 and np.isnan(estimated):
            notes.append(f"key and control differ alike in every sample's {what}: no effect size")
    frequency = {"key": _mean_frequency(key), "random": float(np.mean([_mean_frequency(c) for c in control]))}
    apart = _apart(key, control)
    if key.n_masked and min(masked) and np.isnan([*frequency.values(), apart]).any():
        counted = not np.isnan(list(frequency.values())).any()
        notes.append("activation frequencies without spread" if counted else "activation frequency was not counted")
    if control[0].name == "matched" and abs(apart) >= BALANCED:
        notes.append(
            f"matched only in part, {apart:+.2f} apart: these experts have too few others as often switched on"
        )
    # an answer lost under the one condition alone, and under the other, with every seed
    ends = np.tile([-1.0, 1.0], (len(control), 1))
    loss, nll = crossed_mean(values=against, pseudo_samples=ends), crossed_mean(values=nll_against)
    # Each a neuron that it masked: a control may be smaller than the key set.
    per_key, per_control = 1000 / max(key.n_masked, 1), 1000 / np.maximum(masked, 1)[:, None]
    separation_ends = np.hstack([-per_control, np.full_like(per_control, per_key)])
    # one sample has no interval
    loss_band = intervals.paired_proportions(differences=key_lost) if len(key_lost) > 1 else (GAP, GAP)
    rise_band = intervals.mean_interval(values=key_rise, seed=seed) if len(key_rise) > 1 else (GAP, GAP)
    none_band = intervals.wilson(successes=int(was.sum()), trials=len(was)) if len(was) else (GAP, GAP)
    return {
        "n_masked": key.n_masked,
        "share_masked": key.n_masked / n_neurons,
        "n_masked_control": min(masked),
        **{f"activation_frequency_{name}": value for name, value in frequency.items()},
        "activation_frequency_smd": apart,
        "n_samples": len(none.correct),
        "accuracy_none": float(was.mean()) if len(was) else GAP,
        "accuracy_none_low": none_band[0],
        "accuracy_none_high": none_band[1],
        **_over_samples("loss_key", key_lost, loss_band),
        **_estimate("loss_random", crossed_mean(values=lost, pseudo_samples=ends), bound=1),
        **_estimate("loss_difference", loss, bound=1),
        "loss_difference_p": loss.p,
        "loss_random_sd": float(lost.mean(axis=1).std(ddof=1)) if seeded else GAP,
        **_over_samples("nll_increase_key", key_rise, rise_band),
        **_estimate("nll_increase_random", crossed_mean(values=rise)),
        **_estimate("nll_difference", nll),
        "nll_difference_p": nll.p,
        "effect_size": size,
        "nll_effect_size": nll_size,
        **_estimate(
            "loss_separation_per_1000_neurons",
            crossed_mean(
                values=key_lost[: lost.shape[1]] * per_key - lost * per_control, pseudo_samples=separation_ends
            ),
        ),
        **_estimate(
            "nll_separation_per_1000_neurons",
            crossed_mean(values=key_rise[: rise.shape[1]] * per_key - rise * per_control),
        ),
        "n_seeds": len(control),
        "note": "; ".join(notes),
    }


def _notes(none: Condition, key: Condition, control: Sequence[Condition]) -> list[str]:
    """Why values of an effect are missing or what limits them, from the conditions alone."""
    notes, seeds = [], len(control)
    for found, what in (
        (int((none.correct >= 0).sum()), "graded sample"),
        (int((~np.isnan(none.nll)).sum()), "reference answer"),
    ):
        if found < 2:
            notes.append(f"one {what}: no interval" if found else f"no {what}")
    if seeds == 1:
        notes.append("one seed: no standard deviation over seeds, and intervals take these random neurons as given")
    elif seeds < FEWEST_SEEDS:
        notes.append(f"{seeds} seeds, below {FEWEST_SEEDS}: intervals may be too narrow")
    masked = {c.n_masked for c in control}
    if key.n_masked == 0:
        notes.append("there are no key neurons, so nothing was masked")
    elif 0 in masked:
        notes.append("the experts of the key neurons have no others, so there is no control")
    elif strange := sorted(masked - {key.n_masked}):
        notes.append(
            f"controls mask {', '.join(map(str, strange))} neurons instead of {key.n_masked}: more than half of an "
            "expert is key"
        )
    return notes


def _apart(key: Condition, control: Sequence[Condition]) -> float:
    """`masking.balance` of the activation frequencies, mean over seeds; NaN where they were not counted."""
    if key.frequency is None:
        return GAP
    return float(
        np.mean([GAP if c.frequency is None else balance(key=key.frequency, control=c.frequency) for c in control])
    )


def _over_samples(name: str, differences: np.ndarray, band: tuple[float, float]) -> dict[str, float]:
    """Mean of paired differences with its interval under the names of a table; missing where there are none."""
    mean = float(differences.mean()) if len(differences) else GAP
    return {name: mean, f"{name}_low": band[0], f"{name}_high": band[1]}


def _estimate(name: str, found: CrossedMean, *, bound: float = np.inf) -> dict[str, float]:
    """A mean and its interval, kept inside ±bound, under the names of a table."""
    ends = np.clip([found.mean, found.low, found.high], -bound, bound)
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
