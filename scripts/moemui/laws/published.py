"""A study's own results beside the paper's published figures: absolute, and by rank.

Source: published_figures.md beside the table. A published model is the study's own where it has its name (its last
checkpoint then) or the name MODEL-CHECKPOINT; a task where the names agree but for upper and lower case; `mean` is the
mean over the study's tasks in which all checkpoints of the model have this metric. Published values have no intervals,
and MUI grows with the number of samples, so values taken at another number of samples or over other tasks are not
comparable; where the study's models have MUI at different m, neither are their ranks, and there is no correlation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.laws.laws import at, cells, different_m, last, mean_over_tasks, means, rank_correlation
from moemui.mui.dynamics import MEAN
from moemui.tables.published import PUBLISHED, PUBLISHED_AGREEMENT

PATH = Path(__file__).with_name("published_figures.csv")
PERCENT = "_percent"
FEWEST = 3  # pairs of a rank correlation


def load() -> pd.DataFrame:
    """Columns figure, model, task, metric (text) and value (float64), as the paper's project page prints them.

    Values of metrics ending in `_percent` are percent, the others shares from 0 to 1.
    """
    return pd.read_csv(PATH)


def rows(
    *,
    utilization: pd.DataFrame,
    performance: pd.DataFrame,
    key_experts: pd.DataFrame,
    expert_frequency: pd.DataFrame,
    curve_setting: Setting,
    expert_setting: Setting,
    expert_threshold: float,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables `published` and `published_agreement`; without rows where no name agrees.

    MUI (at the common m) is taken at curve_setting, experts at expert_setting and expert_threshold (η_expert). Ranks
    are among the values that have an own one: models of one task and metric, checkpoints of a trajectory, experts of
    one model; equal values share the best rank. Spearman's correlation takes three.
    """
    own = pd.concat(
        [
            _mui_and_performance(utilization, performance, curve_setting),
            _proportions(at(table=key_experts, setting=expert_setting), expert_threshold),
            _experts(at(table=expert_frequency, setting=expert_setting)),
        ],
        ignore_index=True,
    )
    records = list(_beside(own))
    agreement: list[dict[str, Any]] = []
    by = ["figure", "group", "task", "metric"]
    beside = pd.DataFrame(records, columns=[*PUBLISHED.names, "group", "common_m"])
    for values, group in beside.groupby(by, sort=False):
        barrier = different_m(common_m=group["common_m"])
        agreement.append(
            dict(zip(("figure", "model", "task", "metric"), values, strict=True)) | _agreement(group, barrier, seed)
        )
        for place in group.index:
            records[int(place)]["note"] = _joined(records[int(place)]["note"], barrier)
        for side in ("published", "own"):
            for place, rank in group[side].rank(ascending=False, method="min").items():
                records[int(str(place))][f"{side}_rank"] = int(rank)
    return (
        PUBLISHED.frame({name: record[name] for name in PUBLISHED.names} for record in records),
        PUBLISHED_AGREEMENT.frame(agreement),
    )


def _beside(own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Records of `published` but for the ranks, with `group`, the model whose parts are ranked, or '', and common_m."""
    # once: a study of the published size has millions of experts' frequencies
    tasks, named = own["task"].str.casefold(), own["model"] + "-" + own["checkpoint"]
    for row in load().to_dict("records"):
        metric, _, expert = row["metric"].partition(":")
        value = row["value"] / (100 if metric.endswith(PERCENT) else 1)
        metric = metric.removesuffix(PERCENT)
        same = own[
            (tasks == row["task"].casefold())
            & (own["metric"] == metric)
            & (own["expert"] == expert)
            & ((own["is_last"] & (own["model"] == row["model"])) | (named == row["model"]))
        ]
        for cell in same.to_dict("records"):
            inside = row["figure"] == "trajectory" or expert
            copied = ("model", "checkpoint", "own", "own_low", "own_high", "note", "common_m")
            yield {name: cell[name] for name in copied} | {
                "figure": row["figure"],
                "published_model": row["model"],
                "task": row["task"],
                "metric": metric,
                "expert": expert,
                "published": value,
                "difference": cell["own"] - value,
                "group": cell["model"] if inside else "",
            }


def _agreement(group: pd.DataFrame, barrier: str, seed: int) -> dict[str, Any]:
    """The measured columns of `published_agreement`. barrier: why ranks can't be compared, or empty."""
    n = len(group)
    correlation, p, note = np.nan, np.nan, f"a rank correlation takes {FEWEST}, found {n}"
    if n >= FEWEST and barrier:
        note = ""
    elif n >= FEWEST:
        correlation, p = rank_correlation(
            first=group["published"].to_numpy(dtype=float), second=group["own"].to_numpy(dtype=float), seed=seed
        )
        note = "all values of one side are equal" if np.isnan(correlation) else ""
    return {
        "n_common": n,
        "spearman": correlation,
        "spearman_p": p,
        "mean_difference": float(group["difference"].mean()),
        "note": _joined(note, barrier),
    }


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


PLACE = ["model", "checkpoint", "is_last", "task", "metric", "expert"]
COLUMNS = [*PLACE, "own", "own_low", "own_high", "note", "common_m"]


def _listed(rows: pd.DataFrame, metric: str, column: str, note: str) -> pd.DataFrame:
    """Values of a column with their intervals in the layout of COLUMNS; values that are missing are left out.

    note: why a value has no interval. A note that the rows have already stays before it.
    """
    renamed = rows.rename(columns={column: "own", f"{column}_low": "own_low", f"{column}_high": "own_high"})
    found = renamed.dropna(subset=["own"]).assign(metric=metric)
    for name, value in (("expert", ""), ("own_low", np.nan), ("own_high", np.nan), ("note", ""), ("common_m", np.nan)):
        if name not in found:
            found[name] = value
    missing = found[["own_low", "own_high"]].isna().any(axis=1)
    notes = [_joined(before, note * gap) for before, gap in zip(found["note"], missing, strict=True)]
    return found.assign(note=notes)[COLUMNS]


def _marked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `is_last`: whether they are of their model's last checkpoint."""
    return rows.assign(is_last=rows.index.isin(last(table=rows).index))


def _mui_and_performance(utilization: pd.DataFrame, performance: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Both metrics by task and in the mean; each mean is over all tasks that have its metric, graded or not."""
    measured = cells(utilization=utilization, performance=performance, setting=setting)
    measured = measured.assign(common_m=measured["common_m"].astype(float))
    parts = (("performance", "accuracy", "no interval"), ("mui", "mui", "too few samples for an interval over them"))
    listed = [_listed(_marked(measured), *part) for part in parts]
    for _, group in measured.groupby("model", sort=False):
        averaged = [means(cells=group, of=(column,)) for _, column, _ in parts]
        graded, scored = (int(mean["n_tasks"].max()) if len(mean) else 0 for mean in averaged)
        note = f"mean of performance over {graded} tasks, of MUI over {scored}" if graded != scored else ""
        for part, mean in zip(parts, averaged, strict=True):
            listed.append(_listed(_marked(mean.assign(note=note, common_m=group["common_m"].max())), *part))
    every = pd.concat([part for part in listed if len(part)] or listed[:1], ignore_index=True)
    return every.assign(common_m=every["common_m"].where(every["metric"] == "mui"))


def _proportions(key_experts: pd.DataFrame, expert_threshold: float) -> pd.DataFrame:
    chosen = key_experts[np.isclose(key_experts["expert_threshold"], expert_threshold)]
    records = []
    for (model, checkpoint, order), group in chosen.groupby(["model", "checkpoint", "order"], sort=False):
        names = ("proportion", "proportion_low", "proportion_high")
        value, low, high = (group[name].to_numpy(dtype=float) for name in names)
        mean = mean_over_tasks(values=value, lows=low, highs=high)
        place = {"model": model, "checkpoint": checkpoint, "order": order, "task": MEAN}
        records.append(place | dict(zip(names, mean, strict=True)))
    columns = ["model", "checkpoint", "order", "task", "proportion", "proportion_low", "proportion_high"]
    parts = [chosen[columns], pd.DataFrame(records, columns=columns)]
    every = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return _listed(_marked(every), "key_expert", "proportion", "one sample: no interval")


def _experts(expert_frequency: pd.DataFrame) -> pd.DataFrame:
    marked = _marked(expert_frequency)
    note = "no interval of a single expert is measured"
    parts = [
        _listed(marked.drop(columns=other), metric, metric, note)
        for metric, other in (("frequency", "expert_mui"), ("expert_mui", "frequency"))
    ]
    return pd.concat(parts, ignore_index=True)
