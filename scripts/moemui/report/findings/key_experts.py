"""Key experts: how many experts are key, and how far that rests on η_expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import Choice, Estimate, NothingToShow
from moemui.report.wording import count, estimate, key_in_words, percent

AGAINST = {1: "a larger share now", 0: "not shown to differ", -1: "a smaller share now"}


@dataclass(frozen=True)
class Concentration:
    """Key experts of a model's last checkpoint, means over its tasks.

    share: of all experts. n_key, n_shared: key experts and the shared ones among them, a mean count. n_experts: all
    experts. untrained: the share before any training, None without such a checkpoint or where it is itself the last.
    at_limits: η_expert → the share, at the ends of the grid but for the chosen limit; empty where there is one only.
    """

    share: Estimate
    n_key: float
    n_shared: float
    n_experts: int
    untrained: Estimate | None
    at_limits: dict[float, Estimate]

    @property
    def against_untrained(self) -> int:
        """1 or −1 where the share's interval lies above or below the untrained one's, else 0."""
        if self.untrained is None:
            return 0
        return int(self.share.low > self.untrained.high) - int(self.share.high < self.untrained.low)

    @property
    def beside(self) -> str:
        """The share as a count, how many are shared, and the untrained share, in words."""
        counted = f"about {_amount(self.n_key)} of {self.n_experts}"
        if self.n_shared:
            counted += f", {_amount(self.n_shared)} of them shared"
        if self.untrained is None:
            return counted
        return f"{counted}; untrained {percent(self.untrained.value)}, {AGAINST[self.against_untrained]}"


def concentration(tables: Tables, choice: Choice) -> dict[str, Concentration]:
    """model → its concentration; empty where key experts were not counted at the chosen setting and η_expert."""
    try:
        chosen = views.key_experts(tables["key_experts"], choice)
    except NothingToShow:
        return {}
    grids = views.last(views.at(tables["key_experts"], choice.experts, "key_experts"))
    found = {}
    for model, rows in views.last(chosen).groupby("model", sort=False):
        start = chosen[(chosen["model"] == model) & views.untrained(chosen) & (chosen["order"] < rows["order"].iloc[0])]
        start = start[start["task"].isin(rows["task"])]
        grid = grids[grids["model"] == model]
        found[str(model)] = Concentration(
            share=views.mean_column(rows, "proportion"),
            n_key=float(rows["n_key"].mean()),
            n_shared=float(rows["n_key_shared"].mean()),
            n_experts=int(rows["n_experts"].iloc[0]),
            untrained=views.mean_column(start, "proportion") if len(start) else None,
            at_limits=_at_limits(grid, rows),
        )
    return found


def _amount(mean: float) -> str:
    """A mean count as a whole number, halves up; with a decimal below 1, where there is anything."""
    return f"{int(mean + 0.5)}" if mean >= 1 or not mean else f"{mean:.1f}"


def _at_limits(grid: pd.DataFrame, rows: pd.DataFrame) -> dict[float, Estimate]:
    """The mean share at the lowest and the highest of the limits that are not the rows' own."""
    limits = sorted(set(grid["expert_threshold"]) - set(rows["expert_threshold"]))
    return {
        limit: views.mean_column(grid[grid["expert_threshold"] == limit], "proportion")
        for limit in sorted({*limits[:1], *limits[-1:]})
    }


def key_experts(tables: Tables, choice: Choice) -> Finding:
    """KeyExpertProportion of each model's last checkpoint, and how far it rests on η_expert."""
    views.key_experts(tables["key_experts"], choice)  # raises where the chosen η_expert has no rows
    said, measured = {}, concentration(tables, choice)
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
        now = measured[str(model)]
        if now.untrained is not None:
            text += f"; untrained {percent(now.untrained)}: {AGAINST[now.against_untrained]}"
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
    ends = [f"{percent(share)} with a limit of {limit:g}" for limit, share in _at_limits(grid, rows).items()]
    if not ends:
        return f"{text}."
    return f"{text}; the mean share of key experts would be {' and '.join(ends)}."
