"""Training trajectories (SPEC section 8): the phase of each step between consecutive checkpoints.

A step counts only outside the noise band. Accuracy: paired bootstrap over the samples that both checkpoints answered.
MUI: the union of a resample holds fewer distinct samples and is biased low, so its difference is taken at the common m
with the normal interval of the two Colwell variances added; they treat the checkpoints' samples as independent draws,
which overstates the noise since both answer the same ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moemui.analyses import intervals
from moemui.analyses.key_neurons import Samples
from moemui.tables import dynamics as tables
from moemui.tables.columns import SETTING_KEY

MEAN = "mean"
FLAT = "Flat"
UNTRAINED = "leaves the untrained checkpoint, whose MUI is an artefact of initialisation"
# (performance rises, MUI rises) → phase
PHASES = {
    (True, True): "Accumulating",
    (True, False): "Evolving",
    (False, True): "Coarsening",
    (False, False): "Collapsing",
}

Answers = Mapping[tuple[str, str, str], Samples]


class Change(NamedTuple):
    """A difference after − before with its 95 % interval; NaN where it is not known."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether difference and interval are there."""
        return not np.isnan(self).any()


UNKNOWN = Change(np.nan, np.nan, np.nan)


def phase(*, accuracy: Change, mui: Change) -> str:
    """Phase of a step: Accumulating, Evolving, Coarsening, Collapsing, or Flat where an interval contains 0.

    The interval's ends belong to it. Empty where one of the changes is not known.
    """
    if not (accuracy.known and mui.known):
        return ""
    if any(change.low <= 0 <= change.high for change in (accuracy, mui)):
        return FLAT
    return PHASES[accuracy.estimate > 0, mui.estimate > 0]


def paired_differences(*, before: Samples, after: Samples) -> np.ndarray:
    """Correct after − correct before, −1, 0 or 1, of the samples graded in both: float64, (samples,), by id."""
    common, first, second = np.intersect1d(before.id, after.id, return_indices=True)
    was, now = before.correct[first].astype(float), after.correct[second].astype(float)
    return (now - was)[(was >= 0) & (now >= 0)] if len(common) else np.empty(0)


def mui_change(*, before: tuple[float, float], after: tuple[float, float]) -> Change:
    """Difference of two MUI at one m, each given with its standard error, variances added."""
    difference = after[0] - before[0]
    margin = intervals.Z * float(np.hypot(before[1], after[1]))
    return Change(difference, difference - margin, difference + margin)


class _Step(NamedTuple):
    """One task's step: means of the bootstrap resamples (empty if there are none) and the two changes."""

    n_samples: int
    accuracy: Change
    resampled: np.ndarray
    mui: Change
    mui_margin: float
    common_m: int | None
    notes: tuple[str, ...]


def _step(before: pd.Series, after: pd.Series, answers: Answers, seed: Sequence[int]) -> _Step:
    if before["common_m"] != after["common_m"] and not (pd.isna(before["common_m"]) or pd.isna(after["common_m"])):
        raise ValueError(
            f"{after['model']} {after['task']}: checkpoints {before['checkpoint']} and {after['checkpoint']} have MUI "
            f"at m = {before['common_m']} and {after['common_m']}; compute utilization of both with one common m"
        )
    notes, accuracy, resampled = [], UNKNOWN, np.empty(0)
    samples = [answers.get((cell["model"], cell["checkpoint"], cell["task"])) for cell in (before, after)]
    if samples[0] is None or samples[1] is None:
        raise ValueError(
            f"{after['model']} {after['task']}: no answers given for checkpoint "
            f"{(before if samples[0] is None else after)['checkpoint']}; pass the samples of every cell"
        )
    differences = paired_differences(before=samples[0], after=samples[1])
    if len(differences):
        resampled = intervals.resampled_means(values=differences, seed=seed)
        accuracy = Change(float(differences.mean()), *intervals.percentile(means=resampled))
    else:
        notes.append("no sample is graded at both checkpoints")
    mui = mui_change(
        before=(before["mui_at_m"], before["mui_at_m_se"]), after=(after["mui_at_m"], after["mui_at_m_se"])
    )
    if not mui.known:
        notes.append("MUI at the common m has no interval at one of the checkpoints")
    common_m = None if pd.isna(after["common_m"]) else int(after["common_m"])
    return _Step(len(differences), accuracy, resampled, mui, mui.high - mui.estimate, common_m, tuple(notes))


def _mean(steps: Mapping[str, _Step]) -> _Step:
    """Mean over the tasks whose changes are known; tasks are independent, so resamples and variances average."""
    known = [step for step in steps.values() if step.accuracy.known and step.mui.known]
    notes = [f"without {task}" for task, step in steps.items() if not (step.accuracy.known and step.mui.known)]
    if not known:
        return _Step(0, UNKNOWN, np.empty(0), UNKNOWN, np.nan, None, ("no task has both changes",))
    resampled = np.mean([step.resampled for step in known], axis=0)
    accuracy = Change(
        float(np.mean([step.accuracy.estimate for step in known])), *intervals.percentile(means=resampled)
    )
    difference = float(np.mean([step.mui.estimate for step in known]))
    margin = float(np.sqrt(np.sum([step.mui_margin**2 for step in known]))) / len(known)
    ms = {step.common_m for step in known}
    if len(ms) > 1:
        notes.append("tasks are compared at different m")
    return _Step(
        sum(step.n_samples for step in known),
        accuracy,
        resampled,
        Change(difference, difference - margin, difference + margin),
        margin,
        ms.pop() if len(ms) == 1 else None,
        tuple(notes),
    )


def rows(*, utilization: pd.DataFrame, answers: Answers, seed: int = 0) -> pd.DataFrame:
    """The table `phases`: for each model and setting, each step between consecutive checkpoints, per task and mean.

    utilization: any rows of that table; used are those of all samples and the total scope.
    answers: the samples of every (model, checkpoint, task), for pairing.
    A task absent at one of the two checkpoints has no row for the step and is not in the mean. The step that leaves
    the untrained checkpoint (0 tokens) keeps its differences but has no phase. A single checkpoint gives no rows.
    """
    total = utilization[(utilization["samples"] == "all") & (utilization["scope"] == "total")]
    tasks = {task: number for number, task in enumerate(sorted(total["task"].unique()))}
    if MEAN in tasks:
        raise ValueError(f"a task is named {MEAN!r}, which stands for the mean over tasks; rename it")
    records: list[dict[str, Any]] = []
    for (model, *setting), group in total.groupby(["model", *SETTING_KEY], sort=False):
        if group.groupby("order")["checkpoint"].nunique().max() > 1:
            raise ValueError(f"{model}: two checkpoints have the same order; each needs its own place in training")
        checkpoints = [cells for _, cells in group.sort_values("order").groupby("order")]
        for before, after in itertools.pairwise(checkpoints):
            earlier = {str(cell["task"]): cell for _, cell in before.iterrows()}
            later = {str(cell["task"]): cell for _, cell in after.iterrows()}
            steps = {
                # one seed a task, the same in every setting, so that settings differ by MUI alone
                task: _step(earlier[task], later[task], answers, [seed, tasks[task]])
                for task in sorted(earlier.keys() & later.keys())
            }
            first, last = before.iloc[0], after.iloc[0]
            identity = {
                "model": model,
                **dict(zip(SETTING_KEY, setting, strict=True)),
                "from_checkpoint": first["checkpoint"],
                "to_checkpoint": last["checkpoint"],
                "from_order": first["order"],
                "to_order": last["order"],
            }
            untrained = bool(first["tokens"] == 0)
            records += _records(identity, steps, untrained)
    return tables.PHASES.frame(records)


def _records(identity: dict[str, Any], steps: Mapping[str, _Step], untrained: bool) -> list[dict[str, Any]]:
    everything = {**steps, MEAN: _mean(steps)}
    phases = {
        task: "" if untrained else phase(accuracy=step.accuracy, mui=step.mui) for task, step in everything.items()
    }
    records = []
    for task, step in everything.items():
        notes = [*step.notes, UNTRAINED] if untrained else step.notes
        comparable = task != MEAN and phases[task] and phases[MEAN]
        records.append(
            {
                **identity,
                "task": task,
                "n_samples": step.n_samples,
                "d_accuracy": step.accuracy.estimate,
                "d_accuracy_low": step.accuracy.low,
                "d_accuracy_high": step.accuracy.high,
                "common_m": step.common_m,
                "d_mui": step.mui.estimate,
                "d_mui_low": step.mui.low,
                "d_mui_high": step.mui.high,
                "phase": phases[task],
                "differs_from_mean": phases[task] != phases[MEAN] if comparable else None,
                "note": "; ".join(notes),
            }
        )
    return records
