"""What task-specific phases make of one seed's measurements."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.experiments.measurements import Meaning, series
from moemui.experiments.task_phases import ANSWERS, FLAT, RISING, SPARING, TOKENS, Settings, half_arm
from moemui.statistics.intervals import CONFIDENCE

_NAMED = "named phases, those that are not Flat"
EFFECTS = {
    "hidden_share": Meaning(
        f"share of the steps on which halves of the samples of two tasks are in different {_NAMED} (tasks_differ; the "
        "mean's phase is that of one of them at most), minus the share on which two halves of one task's are "
        "(halves_differ), in as many pairs",
        "share",
    ),
    "hidden_share_tokens": Meaning(
        "hidden_share with right tokens as performance",
        "share",
    ),
    "differ_share": Meaning(
        f"share of the steps on which at least two tasks are in different {_NAMED}, by all samples; noise is in it",
        "share",
    ),
    "opposed_share": Meaning(
        "share of the steps on which one task is Accumulating while another is Evolving", "share"
    ),
    "unlike_mean": Meaning(
        "of the named phases of single tasks, the share that is not the mean's phase, which may be Flat, on that step",
        "share",
    ),
    "named_share": Meaning("share of the steps of single tasks that are in a named phase", "share"),
    "paper_order": Meaning(
        "of the tasks with a named phase, the share whose first one is Accumulating and a later one Evolving",
        "share",
    ),
    "paper_order_tokens": Meaning("paper_order with right tokens as performance", "share"),
    "reverse_order": Meaning(
        "of the tasks with a named phase, the share whose first one is Evolving and a later one Accumulating",
        "share",
    ),
    "paper_order_balance": Meaning(
        "paper_order minus reverse_order: above 0 where more tasks are Accumulating first and Evolving later than the "
        "other way round",
        "share",
    ),
    "paper_order_balance_tokens": Meaning("paper_order_balance with right tokens as performance", "share"),
    "rise_then_fall": Meaning(
        "share of the tasks whose MUI rises before its change point and falls after it, of those where a straight line "
        "is rejected",
        "share",
    ),
    "mui_spread": Meaning(
        "largest minus smallest change point of MUI over the tasks where a straight line is rejected, on half of the "
        "samples, minus the largest minus smallest difference between the change points of a task's two halves, which "
        "hold the noise of both, so too much is taken off; mean over splits",
        "checkpoints",
    ),
    "accuracy_spread": Meaning("mui_spread of the change points of accuracy", "checkpoints"),
    "mui_distance": Meaning(
        "how far the change points of MUI of two tasks lie apart, each on another half, mean over pairs of the tasks "
        "where a straight line is rejected, minus how far those of a task's two halves do; mean over splits",
        "checkpoints",
    ),
    "accuracy_distance": Meaning("mui_distance of the change points of accuracy", "checkpoints"),
    "lag": Meaning(
        "training step of MUI's change point minus the task's start, mean over tasks as in mui_spread", "steps"
    ),
    "lag_to_accuracy": Meaning(
        "change point of MUI minus that of accuracy, mean over the tasks where a straight line is rejected for both",
        "checkpoints",
    ),
}  # fmt: skip


def effects(measurements: pd.DataFrame, settings: Settings) -> dict[str, tuple[float, str]]:
    """Every effect of one seed, NaN with a note where it is not defined."""
    answers = _phases(measurements, ANSWERS)
    own, tokens = (phases.drop(columns="", errors="ignore") for phases in (answers, _phases(measurements, TOKENS)))
    named = own.where(own != FLAT)
    orders = {
        arm: (_order(phases, RISING, SPARING), _order(phases, SPARING, RISING))
        for arm, phases in ((ANSWERS, own), (TOKENS, tokens))
    }
    return {
        "hidden_share": _hidden(measurements, ANSWERS),
        "hidden_share_tokens": _hidden(measurements, TOKENS),
        "differ_share": _mean(named.nunique(axis=1) > 1, "step has a phase"),
        "opposed_share": _mean((own == RISING).any(axis=1) & (own == SPARING).any(axis=1), "step has a phase"),
        "unlike_mean": _unlike_mean(answers, named),
        "named_share": _mean(_cells(named.notna())[_cells(own.notna())], "step has a phase"),
        "paper_order": orders[ANSWERS][0],
        "paper_order_tokens": orders[TOKENS][0],
        "reverse_order": orders[ANSWERS][1],
        "paper_order_balance": _minus(*orders[ANSWERS]),
        "paper_order_balance_tokens": _minus(*orders[TOKENS]),
        "rise_then_fall": _rise_then_fall(measurements),
        "mui_spread": _beyond_noise(measurements, "mui", settings, pairs=False),
        "accuracy_spread": _beyond_noise(measurements, "accuracy", settings, pairs=False),
        "mui_distance": _beyond_noise(measurements, "mui", settings, pairs=True),
        "accuracy_distance": _beyond_noise(measurements, "accuracy", settings, pairs=True),
        "lag": _lag(measurements),
        "lag_to_accuracy": _lag_to_accuracy(measurements),
    }


def _phases(measurements: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The phase of every step (rows) and task (columns, "" the mean); missing where there is none."""
    rows = measurements[(measurements["quantity"] == "in_phase") & (measurements["arm"] == arm)]
    return rows[rows["value"] == 1].pivot(index="step", columns="task", values="part").sort_index()


def _mean(values: pd.Series, what: str) -> tuple[float, str]:
    """Mean of numbers or truths; NaN, with the note that there is no such thing, for none."""
    return (float(values.astype(float).mean()), "") if len(values) else (float("nan"), f"no {what}")


def _minus(one: tuple[float, str], other: tuple[float, str]) -> tuple[float, str]:
    """Difference of two shares of the same things, so that both are defined or neither is."""
    return one[0] - other[0], one[1]


def _cells(table: pd.DataFrame) -> pd.Series:
    return pd.Series(table.to_numpy().ravel())


def _hidden(measurements: pd.DataFrame, arm: str) -> tuple[float, str]:
    """How much of the steps has halves of two tasks in different named phases, less what has those of one in such."""
    between, noise = (series(measurements, name, ["step"], arm=arm) for name in ("tasks_differ", "halves_differ"))
    return _mean((between - noise).dropna(), "step has a phase on halves of the samples")


def _unlike_mean(phases: pd.DataFrame, named: pd.DataFrame) -> tuple[float, str]:
    if "" not in phases:
        return float("nan"), "the mean over tasks has no phase"
    mean = phases[""]
    differs = named.ne(mean, axis=0)[mean.notna()]
    return _mean(_cells(differs)[_cells(named[mean.notna()].notna())], "task is in a named phase")


def _order(phases: pd.DataFrame, first: str, later: str) -> tuple[float, str]:
    """Share of the tasks whose first named phase is `first` and that are in `later` after it."""
    courses = [own[own != FLAT].dropna().tolist() for _, own in phases.items()]
    return _mean(
        pd.Series([own[0] == first and later in own for own in courses if own], dtype=bool), "task is in a named phase"
    )


def _turned(measurements: pd.DataFrame, measure: str) -> list[str]:
    """The tasks where a straight line is rejected as the trajectory of `mui` or `accuracy`."""
    p = series(measurements, f"{measure}_straight", ["task"]).drop("", errors="ignore")
    return [str(task) for task in p.index[p <= 1 - CONFIDENCE]]


def _rise_then_fall(measurements: pd.DataFrame) -> tuple[float, str]:
    turned = _turned(measurements, "mui")
    before, after = (series(measurements, f"mui_slope_{side}", ["task"])[turned] for side in ("before", "after"))
    return _mean((before > 0) & (after < 0), "task's MUI changes its slope")


def _points(measurements: pd.DataFrame, measure: str, settings: Settings) -> np.ndarray:
    """Change points on halves of the samples, of the tasks that turn: float64, (splits, 2, tasks)."""
    turned = _turned(measurements, measure)
    points = series(measurements, f"{measure}_change_point", ["arm", "task"])
    return np.array(
        [
            [[points[half_arm(split, half), task] for task in turned] for half in (0, 1)]
            for split in range(settings.splits)
        ]
    )


def _beyond_noise(measurements: pd.DataFrame, measure: str, settings: Settings, pairs: bool) -> tuple[float, str]:
    """Spread of the change points over tasks, or their distance in pairs of tasks, less that of halves of one task."""
    points = _points(measurements, measure, settings)
    first, second = points[:, 0], points[:, 1]
    tasks = points.shape[2]
    if tasks < 2:
        return float("nan"), f"a straight line is rejected for {tasks} tasks, and a comparison takes 2"
    if pairs:
        apart = np.abs(first[:, :, None] - second[:, None, :])
        same = np.eye(tasks, dtype=bool)
        return float(apart[:, ~same].mean() - apart[:, same].mean()), ""
    return float(np.ptp(points, axis=2).mean() - np.ptp(first - second, axis=1).mean()), ""


def _lag(measurements: pd.DataFrame) -> tuple[float, str]:
    turned = _turned(measurements, "mui")
    step = series(measurements, "mui_change_step", ["task"])[turned]
    return _mean(step - series(measurements, "start", ["task"])[turned], "task's MUI changes its slope")


def _lag_to_accuracy(measurements: pd.DataFrame) -> tuple[float, str]:
    both = [task for task in _turned(measurements, "mui") if task in _turned(measurements, "accuracy")]
    mui, accuracy = (
        series(measurements, f"{measure}_change_point", ["task"], arm=ANSWERS)[both] for measure in ("mui", "accuracy")
    )
    return _mean(mui - accuracy, "task has both change points")
