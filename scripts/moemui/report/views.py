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
from moemui.statistics.intervals import mean_of_estimates

TOP = 10  # experts shown, as in the paper
# Why a study has no row of a table, where that is no mistake.
NONE = {
    "masking_effect": "No checkpoint of this study was masked.",
    "phases": "A model needs two trained checkpoints for a phase; no model of this study has them.",
    "diversity": "How results depend on the number of domains was not measured.",
}
MEASURED = ("accuracy", "mui")  # what a trajectory holds of each cell
SAMPLES = {"accuracy": "n_graded", "mui": "n_samples"}  # and what each is measured on


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
        raise NothingToShow(NONE.get(what, f"The table {what} is empty."))
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


def mean_column(rows: pd.DataFrame, column: str) -> Estimate:
    """Mean of independent estimates (MOVER) over the rows of three columns: NAME, NAME_low, NAME_high."""
    values, lows, highs = (
        rows[name].to_numpy(dtype=float, na_value=np.nan) for name in (column, f"{column}_low", f"{column}_high")
    )
    return Estimate(*mean_of_estimates(values=values, lows=lows, highs=highs))


def extremes(rows: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The rows with the lowest and the highest value of a column without gaps, the first of several."""
    values = rows[column].to_numpy(dtype=float)
    return rows.iloc[int(values.argmin())], rows.iloc[int(values.argmax())]


def total_mui(utilization: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """MUI of all samples and all neurons at one setting."""
    rows = at(utilization, setting, "utilization")
    return rows[(rows["samples"] == "all") & (rows["scope"] == "total")]


def trajectory(tables: Mapping[str, pd.DataFrame], choice: Choice, both: bool = False) -> pd.DataFrame:
    """Accuracy and MUI (at the common m) of every model × checkpoint × task, and of the mean over tasks.

    MUI has its interval over samples (jackknife). Up to half of a cell's samples it was found to hold what it says,
    between halves of real tasks; nearer to all of them it is too narrow, see `mui.utilization.common_samples`.

    Columns: model, checkpoint, order, tokens, task, accuracy and mui with _low and _high, common_m, n_graded and
    n_samples (the samples behind accuracy and MUI; of a mean those of its tasks together), n_accuracy, n_mui. The mean
    of each is taken over the tasks that have it at every checkpoint of the model, so that its steps compare the same
    tasks; n_accuracy and n_mui count these tasks (on a task's own row 1 where it is one of them, else 0). A mean over
    none is missing, and a model without either has no mean. both: cells that lack one of the two count as
    lacking both, so that both means are over the same tasks. Raises NothingToShow where the tables have no rows.
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
    accuracy = tables["performance"][[*cell, "accuracy", "accuracy_low", "accuracy_high", "n_graded"]]
    own = mui[[*cell, "order", "tokens", "mui", "mui_low", "mui_high", "common_m", "n_samples"]].merge(
        accuracy, on=cell, how="left"
    )
    if both:
        estimates = [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")]
        own.loc[own[list(MEASURED)].isna().any(axis=1), estimates] = np.nan
    own = own.assign(n_accuracy=0, n_mui=0, n_graded=own["n_graded"].fillna(0).astype(int))
    for _, group in own.groupby("model", sort=False):
        for name in MEASURED:
            own.loc[group.index, f"n_{name}"] = group["task"].isin(_everywhere(group, name)).astype(int)
    return pd.concat([own, _means(own)], ignore_index=True)


def _everywhere(group: pd.DataFrame, name: str) -> pd.Index:
    """The tasks that have the value at every checkpoint of the group."""
    known = group.dropna(subset=[name]).groupby("task", sort=False)["checkpoint"].nunique()
    return known[known == group["checkpoint"].nunique()].index


def _means(own: pd.DataFrame) -> pd.DataFrame:
    rows = []
    counted = own[(own["n_accuracy"] > 0) | (own["n_mui"] > 0)]
    for (model, checkpoint), cells in counted.groupby(["model", "checkpoint"], sort=False):
        row = {"model": model, "checkpoint": checkpoint, "task": MEAN}
        row |= {name: cells[name].iloc[0] for name in ("order", "tokens", "common_m")}
        row |= {samples: cells.loc[cells[f"n_{name}"] > 0, samples].sum() for name, samples in SAMPLES.items()}
        for name in MEASURED:
            of = cells[cells[f"n_{name}"] > 0]
            mean = mean_column(of, name) if len(of) else Estimate(np.nan, np.nan, np.nan)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), mean, strict=True)) | {f"n_{name}": len(of)}
        rows.append(row)
    # typed as `own`, so that joining an empty frame of means changes no column
    return pd.DataFrame(rows, columns=own.columns).astype(own.dtypes.to_dict())


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
