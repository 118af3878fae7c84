"""Key experts: how many experts are key, and how far that rests on η_expert."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import Choice
from moemui.report.wording import count, estimate, key_in_words, percent


def key_experts(tables: Tables, choice: Choice) -> Finding:
    """KeyExpertProportion of each model's last checkpoint, and how far it rests on η_expert."""
    views.key_experts(tables["key_experts"], choice)  # raises where the chosen η_expert has no rows
    said = {}
    every = views.last(views.at(tables["key_experts"], choice.experts, "key_experts"))
    for model, grid in every.groupby("model", sort=False):
        rows = grid[np.isclose(grid["expert_threshold"], choice.expert_threshold)]
        if rows.empty:
            continue
        low, high = views.extremes(rows, "proportion")
        text = (
            f"{model} at {rows['checkpoint'].iloc[0]}: {percent(views.mean_column(rows, 'proportion'))} of its "
            f"{int(rows['n_experts'].iloc[0])} experts are key, mean over {count(len(rows), 'task')}"
        )
        if low["proportion"] < high["proportion"]:
            text += (
                f", from {percent(estimate(low, 'proportion'))} ({low['task']}) to "
                f"{percent(estimate(high, 'proportion'))} ({high['task']})"
            )
        said[str(model)] = [f"{text}.", _decided(str(model), rows, grid, choice)]
    caveat = (
        f"Key: active in at least {choice.expert_threshold:g} of the samples (η_expert); {key_in_words(choice.experts)}"
        ". How many experts are key depends on both limits."
    )
    return Finding("Key experts", tuple(shortened(said, "key_experts")), caveat)


def _decided(model: str, rows: pd.DataFrame, grid: pd.DataFrame, choice: Choice) -> str:
    """How many experts may as well be on the other side of η_expert, and the share at the grid's ends."""
    text = (
        f"{model}: of {count(int(rows['n_experts'].sum()), 'decision')} (an expert on a task), "
        f"{int(rows['n_undecided'].sum())} are undecided, since the interval of the expert's frequency contains "
        f"{choice.expert_threshold:g}"
    )
    limits = sorted(set(grid["expert_threshold"]) - set(rows["expert_threshold"]))
    if not limits:
        return f"{text}."
    ends = [
        f"{percent(views.mean_column(grid[grid['expert_threshold'] == limit], 'proportion'))} with a limit of {limit:g}"
        for limit in sorted({limits[0], limits[-1]})
    ]
    return f"{text}; the mean share of key experts would be {' and '.join(ends)}."
