"""What the training signal makes of one seed's measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.training_signal import ACCURACY, ARMS, MUI, PROGRESS, SHUFFLED, STATIC, Settings

_OUTCOMES = {
    "final": "exact accuracy on held-out problems at the end, mean over tasks",
    "worst": "exact accuracy on held-out problems at the end, of each arm's worst task",
    "area": "exact accuracy on held-out problems, mean over tasks, averaged over tokens (trapezoids) from 0 to the end",
}
_PAIRS = {
    "mui_minus_static": (MUI, STATIC), "mui_minus_accuracy": (MUI, ACCURACY), "mui_minus_shuffled": (MUI, SHUFFLED),
    "mui_minus_progress": (MUI, PROGRESS), "accuracy_minus_static": (ACCURACY, STATIC),
}  # fmt: skip
EFFECTS = {
    **{
        f"{pair}_{outcome}": Meaning(f"arm {arm} minus arm {other}: {words}", "share")
        for outcome, words in _OUTCOMES.items()
        for pair, (arm, other) in _PAIRS.items()
    },
    "worst_static": Meaning(
        "exact accuracy on held-out problems at the end of the static arm's worst task: whether it is learned at all",
        "share",
    ),
    "moved": Meaning(
        "how far the mixture of the mui arm was from equal shares: half the sum of absolute differences over tasks, "
        "mean over rounds; 0 where it never moved",
        "share",
    ),
    "accumulating_share": Meaning("share of the tasks × rounds of the mui arm that counted as Accumulating", "share"),
    "measuring_cost_mui": Meaning("the mui arm's time for measuring as a part of its time for training; a time"),
    "measuring_cost_accuracy": Meaning("the same of the accuracy arm, which needs no neurons; a time"),
}


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """The effects of one seed's measurements; all are defined wherever all arms were trained."""
    outcomes = {arm: _outcomes(measurements, arm) for arm in ARMS}
    found = {
        f"{pair}_{outcome}": (outcomes[arm][outcome] - outcomes[other][outcome], "")
        for outcome in _OUTCOMES
        for pair, (arm, other) in _PAIRS.items()
    }
    found["worst_static"] = (outcomes[STATIC]["worst"], "")
    weights = series(measurements, "weight", ["step", "task"], arm=MUI).unstack("task")
    found["moved"] = (float((weights - 1 / weights.shape[1]).abs().sum(axis=1).mean() / 2), "")
    found["accumulating_share"] = (float(series(measurements, "wanted", ["step", "task"], arm=MUI).mean()), "")
    for arm in (MUI, ACCURACY):
        seconds = [
            float(series(measurements, name, ["arm"], arm=arm).iloc[0])
            for name in ("measuring_seconds", "training_seconds")
        ]
        found[f"measuring_cost_{arm}"] = (seconds[0] / seconds[1], "")
    return found


def _outcomes(measurements: pd.DataFrame, arm: str) -> dict[str, float]:
    """The outcomes of `_OUTCOMES` of one arm."""
    course = series(measurements[measurements["task"] != ""], "accuracy", ["tokens", "task"], arm=arm).unstack("task")
    last, mean = course.iloc[-1], course.mean(axis=1)
    area = float(np.trapezoid(mean.to_numpy(), mean.index.to_numpy())) / float(mean.index[-1])
    return {"final": float(last.mean()), "worst": float(last.min()), "area": area}
