"""Performance and MUI: how high both are at each model's last checkpoint."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import MEAN, Choice
from moemui.report.wording import count, estimate, key_in_words, listed, percent

RUNS = "Intervals speak of other samples of the same tasks, not of another training run."


def utilization(tables: Tables, choice: Choice) -> Finding:
    """Accuracy and MUI of each model's last checkpoint, mean over tasks and the extremes."""
    cells = views.last(views.trajectory(tables, choice))
    said = {str(model): [_height(str(model), rows)] for model, rows in cells.groupby("model", sort=False)}
    ms = sorted({int(m) for m in cells["common_m"].dropna()})
    caveat = (
        f"MUI of {listed([str(m) for m in ms]) or 'no'} of a task's samples, the same number for all checkpoints of a "
        f"model; its intervals are over samples, and hold up to half of them; {key_in_words(choice.curves)}. {RUNS}"
    )
    return Finding("Performance and MUI", tuple(shortened(said, "utilization")), caveat)


def _height(model: str, rows: pd.DataFrame) -> str:
    """Both means, each with its number of tasks where they differ, and the extremes among the tasks of mean MUI."""
    where, mean = f"{model} at {rows['checkpoint'].iloc[0]}", rows[rows["task"] == MEAN]
    if mean.empty:
        return f"{where}: no task is graded, and none has MUI at the common number of samples, at every checkpoint."
    accuracy, mui = (estimate(mean.iloc[0], name) for name in views.MEASURED)
    graded, measured = (int(mean[f"n_{name}"].iloc[0]) for name in views.MEASURED)
    said = {"mean accuracy": (accuracy, graded), "mean MUI": (mui, measured)}
    if graded == measured:
        text = f"{where}: mean accuracy {percent(accuracy)} and mean MUI {percent(mui)} over {count(graded, 'task')}"
    else:
        parts = [f"{name} {percent(value)} over {count(n, 'task')}" for name, (value, n) in said.items() if n]
        text = f"{where}: {' and '.join(parts)}"
    if not graded:
        text += "; no mean accuracy, since no task is graded at every checkpoint"
    if not measured:
        text += "; no mean MUI, since no task has the common number of samples at every checkpoint"
    tasks = rows[(rows["task"] != MEAN) & (rows["n_mui"] > 0)]
    if measured > 1:
        low, high = views.extremes(tasks, "mui")
        if low["mui"] < high["mui"]:
            text += (
                f"; MUI is lowest on {low['task']} ({percent(estimate(low, 'mui'))}) and highest on {high['task']} "
                f"({percent(estimate(high, 'mui'))})"
            )
        else:
            text += "; MUI is the same on all of them"
    return f"{text}."
