"""How large the study is, its axes, and how a table is filled and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from moemui.key_neurons.settings import Setting
from moemui.tables.catalog import TABLES
from moemui.tables.table import conform

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config" / "published.yaml").read_text())
FAMILIES = {model: entry["family"] for model, entry in CONFIG["models"].items()} | {
    "DeepSeek-V2-Lite-Base": "DeepSeek-V2"
}
DOMAINS = {task: entry["domain"] for task, entry in CONFIG["tasks"].items()}
MODELS, TASKS = tuple(FAMILIES), tuple(DOMAINS)
CHECKPOINTS = tuple(f"step-{1000 * step}" for step in (0, 1, 2, 5, 10, 20, 50))
LAST, N, WIDTH = len(CHECKPOINTS) - 1, 200, 1408  # WIDTH: neurons of an expert
# layers, routed and shared experts a layer: 60 to 130 experts on 24 to 32 layers
GEOMETRY = {model: (24 + 4 * (i % 3), (60, 64, 128)[i % 3], (4, 2, 0)[i % 3]) for i, model in enumerate(MODELS)}
CURVES, EXPERTS = Setting("projection", "pairs", 0.002), Setting("projection", "pairs", 0.001)
SETTINGS = [Setting(f, "pairs", eta) for f in ("projection", "glu", "activation") for eta in (0.0008, 0.001, 0.002)]
SETTINGS += [EXPERTS._replace(selection="neurons"), EXPERTS._replace(variant="unweighted")]
CHECKED = 10_000  # rows of a table that are checked, since checking half a million takes seconds
ETAS = (0.5, 0.6, 0.7)  # limits of the frequency from which an expert is key


def grid(**axes: Any) -> pd.DataFrame:
    """Every combination of the axes' values, a column an axis, the last one fastest."""
    places = np.indices([len(values) for values in axes.values()]).reshape(len(axes), -1)
    columns = zip(axes.items(), places, strict=True)
    return pd.DataFrame({name: np.asarray(values, dtype=object)[place] for (name, values), place in columns})


def study_cells(setting: Setting | None = None, orders: Any = range(LAST + 1), **axes: Any) -> pd.DataFrame:
    """model × checkpoint × other axes, with tokens and order, at a setting if given."""
    cells = grid(model=MODELS, order=list(orders), **axes)
    order = cells["order"].astype(int)
    steps = np.array([float(name.removeprefix("step-")) for name in CHECKPOINTS])
    cells = cells.assign(order=order, checkpoint=np.array(CHECKPOINTS)[order], tokens=steps[order] * 4e6)
    return cells.assign(**(setting._asdict() if setting else {}))


def around(name: str, value: Any, margin: Any, low: float = -np.inf, high: float = np.inf) -> dict[str, Any]:
    """NAME, NAME_low and NAME_high, the ends kept within a range."""
    value = np.clip(value, low, high)
    return {
        name: value,
        f"{name}_low": np.maximum(value - margin, low),
        f"{name}_high": np.minimum(value + margin, high),
    }


def share(name: str, value: Any, margin: Any) -> dict[str, Any]:
    return around(name, value, margin, 0.0, 1.0)


def wilson(name: str, share: Any, n: Any) -> dict[str, Any]:
    middle, z = (share + 1.92 / n) / (1 + 3.84 / n), 1.96 / (1 + 3.84 / n)
    half = z * np.sqrt(share * (1 - share) / n + 0.96 / n**2)
    return {
        name: share,
        f"{name}_low": np.clip(middle - half, 0, share),
        f"{name}_high": np.clip(middle + half, share, 1),
    }


class Made:
    """The tables made so far, by name, and the draws."""

    def __init__(self, seed: int):
        self.draws = np.random.default_rng(seed)
        self.frames: dict[str, pd.DataFrame] = {}

    def add(self, name: str, frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
        """A table of these columns; those that nobody reads are 0, empty or missing, with a note that says so."""
        table, frame = TABLES[name], frame.assign(**columns)
        nothing = {"string": "", "int64": 0, "bool": False, "Int64": pd.NA, "boolean": pd.NA, "float64": np.nan}
        missing = [column for column in table.columns if column.name not in frame]
        for column in missing:
            frame[column.name] = nothing[column.dtype] if column.nullable or column.dtype != "float64" else 0.0
        if "note" in table.names and frame[[column.name for column in table.columns if column.nullable]].isna().any(
            axis=None
        ):
            frame["note"] = "made up"
        checked = conform(frame[table.names].head(CHECKED), table)
        self.frames[name] = frame[table.names].astype(checked.dtypes.to_dict()).reset_index(drop=True)
        return self.frames[name]

    def noise(self, frame: pd.DataFrame, scale: float, by: str = "") -> np.ndarray:
        """Normal draws, one a row or one a value of a column."""
        if not by:
            return self.draws.normal(0, scale, len(frame))
        codes, values = pd.factorize(frame[by])
        return self.draws.normal(0, scale, len(values))[codes]

    def total(self) -> pd.DataFrame:
        rows = self.frames["utilization"]
        rows = rows[(rows["scope"] == "total") & (rows["threshold"] == CURVES.threshold)]
        return rows.reset_index(drop=True)
