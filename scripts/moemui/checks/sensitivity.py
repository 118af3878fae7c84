"""Does the choice of threshold, formulation, selection, rule or scoring options change the picture (SPEC section 7)?

Each setting gives one vector over the cells (model, checkpoint, task); every pair of settings is compared over the
cells that both have. Cells of one checkpoint are no independent draws, so intervals over whole checkpoints stand beside
those over cells; p-values take every cell as a draw of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from moemui.experts.key_experts import EXPERT_THRESHOLD
from moemui.key_neurons.settings import Setting
from moemui.statistics.correlations import correlations
from moemui.tables.columns import SETTING_KEY
from moemui.tables.sensitivity import EXPERT_THRESHOLD_SENSITIVITY, SENSITIVITY

CELL = ["model", "checkpoint", "task"]
CLUSTER = ["model", "checkpoint"]


def differs_in(*, a: Setting, b: Setting) -> str:
    """The parts in which two settings differ, as `threshold` or `formulation, threshold`; empty for equal ones."""
    return ", ".join(name for name, x, y in zip(Setting._fields, a, b, strict=True) if x != y)


def rows(
    *,
    utilization: pd.DataFrame,
    key_experts: pd.DataFrame,
    expert_threshold: float = EXPERT_THRESHOLD,
    seed: int = 0,
) -> pd.DataFrame:
    """The table `sensitivity`: every pair of settings, for MUI and for the key-expert proportion at one η_expert.

    MUI is that of all samples and the total scope at the common m (cells differ in n otherwise).
    Raises ValueError where `key_experts` has rows, but none of this η_expert.
    """
    thresholds = key_experts["expert_threshold"]
    chosen = key_experts[np.isclose(thresholds, expert_threshold)]
    if len(key_experts) and chosen.empty:
        raise ValueError(
            f"key_experts has no rows at η_expert = {expert_threshold:g}, only at "
            f"{', '.join(f'{found:g}' for found in sorted(thresholds.unique()))}; ask for one of these"
        )
    total = utilization[(utilization["samples"] == "all") & (utilization["scope"] == "total")]
    records = []
    for measure, table, column in (
        ("mui", total, "mui_at_m"),
        ("key_expert_proportion", chosen, "proportion"),
    ):
        labels = [Setting(*values).label for values in table[list(SETTING_KEY)].itertuples(index=False)]
        vectors = table.assign(setting=labels).pivot(index=CELL, columns="setting", values=column)
        settings = sorted(vectors.columns, key=Setting.parse)
        for a, b, record in _every_pair(vectors[settings], "settings", seed):
            difference = differs_in(a=Setting.parse(a), b=Setting.parse(b))
            records.append({"measure": measure, "setting_a": a, "setting_b": b, "differs_in": difference} | record)
    return SENSITIVITY.frame(records)


def expert_threshold_rows(*, key_experts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The table `expert_threshold_sensitivity`: key-expert proportions at every pair of η_expert, setting by setting.

    Empty where `key_experts` holds one η_expert only.
    """
    records = []
    for _, group in key_experts.groupby(list(SETTING_KEY), sort=False):
        setting = Setting(*group[list(SETTING_KEY)].iloc[0]).label
        vectors = group.pivot(index=CELL, columns="expert_threshold", values="proportion")
        for a, b, record in _every_pair(vectors, "thresholds", seed):  # pivot has sorted them
            records.append({"setting": setting, "expert_threshold_a": a, "expert_threshold_b": b} | record)
    return EXPERT_THRESHOLD_SENSITIVITY.frame(records)


def _every_pair(vectors: pd.DataFrame, what: str, seed: int) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Every two columns and their statistics over the rows (cells) that both have; what: the columns, in the note."""
    columns = list(vectors.columns)
    numbers = vectors.to_numpy(dtype=float).T
    clusters = vectors.groupby(CLUSTER, sort=False).ngroup().to_numpy()
    present = ~np.isnan(numbers)
    # pairs over the same cells share their resamples
    alike: dict[bytes, list[tuple[int, int]]] = {}
    for a, b in itertools.combinations(range(len(columns)), 2):
        alike.setdefault((present[a] & present[b]).tobytes(), []).append((a, b))
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for cells, pairs in alike.items():
        common = np.frombuffer(cells, dtype=bool)
        needed = sorted({place for pair in pairs for place in pair})
        records = correlations(
            vectors=numbers[needed][:, common],
            pairs=[(needed.index(a), needed.index(b)) for a, b in pairs],
            clusters=clusters[common],
            seed=seed,
        )
        if left := int((~common).sum()):
            lack = f"{left} of {len(common)} cells lack one of the two {what}"
            for record in records:
                record["note"] = "; ".join(filter(None, [record["note"], lack]))
        found |= dict(zip(pairs, records, strict=True))
    for a, b in sorted(found):
        yield columns[a], columns[b], found[a, b]
