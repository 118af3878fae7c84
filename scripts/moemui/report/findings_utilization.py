"""Findings about MUI: its height, its differences and its saturation."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.finding import MOST, Finding, Tables, reasons, shortened
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import count, estimate, key_in_words, listed, percent, points

UNSHOWN = "no difference shown"
SATURATED = 0.95  # share of the asymptote that must have been seen
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


def comparisons(tables: Tables, choice: Choice) -> Finding:
    """Which differences of MUI between models, checkpoints and tasks are more than noise.

    An untrained checkpoint is no side of any of them: its MUI is an artefact of how the weights were drawn.
    """
    cells = tables["utilization"].drop_duplicates(["model", "checkpoint"])
    if tables["comparisons"].empty:
        raise NothingToShow(_nothing_to_compare(tables["utilization"]))
    rows = views.at(tables["comparisons"], choice.curves, "comparisons")
    first = cells.rename(columns={"model": "model_a", "checkpoint": "checkpoint_a"})
    rows = rows.merge(first[["model_a", "checkpoint_a", "order", "tokens"]], how="left").sort_values(
        "order", kind="stable"
    )
    rows = rows[~views.untrained(rows)]
    if rows.empty:
        raise NothingToShow("All that could be compared is untrained, and its MUI is an artefact of initialisation.")
    if (rows["verdict"] == "").all():
        raise NothingToShow(f"No comparison of MUI has an outcome: {reasons(rows['note'])}.")
    rows = rows[rows["verdict"] != ""]
    sentences = []
    for kind, what in (
        ("tasks", "two tasks at a model's last checkpoint"),
        ("models", "two models on a task"),
        ("checkpoints", "a model's last and an earlier trained checkpoint on a task"),
    ):
        own = rows[(rows["kind"] == kind) & (rows["task_a"] != MEAN)]
        if len(own):
            shown = int((own["verdict"] != UNSHOWN).sum())
            sentences.append(
                f"Between {what}, MUI differs significantly in {shown} of {count(len(own), 'comparison')}; no "
                f"difference is shown in the other {len(own) - shown}."
                if shown < len(own)
                else f"Between {what}, MUI differs significantly in {_all(len(own))}."
            )
    sentences += _of_means(rows[(rows["kind"] != "tasks") & (rows["task_a"] == MEAN)], MOST - len(sentences))
    ms = rows.groupby("kind", sort=False)["m"].first().dropna()
    each = listed([f"{int(m)} ({kind})" for kind, m in ms.items()] if ms.nunique() > 1 else [str(m) for m in ms[:1]])
    caveat = (
        f"MUI of {each or 'no'} of a task's samples; {key_in_words(choice.curves)}. Significant: at 5 %, corrected for "
        f"the number of comparisons. The untrained checkpoint is left out. {RUNS}"
    )
    return Finding("Differences of MUI", tuple(sentences), caveat)


def _nothing_to_compare(utilization: pd.DataFrame) -> str:
    """Why the table comparisons has no rows."""
    numbers = {name: utilization[name].nunique() for name in ("task", "checkpoint", "model")}
    if max(numbers.values()) <= 1:
        have = ", ".join(f"{'one' if number else 'no'} {name}" for name, number in numbers.items())
        return f"There is nothing to compare: {have}."
    return (
        "There is nothing to compare: no model has two tasks at its last checkpoint, or two trained checkpoints with a "
        "task in common, and no two models have a task in common."
    )


def _all(number: int) -> str:
    return "the only comparison" if number == 1 else f"all {number} comparisons"


def _of_means(means: pd.DataFrame, most: int) -> list[str]:
    """Differences of means: of models, and of each last checkpoint to the one before; where too many, their number."""
    earlier = means[means["kind"] == "checkpoints"].groupby("model_b", sort=False).tail(1)  # rows are in training order
    rows = pd.concat([means[means["kind"] == "models"], earlier])
    if len(rows) > most:
        shown = int((rows["verdict"] != UNSHOWN).sum())
        return [
            f"Of {len(rows)} differences of means over tasks, between models and from the checkpoint before the last, "
            f"{shown} are significant; the table comparisons lists them."
        ]
    sentences = []
    for _, row in rows.iterrows():
        first, second = row["model_a"], row["model_b"]
        if row["kind"] == "checkpoints":
            first, second = row["checkpoint_a"], f"{row['model_b']} at {row['checkpoint_b']}"
        outcome = row["verdict"] if row["verdict"] == UNSHOWN else f"significantly {row['verdict']}"
        sentences.append(
            f"Mean over tasks, {second} against {first}: {points(estimate(row, 'difference'))}, {outcome}."
        )
    return sentences


def saturation(tables: Tables, choice: Choice) -> Finding:
    """Whether the samples have shown nearly all neurons that would ever be key.

    The lower end of Chao2's log-normal interval never lies below what was seen, so a task counts as saturated only
    where even the upper end leaves SATURATED of it seen, and as not saturated where the lower end leaves less.
    """
    cells = views.last(views.total_mui(tables["utilization"], choice.curves)).dropna(subset=["mui", "chao2"])
    cells = cells[cells["chao2_low"] > 0]
    if cells.empty:
        raise NothingToShow("No task has the two samples and the key neurons that an asymptote takes.")
    said = {}
    for model, rows in cells.groupby("model", sort=False):
        done = int((rows["mui"] >= SATURATED * rows["chao2_high"]).sum())
        open_ = int((rows["mui"] < SATURATED * rows["chao2_low"]).sum())
        row, _ = views.extremes(rows.assign(seen=rows["mui"] / rows["chao2"]), "seen")
        said[str(model)] = [
            f"{model}: MUI has not saturated on {open_} of {count(len(rows), 'task')}, has on {done}, undecided on "
            f"{len(rows) - done - open_}. Farthest from its asymptote is {row['task']}: {percent(float(row['mui']))} "
            f"of the neurons are key in its {int(row['n_samples'])} samples (a count, so without an interval), with "
            f"any number of samples at least {percent(estimate(row, 'chao2'))} would be."
        ]
    caveat = (
        f"Saturated: at least {100 * SATURATED:g} % of the asymptote was seen, over its whole interval. The asymptote "
        "(Chao2) is a lower bound, so a task that looks saturated may not be."
    )
    return Finding("Saturation", tuple(shortened(said, "utilization")), caveat)
