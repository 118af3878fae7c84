"""The paper's published figures, for setting a study's own results of the same model beside them.

Source: published_figures.md beside the table. Values there are percent, or shares for single experts, as printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from moemui.report import views
from moemui.report.views import Choice, NothingToShow

PATH = Path(__file__).with_name("published_figures.csv")
# A published metric and the table and column that measure the same here.
METRICS = {
    "performance_percent": ("trajectory", "accuracy"),
    "mui_percent": ("trajectory", "mui"),
    "key_expert_percent": ("key_experts", "proportion"),
}


def load() -> pd.DataFrame:
    """Columns figure, model, task, metric (text) and value (float64), as the paper's project page prints them."""
    return pd.read_csv(PATH)


def beside(tables: Mapping[str, pd.DataFrame], choice: Choice) -> pd.DataFrame:
    """Published values beside the study's own: model, task, metric, published, own, low, high (all shares).

    A published model is the study's own where it has the model's name (its last checkpoint then) or the name
    MODEL-CHECKPOINT; a task where the names agree but for upper and lower case. Empty where nothing agrees, in
    particular for models that only resemble a published one.
    """
    sources = {}
    for name, rows in (
        ("trajectory", lambda: views.trajectory(tables, choice)),
        ("key_experts", lambda: views.key_experts(tables["key_experts"], choice)),
    ):
        try:
            sources[name] = rows()
        except NothingToShow:
            continue
    records = []
    for row in load().to_dict("records"):
        if row["metric"] not in METRICS or METRICS[row["metric"]][0] not in sources:
            continue
        source, column = METRICS[row["metric"]]
        own = _own(sources[source], row["model"], row["task"]).dropna(subset=[column])
        for _, cell in own.iterrows():
            record = {"model": row["model"], "task": row["task"], "metric": row["metric"].removesuffix("_percent")}
            record |= {"published": row["value"] / 100, "own": cell[column]}
            records.append(record | {"low": cell[f"{column}_low"], "high": cell[f"{column}_high"]})
    return pd.DataFrame(records, columns=["model", "task", "metric", "published", "own", "low", "high"])


def _own(cells: pd.DataFrame, model: str, task: str) -> pd.DataFrame:
    same_task = cells["task"].str.casefold() == task.casefold()
    ends = cells["order"] == cells.groupby("model", sort=False)["order"].transform("max")
    named = (cells["model"] == model) & ends
    return cells[same_task & (named | (cells["model"] + "-" + cells["checkpoint"] == model))]
