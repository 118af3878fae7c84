"""Are shared experts key more often than routed ones (SPEC section 6)? Fisher's exact test on physical experts.

A shared expert sees every token, so it is enriched by construction: the test on the untrained checkpoint stands beside
every result. Each physical expert counts once, because task × layer cells are no independent units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from moemui.analyses.experts import EXPERT_THRESHOLD, key_experts
from moemui.analyses.intervals import CONFIDENCE, Z
from moemui.tables.columns import SETTING_KEY
from moemui.tables.enrichment import ENRICHMENT

CELL = ("model", "checkpoint", *SETTING_KEY)


@dataclass(frozen=True)
class Fisher:
    """Fisher's exact test of one 2×2 table; NaN where something is infinite or undefined (see the notes).

    odds_ratio: sample odds ratio. odds_ratio_conditional, low, high: conditional maximum likelihood estimate and its
    exact 95 % interval. odds_ratio_corrected: Haldane–Anscombe, 0.5 added to every cell, with its Wald interval.
    """

    p_greater: float
    p_two_sided: float
    odds_ratio: float
    odds_ratio_conditional: float
    low: float
    high: float
    odds_ratio_corrected: float
    odds_ratio_corrected_low: float
    odds_ratio_corrected_high: float
    odds_ratio_note: str
    note: str

    @property
    def testable(self) -> bool:
        """False where a row or column of the table is empty."""
        return not np.isnan(self.odds_ratio_corrected)


@lru_cache(maxsize=4096)  # the same few tables recur over settings, and the exact interval is a root search
def fisher(*, shared_key: int, shared_other: int, routed_key: int, routed_other: int) -> Fisher:
    """Fisher's exact test of shared/routed × key/not key, one-sided (shared more often key) and two-sided.

    An empty row or column leaves nothing to compare: p = 1, no odds ratio, and the note says which one it is.
    Raises ValueError for negative counts.
    """
    table = np.array([[shared_key, shared_other], [routed_key, routed_other]])
    if (table < 0).any():
        raise ValueError(f"the table {table.tolist()} holds a negative count; counts of experts are 0 or more")
    sums = {
        "no shared experts": table[0].sum(),
        "no routed experts": table[1].sum(),
        "no key expert": table[:, 0].sum(),
        "every expert is key": table[:, 1].sum(),
    }
    gap = float("nan")
    if empty := [name for name, total in sums.items() if total == 0]:
        return Fisher(1.0, 1.0, gap, gap, gap, gap, gap, gap, gap, "undefined", ", ".join(empty))
    conditional = stats.contingency.odds_ratio(table, kind="conditional")
    interval = conditional.confidence_interval(confidence_level=CONFIDENCE)
    corrected = table + 0.5
    log_ratio = float(np.log(corrected[0, 0] * corrected[1, 1] / (corrected[0, 1] * corrected[1, 0])))
    error = float(np.sqrt((1 / corrected).sum()))
    infinite = shared_other * routed_key == 0  # not undefined: no row and no column is empty
    return Fisher(
        p_greater=_probability(stats.fisher_exact(table, alternative="greater").pvalue),
        p_two_sided=_probability(stats.fisher_exact(table, alternative="two-sided").pvalue),
        odds_ratio=gap if infinite else shared_key * routed_other / (shared_other * routed_key),
        odds_ratio_conditional=_finite(conditional.statistic),
        low=_finite(interval.low),
        high=_finite(interval.high),
        odds_ratio_corrected=float(np.exp(log_ratio)),
        odds_ratio_corrected_low=float(np.exp(log_ratio - Z * error)),
        odds_ratio_corrected_high=float(np.exp(log_ratio + Z * error)),
        odds_ratio_note="infinite" if infinite else "",
        note="",
    )


def _probability(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float("nan")


def always_key(*, keys: Sequence[np.ndarray]) -> np.ndarray:
    """Experts that are key on every task of a set, ∩ E_key(T): bool, (experts,). Raises ValueError for no task."""
    if not len(keys):
        raise ValueError("the task set is empty; give at least one task")
    return np.logical_and.reduce(list(keys))


def cross_table(*, key: np.ndarray, shared: np.ndarray) -> dict[str, int]:
    """Counts of experts, each once, by kind and by being key; boolean masks of shape (experts,)."""
    return {
        "shared_key": int((shared & key).sum()),
        "shared_other": int((shared & ~key).sum()),
        "routed_key": int((~shared & key).sum()),
        "routed_other": int((~shared & ~key).sum()),
    }


def default_task_sets(tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`all`, and each task by itself where there are several."""
    single = {task: (task,) for task in tasks} if len(tasks) > 1 else {}
    return {"all": tuple(tasks), **single}


def rows(
    *,
    frequencies: pd.DataFrame,
    expert_threshold: float = EXPERT_THRESHOLD,
    task_sets: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The table `enrichment` from a table `expert_frequency` of any number of models, checkpoints and settings.

    task_sets: name → tasks; by default `default_task_sets` of the tasks that a checkpoint has. A named set of which a
    checkpoint lacks a task has no row for it. An odds ratio that is infinite is missing, and odds_ratio_note says so.
    q_greater corrects over all testable rows of one setting: models, checkpoints and task sets together.
    """
    records = []
    for cell, group in frequencies.groupby(list(CELL), sort=False):
        often = group.pivot(index="expert", columns="task", values="frequency")
        if often.isna().to_numpy().any():
            raise ValueError(f"{cell}: the tasks have different experts; they come from different models")
        first = group[group["task"] == group["task"].iloc[0]].set_index("expert")
        shared = (first["kind"] == "shared").reindex(often.index).to_numpy(dtype=bool)
        keys = {
            task: key_experts(frequency=often[task].to_numpy(), expert_threshold=expert_threshold) for task in often
        }
        for name, tasks in (task_sets or default_task_sets(sorted(map(str, keys)))).items():
            if not set(tasks) <= set(keys):
                continue
            counts = cross_table(key=always_key(keys=[keys[task] for task in tasks]), shared=shared)
            records.append(
                {
                    **dict(zip(CELL, cell, strict=True)),
                    "tokens": group["tokens"].iloc[0],
                    "order": group["order"].iloc[0],
                    "is_baseline": bool(group["tokens"].iloc[0] == 0),
                    "task_set": name,
                    "n_tasks": len(tasks),
                    "expert_threshold": expert_threshold,
                    **counts,
                    **asdict(fisher(**counts)),
                }
            )
    return ENRICHMENT.frame(_with_baseline(_with_q(records)))


def _with_q(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds q_greater: Benjamini–Hochberg within a setting; 1 for rows that can't be tested."""
    families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        record["q_greater"] = 1.0
        if not np.isnan(record["odds_ratio_corrected"]):
            families.setdefault(tuple(record[name] for name in SETTING_KEY), []).append(record)
    for family in families.values():
        corrected = stats.false_discovery_control([record["p_greater"] for record in family], method="bh")
        for record, q in zip(family, corrected, strict=True):
            record["q_greater"] = _probability(q)
    return records


def _with_baseline(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the same test's outcome on the model's untrained checkpoint; missing, with a note, where there is none."""
    same = ("model", "task_set", *SETTING_KEY)
    baselines = {tuple(record[name] for name in same): record for record in records if record["is_baseline"]}
    for record in records:
        baseline = baselines.get(tuple(record[name] for name in same))
        record["p_greater_baseline"] = baseline["p_greater"] if baseline else np.nan
        record["odds_ratio_corrected_baseline"] = baseline["odds_ratio_corrected"] if baseline else np.nan
        if baseline is None:
            record["note"] = "; ".join(filter(None, [record["note"], "no untrained checkpoint"]))
    return records
