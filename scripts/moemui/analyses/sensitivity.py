"""Does the choice of threshold, formulation or selection change the picture (SPEC section 7)?

Each setting gives one vector over the cells (model, checkpoint, task); every pair of settings is correlated over the
cells that both have. Cells of one model are no independent draws, so p-values and intervals are a description.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial import distance

from moemui.analyses import intervals
from moemui.analyses.settings import Setting
from moemui.tables.columns import SETTING_KEY
from moemui.tables.sensitivity import SENSITIVITY

CELL = ["model", "checkpoint", "task"]
FEWEST_CELLS = 3  # two points always correlate perfectly
MOST_DEGENERATE = 0.05  # share of resamples that may be constant before no interval is given


def correlations(*, a: np.ndarray, b: np.ndarray, seed: int, resamples: int = intervals.RESAMPLES) -> dict[str, Any]:
    """Pearson and Spearman with p-value and 95 % percentile bootstrap interval over cells, and the cosine.

    a, b: float64, (cells,), the same cells. Keys as in the table `sensitivity`, from n_cells to note. All are
    missing, with a note, for fewer than three cells; correlations for a constant vector, the cosine for one of zeros.
    Resamples in which a vector is constant have no correlation: they are left out, and above 5 % of them there is no
    interval.
    Raises ValueError for unequal shapes or values that are not finite.
    """
    if a.shape != b.shape or a.ndim != 1 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"vectors of shapes {a.shape} and {b.shape}; both must be finite and over the same cells")
    gap, notes = float("nan"), []
    record: dict[str, Any] = {"n_cells": len(a)}
    for name in ("pearson", "spearman"):
        record |= {name: gap, f"{name}_p": gap, f"{name}_low": gap, f"{name}_high": gap}
    zero = not (a.any() and b.any())
    # distance.cosine may leave 1 by a rounding error
    few = len(a) < FEWEST_CELLS  # of a single cell the cosine is always 1
    record["cosine"] = gap if zero or few else float(np.clip(1 - distance.cosine(a, b), -1, 1))
    constant = bool(len(a)) and bool(np.ptp(a) == 0 or np.ptp(b) == 0)
    if few:
        notes.append(f"{len(a)} cells in common, a correlation or cosine needs {FEWEST_CELLS}")
    elif constant:
        notes.append("a vector is constant: no correlation")
    else:
        draws = np.random.default_rng(seed).integers(0, len(a), size=(resamples, len(a)))
        drawn_a, drawn_b = a[draws], b[draws]
        usable = (np.ptp(drawn_a, axis=1) > 0) & (np.ptp(drawn_b, axis=1) > 0)
        drawn_a, drawn_b = drawn_a[usable], drawn_b[usable]
        pearson, spearman = stats.pearsonr(a, b), stats.spearmanr(a, b)
        record |= {"pearson": float(pearson.statistic), "pearson_p": float(pearson.pvalue)}
        record |= {"spearman": float(spearman.statistic), "spearman_p": float(spearman.pvalue)}
        if usable.mean() < 1 - MOST_DEGENERATE:
            notes.append("too few cells for an interval: resamples are constant")
        else:
            drawn = stats.pearsonr(drawn_a, drawn_b, axis=1).statistic
            record["pearson_low"], record["pearson_high"] = intervals.percentile(means=drawn)
            # Spearman is Pearson of the ranks; a resample's ties need ranks of their own
            ranked = stats.pearsonr(stats.rankdata(drawn_a, axis=1), stats.rankdata(drawn_b, axis=1), axis=1).statistic
            record["spearman_low"], record["spearman_high"] = intervals.percentile(means=ranked)
    if zero and not few:
        notes.append("a vector is zero: no cosine")
    return record | {"note": "; ".join(notes)}


def rows(*, utilization: pd.DataFrame, key_experts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The table `sensitivity`: every pair of settings, for MUI and for the key-expert proportion.

    MUI is that of all samples and the total scope at the common m (cells differ in n otherwise).
    Raises ValueError where `key_experts` holds several η_expert: pass the rows of one.
    """
    if key_experts["expert_threshold"].nunique() > 1:
        found = sorted(key_experts["expert_threshold"].unique().tolist())
        raise ValueError(f"key_experts holds the expert thresholds {found}; pass the rows of one of them")
    total = utilization[(utilization["samples"] == "all") & (utilization["scope"] == "total")]
    records = []
    for measure, table, column in (
        ("mui", total, "mui_at_m"),
        ("key_expert_proportion", key_experts, "proportion"),
    ):
        labels = [Setting(*values).label for values in table[list(SETTING_KEY)].itertuples(index=False)]
        vectors = table.assign(setting=labels).pivot(index=CELL, columns="setting", values=column)
        for first, second in itertools.combinations(sorted(vectors.columns), 2):
            pair = vectors[[first, second]].dropna()
            record = correlations(a=pair[first].to_numpy(dtype=float), b=pair[second].to_numpy(dtype=float), seed=seed)
            if left := len(vectors) - len(pair):
                record["note"] = "; ".join(filter(None, [record["note"], f"{left} cells lack one of the two settings"]))
            records.append({"measure": measure, "setting_a": first, "setting_b": second, **record})
    return SENSITIVITY.frame(records)
