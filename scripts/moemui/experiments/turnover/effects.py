"""What turnover makes of one seed's measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.turnover import BETWEEN, PER_STEPS, Settings

EFFECTS = {
    "within_minus_between": Meaning(
        "similarity of a task's set with its own at the checkpoint before (similar_next) minus with another task's at "
        "the same one (similar_other); mean over tasks or pairs on each step, then over steps",
        "share",
    ),
    "within_minus_between_learned": Meaning(
        "within_minus_between minus the same tasks' and pairs' difference in the untrained model (similar_same minus "
        "similar_other at step 0): above 0 where training makes tasks' sets more their own than their inputs do",
        "share",
    ),
    "within_minus_between_next": Meaning(
        "similar_next minus the similarity with another task's set at the checkpoint before (similar_other_next)",
        "share",
    ),
    "beyond_experts": Meaning(
        "within_minus_between after each similarity lost what random sets of equal size in every expert have", "share"
    ),
    "survival_minus_shared": Meaning(
        "survival minus the share of neurons in common with another task (shared); sets of all samples, so that only "
        "survival is on the same ones",
        "share",
    ),
    "turnover": Meaning(f"turnover in {PER_STEPS} steps, mean of tasks and steps", "share"),
    "turnover_late_minus_early": Meaning(
        "turnover in the second half of a task's own steps minus in their first half, mean over tasks", "share"
    ),
    "turnover_young_minus_old": Meaning(
        "turnover of tasks in the first half of their own steps minus of tasks in the second half, on the same step of "
        "the run, mean over the steps that have both; the same tasks are the young ones in every seed",
        "share",
    ),
    "turnover_last_minus_first_layer": Meaning(
        "turnover in the last layer minus in the first, mean over tasks and steps", "share"
    ),
}  # fmt: skip


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """Every effect of one seed, NaN with a note where it is not defined."""
    turnover = _begun(measurements, "turnover")
    first, last = (_begun(measurements, "turnover", part) for part in _ends(measurements))
    young, old = _halves(turnover)
    next_, other = (_begun(measurements, quantity) for quantity in ("similar_next", "similar_other"))
    chances = (_begun(measurements, f"{quantity}_chance") for quantity in ("similar_next", "similar_other"))
    next_chance, other_chance = chances
    same_inputs, other_inputs = (_untrained(measurements, quantity) for quantity in ("similar_same", "similar_other"))
    return {
        "within_minus_between": _apart(next_, other),
        "within_minus_between_learned": _apart(
            next_ - same_inputs, other - other_inputs, "" if len(same_inputs) else "step 0 was not saved"
        ),
        "within_minus_between_next": _apart(next_, _begun(measurements, "similar_other_next")),
        "beyond_experts": _apart(next_ - next_chance, other - other_chance),
        "survival_minus_shared": _apart(_begun(measurements, "survival"), _begun(measurements, "shared")),
        "turnover": _mean(_known(turnover)),
        "turnover_late_minus_early": _mean((old.mean() - young.mean()).dropna()),
        "turnover_young_minus_old": _apart(young, old),
        "turnover_last_minus_first_layer": _mean(_known(last - first)),
    }


def _begun(measurements: pd.DataFrame, quantity: str, part: str = "") -> pd.DataFrame:
    """A quantity by step (rows) and task or pair (columns), where its ends were both trained on them; else missing."""
    starts = series(measurements, "start", ["task"])
    saved = np.sort(series(measurements, "accuracy", ["step", "task"]).index.unique("step"))
    values = series(measurements, quantity, ["step", "task"], part=part).unstack("task").drop(columns="")
    before = [saved[np.searchsorted(saved, step) - 1] if step > saved[0] else -1 for step in values.index]
    begun = [max(starts[task] for task in name.split(BETWEEN)) for name in values.columns]
    return values.where(np.greater.outer(np.array(before), np.array(begun)))


def _untrained(measurements: pd.DataFrame, quantity: str) -> pd.Series:
    """A quantity at step 0 by task or pair; empty where step 0 was not saved."""
    return series(measurements, quantity, ["task"], step=0, part="").drop("", errors="ignore")


def _ends(measurements: pd.DataFrame) -> tuple[str, str]:
    """The first and the last layer."""
    layers = sorted({part for part in measurements["part"] if part}, key=lambda part: int(part.removeprefix("L")))
    return layers[0], layers[-1]


def _halves(values: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each task's values in the first and second half of its own steps; of an odd number the middle is in neither."""
    rank, half = values.notna().cumsum(), values.notna().sum() // 2
    return values.where(rank <= half), values.where(rank > values.notna().sum() - half)


def _apart(one: pd.DataFrame, other: pd.DataFrame, why_none: str = "") -> tuple[float, str]:
    """Mean of one minus mean of the other on the same step, mean over the steps that have both."""
    return _mean((one.mean(axis=1) - other.mean(axis=1)).dropna(), why_none)


def _known(values: pd.DataFrame) -> pd.Series:
    return pd.Series(values.to_numpy().ravel()).dropna()


def _mean(values: pd.Series, why_none: str = "") -> tuple[float, str]:
    """Mean; NaN with the reason for none."""
    return (float(values.mean()), "") if len(values) else (float("nan"), why_none or "no step has what is compared")
