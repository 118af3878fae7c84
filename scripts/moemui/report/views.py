"""What figures, findings and the report read from the tables: the same rows and the same means for all three.

A study stores many settings; a `Choice` says which of them is shown where. Nothing is estimated here that a table does
not hold, except the mean over tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from moemui.experts.key_experts import EXPERT_THRESHOLD
from moemui.key_neurons.settings import Setting
from moemui.mui.dynamics import MEAN

TOP = 10  # experts shown, as in the paper


@dataclass(frozen=True)
class Choice:
    """Which settings are shown where.

    curves: MUI, its trajectories, layers and phases. experts: frequencies, key experts, enrichment. masking: masking.
    families: model → family; models of one family share a colour, a model that is not named is its own family.
    trained_here: models whose weights the workflow itself trained.
    """

    curves: Setting
    experts: Setting
    masking: Setting
    expert_threshold: float = EXPERT_THRESHOLD
    families: Mapping[str, str] = field(default_factory=dict)
    trained_here: tuple[str, ...] = ()


class NothingToShow(ValueError):
    """A figure or finding has no rows; the message is a sentence for the reader."""


class Estimate(NamedTuple):
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


def at(table: pd.DataFrame, setting: Setting, what: str) -> pd.DataFrame:
    """The rows of one setting. Raises NothingToShow, naming `what` and the settings that there are, for none."""
    if table.empty:
        raise NothingToShow(f"The table {what} is empty.")
    rows = table[
        (table["formulation"] == setting.formulation)
        & (table["selection"] == setting.selection)
        & np.isclose(table["threshold"], setting.threshold, rtol=1e-9, atol=0)
        & (table["rule"] == setting.rule)
        & (table["variant"] == setting.variant)
    ]
    if rows.empty:
        there = sorted({Setting(*row).label for row in table[list(Setting._fields)].itertuples(index=False)})
        raise NothingToShow(f"The table {what} has no rows at {setting.label}, only at {', '.join(there)}.")
    return rows


def last(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model's last checkpoint in training order."""
    return table[table["order"] == table.groupby("model", sort=False)["order"].transform("max")]


def untrained(table: pd.DataFrame) -> pd.Series:
    """True on rows of a checkpoint that has seen no tokens."""
    return table["tokens"] == 0


def names(table: pd.DataFrame, column: str) -> list[str]:
    """The column's values in the order in which they first occur."""
    return [str(value) for value in pd.unique(table[column])]


def mean_estimate(values: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> Estimate:
    """Mean of independent estimates, float64 (n,), with its 95 % interval; no interval where one of theirs is missing.

    MOVER (Zou and Donner 2008): the distances to the lower ends add up in quadrature, and so do those to the upper
    ends. It keeps the asymmetry of Wilson and bootstrap intervals. Tasks have samples of their own, so they are
    independent given the model. Raises ValueError for no estimates or a missing value.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"a mean needs one or more finite values, found {list(values)}")
    mean = float(values.mean())
    below = float(np.sqrt(((values - lows) ** 2).sum())) / len(values)
    above = float(np.sqrt(((highs - values) ** 2).sum())) / len(values)
    return Estimate(mean, mean - below, mean + above)


def mean_column(rows: pd.DataFrame, column: str) -> Estimate:
    """`mean_estimate` over the rows of an estimate's three columns: NAME, NAME_low, NAME_high."""
    three = [rows[name].to_numpy(dtype=float, na_value=np.nan) for name in (column, f"{column}_low", f"{column}_high")]
    return mean_estimate(*three)


def extremes(rows: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The rows with the lowest and the highest value of a column without gaps, the first of several."""
    values = rows[column].to_numpy(dtype=float)
    return rows.iloc[int(values.argmin())], rows.iloc[int(values.argmax())]


def total_mui(utilization: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """MUI of all samples and all neurons at one setting."""
    rows = at(utilization, setting, "utilization")
    return rows[(rows["samples"] == "all") & (rows["scope"] == "total")]


def trajectory(tables: Mapping[str, pd.DataFrame], choice: Choice) -> pd.DataFrame:
    """Accuracy and MUI (at the common m) of every model × checkpoint × task, and of the mean over tasks.

    MUI has its interval over samples (jackknife), which holds what it says also where neurons come together.

    Columns: model, checkpoint, order, tokens, task, accuracy and mui with _low and _high, common_m, n_tasks. The mean
    is taken over the tasks that have both values at every checkpoint of the model, so that its steps compare the same
    tasks; a model without such a task has no mean. Raises NothingToShow where the tables have no rows.
    """
    mui = total_mui(tables["utilization"], choice.curves).rename(
        columns={
            "mui_at_m": "mui",
            "mui_at_m_sample_low": "mui_low",
            "mui_at_m_sample_high": "mui_high",
            "mui": "mui_all",
        }
    )
    if tables["performance"].empty:
        raise NothingToShow("The table performance is empty.")
    cell = ["model", "checkpoint", "task"]
    accuracy = tables["performance"][[*cell, "accuracy", "accuracy_low", "accuracy_high"]]
    own = mui[[*cell, "order", "tokens", "mui", "mui_low", "mui_high", "common_m"]].merge(accuracy, on=cell, how="left")
    return pd.concat([own.assign(n_tasks=1), _means(own)], ignore_index=True)


def _means(own: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for model, group in own.groupby("model", sort=False):
        complete = group.dropna(subset=["accuracy", "mui"])
        tasks = complete.groupby("task", sort=False).size()
        tasks = tasks[tasks == group["checkpoint"].nunique()]
        for checkpoint, cells in complete[complete["task"].isin(tasks.index)].groupby("checkpoint", sort=False):
            row = {"model": model, "checkpoint": checkpoint, "task": MEAN, "n_tasks": len(cells)}
            row |= {name: cells[name].iloc[0] for name in ("order", "tokens", "common_m")}
            for name in ("accuracy", "mui"):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), mean_column(cells, name), strict=True))
            rows.append(row)
    # typed as `own`, so that joining an empty frame of means changes no column
    return pd.DataFrame(rows, columns=[*own.columns, "n_tasks"]).astype(own.dtypes.to_dict() | {"n_tasks": "int64"})


def layers(expert_frequency: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """MUI by layer and kind (routed, shared) on each model's last checkpoint: model, layer, kind, task, mui.

    Experts of one kind and layer have equal widths and no neuron in common, so the mean of their expert MUI is the MUI
    of that kind in that layer, over all n samples of the task.
    """
    rows = last(at(expert_frequency, setting, "expert_frequency"))
    by = ["model", "checkpoint", "layer", "kind", "task"]
    return rows.groupby(by, sort=False)["expert_mui"].mean().rename("mui").reset_index()


def top_experts(expert_frequency: pd.DataFrame, setting: Setting, count: int = TOP) -> pd.DataFrame:
    """The most frequent experts of each model's last checkpoint over its tasks: model, expert, kind, frequency,
    expert_mui, rank.

    frequency: share of all tasks' samples together; expert_mui: mean over tasks. Ties as in the table: higher expert
    MUI first, then the expert's place in the model.
    """
    rows = last(at(expert_frequency, setting, "expert_frequency"))
    rows = rows.assign(active=rows["frequency"] * rows["n_samples"])
    by = ["model", "checkpoint", "layer", "expert", "kind"]
    pooled = rows.groupby(by, sort=False).agg(
        active=("active", "sum"), n_samples=("n_samples", "sum"), expert_mui=("expert_mui", "mean")
    )
    pooled = pooled.reset_index().assign(frequency=lambda frame: frame["active"] / frame["n_samples"])
    found = []
    for _, group in pooled.groupby("model", sort=False):
        best = group.sort_values(["frequency", "expert_mui"], ascending=False, kind="stable").head(count)
        found.append(best.assign(rank=range(1, len(best) + 1)))
    columns = ["model", "checkpoint", "expert", "kind", "frequency", "expert_mui", "rank"]
    return pd.concat(found, ignore_index=True)[columns]


def key_experts(table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The rows of the chosen setting and η_expert. Raises NothingToShow for none."""
    return _expert_threshold(at(table, choice.experts, "key_experts"), choice, "key_experts")


def enrichment(table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The chosen setting's rows, testable or not, of each model's last trained checkpoint and its untrained one."""
    rows = _expert_threshold(at(table, choice.experts, "enrichment"), choice, "enrichment")
    return rows[rows["is_baseline"] | (rows["order"] == rows.groupby("model", sort=False)["order"].transform("max"))]


def _expert_threshold(rows: pd.DataFrame, choice: Choice, what: str) -> pd.DataFrame:
    chosen = rows[np.isclose(rows["expert_threshold"], choice.expert_threshold)]
    if chosen.empty:
        raise NothingToShow(f"The table {what} has no rows at η_expert = {choice.expert_threshold:g}.")
    return chosen


def differing(sensitivity: pd.DataFrame, measure: str, part: int) -> pd.DataFrame:
    """Rows of a measure whose two settings differ in one part only, by its place in `Setting`: 2 for the threshold."""
    rows = sensitivity[sensitivity["measure"] == measure]
    pairs = zip(rows["setting_a"].map(Setting.parse), rows["setting_b"].map(Setting.parse), strict=True)
    wanted = [place == part for place in range(len(Setting._fields))]
    mask = [[x != y for x, y in zip(a, b, strict=True)] == wanted for a, b in pairs]
    return rows[np.array(mask, dtype=bool)]  # an empty list would select columns
