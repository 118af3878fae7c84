"""Differences of MUI: which of them, between models, checkpoints and tasks, are more than noise."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import MOST, Finding, Tables, reasons
from moemui.report.findings.utilization import RUNS
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import change, count, estimate, key_in_words, listed

UNSHOWN = "no difference shown"


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
            f"Mean over tasks, {second} against {first}: {change(estimate(row, 'difference'))}, {outcome}."
        )
    return sentences
