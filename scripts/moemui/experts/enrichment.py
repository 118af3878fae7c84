"""Are shared experts key more often than routed ones (SPEC section 6)? Fisher's exact test on physical experts.

A shared expert sees every token, so it is enriched by construction: the test on the untrained checkpoint stands beside
every result, with the change from it; `exposure` adjusts for the tokens an expert saw, and scoring without gate weights
is a setting of its own. Each physical expert counts once, because task × layer cells are no independent units.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from moemui.experts.key_experts import EXPERT_THRESHOLD, key_experts
from moemui.statistics.intervals import CONFIDENCE, Z
from moemui.tables.columns import SETTING_KEY
from moemui.tables.enrichment import ENRICHMENT

CELL = ("model", "checkpoint", *SETTING_KEY)
ALL = "all"
MOST_PAIRED = 12  # tasks up to which every pair is a set of its own: 66 pairs
GAP = float("nan")


@dataclass(frozen=True)
class Fisher:
    """Fisher's exact test of one 2×2 table; NaN where something is infinite or undefined (see the notes).

    odds_ratio: sample odds ratio and its Wald interval. odds_ratio_conditional, low, high: conditional maximum
    likelihood estimate and its exact interval. odds_ratio_corrected: Haldane–Anscombe, 0.5 added to every cell, with
    its Wald interval; of every table, not only of those with a 0, so that checkpoints are compared alike. All 95 %.
    """

    p_greater: float = 1.0
    p_two_sided: float = 1.0
    odds_ratio: float = GAP
    odds_ratio_low: float = GAP
    odds_ratio_high: float = GAP
    odds_ratio_conditional: float = GAP
    low: float = GAP
    high: float = GAP
    odds_ratio_corrected: float = GAP
    odds_ratio_corrected_low: float = GAP
    odds_ratio_corrected_high: float = GAP
    odds_ratio_note: str = "undefined"
    note: str = ""

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
    if empty := [name for name, total in sums.items() if total == 0]:
        return Fisher(note=", ".join(empty))
    conditional = stats.contingency.odds_ratio(table, kind="conditional")
    exact = conditional.confidence_interval(confidence_level=CONFIDENCE)
    log_ratio, error = corrected_log_odds(
        shared_key=shared_key, shared_other=shared_other, routed_key=routed_key, routed_other=routed_other
    )
    ratio, low, high, note = _sample_odds_ratio(table)
    return Fisher(
        p_greater=_probability(stats.fisher_exact(table, alternative="greater").pvalue),
        p_two_sided=_probability(stats.fisher_exact(table, alternative="two-sided").pvalue),
        odds_ratio=ratio,
        odds_ratio_low=low,
        odds_ratio_high=high,
        odds_ratio_conditional=_finite(conditional.statistic),
        low=_finite(exact.low),
        high=_finite(exact.high),
        odds_ratio_corrected=float(np.exp(log_ratio)),
        odds_ratio_corrected_low=float(np.exp(log_ratio - Z * error)),
        odds_ratio_corrected_high=float(np.exp(log_ratio + Z * error)),
        odds_ratio_note=note,
    )


def _sample_odds_ratio(table: np.ndarray) -> tuple[float, float, float, str]:
    """Odds ratio of a table without empty margins, its Wald interval, and the note: one zero cell takes both away."""
    if table[0, 1] * table[1, 0] == 0:
        return GAP, GAP, GAP, "infinite"
    if table[0, 0] * table[1, 1] == 0:
        return 0.0, GAP, GAP, "zero"
    found = stats.contingency.odds_ratio(table, kind="sample")
    interval = found.confidence_interval(confidence_level=CONFIDENCE)
    return float(found.statistic), float(interval.low), float(interval.high), ""


def corrected_log_odds(
    *, shared_key: int, shared_other: int, routed_key: int, routed_other: int
) -> tuple[float, float]:
    """Haldane–Anscombe: log odds ratio with 0.5 added to every cell, and its standard error √Σ 1/(cell + 0.5)."""
    a, b, c, d = np.array([shared_key, shared_other, routed_key, routed_other]) + 0.5
    return float(np.log(a * d / (b * c))), float(np.sqrt(1 / a + 1 / b + 1 / c + 1 / d))


def log_odds_change(*, before: Mapping[str, int], after: Mapping[str, int]) -> tuple[float, float, float]:
    """Corrected log odds ratio after − before, with the 95 % Wald interval of two independent tables.

    before, after: the four counts of `cross_table`. Two checkpoints of one model hold the same physical experts, so the
    tables are not independent: where experts stay what they were (key or not), their variances overlap and the interval
    is too wide, which errs on the side of no change; where training swaps them, it is too narrow.
    """
    (first, first_error), (second, second_error) = corrected_log_odds(**before), corrected_log_odds(**after)
    margin = Z * float(np.hypot(first_error, second_error))
    return second - first, second - first - margin, second - first + margin


def _probability(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else GAP


def false_discovery(*, p: Sequence[float], family: Sequence[Hashable], tested: Sequence[bool]) -> list[float]:
    """Benjamini–Hochberg q of each p among the tested ones of its family; an untested one keeps its p (1 or NaN)."""
    q = [float(value) for value in p]
    members: dict[Hashable, list[int]] = {}
    for place in np.flatnonzero(tested).tolist():
        members.setdefault(family[place], []).append(place)
    for places in members.values():
        corrected = stats.false_discovery_control([p[place] for place in places], method="bh")
        for place, value in zip(places, corrected, strict=True):
            q[place] = _probability(value)
    return q


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
    """`all`, each task, and each pair as `a + b`; no set twice, and no pairs above MOST_PAIRED tasks.

    A single task is `all`, and so is the one pair of two. Raises ValueError for a task named `all`.
    """
    if ALL in tasks:
        raise ValueError(f"a task is named {ALL!r}, which stands for all tasks together; rename it")
    single = [(task,) for task in tasks] if len(tasks) > 1 else []
    pairs = list(itertools.combinations(tasks, 2)) if 2 < len(tasks) <= MOST_PAIRED else []
    return {ALL: tuple(tasks)} | {" + ".join(chosen): chosen for chosen in [*single, *pairs]}


@dataclass(frozen=True)
class TaskSet:
    """A task set on one checkpoint at one setting: its experts, each once, in arrays of shape (experts,).

    identity: the columns that name the row and say what it is. key: bool, key on every task. shared: bool. tokens:
    int64, response tokens routed to the expert over the tasks of the set (shared: all of them). note: what to know.
    """

    identity: dict[str, Any]
    key: np.ndarray
    shared: np.ndarray
    tokens: np.ndarray
    note: str


def on_task_sets(
    *, frequencies: pd.DataFrame, expert_threshold: float, task_sets: Mapping[str, Sequence[str]] | None = None
) -> Iterator[TaskSet]:
    """Every task set of every checkpoint and setting of a table `expert_frequency`.

    task_sets: name → tasks; by default `default_task_sets` of the tasks that a checkpoint has. A named set of which a
    checkpoint lacks a task is left out there. Raises ValueError where a checkpoint's tasks have different experts.
    """
    for cell, group in frequencies.groupby(list(CELL), sort=False):
        wide = group.pivot(index="expert", columns="task", values=["frequency", "routed_tokens"])
        if wide.isna().to_numpy().any():
            raise ValueError(f"{cell}: the tasks have different experts; they come from different models")
        often, tokens = wide["frequency"], wide["routed_tokens"]
        shared = group.drop_duplicates("expert").set_index("expert")["kind"].reindex(wide.index) == "shared"
        keys = {
            task: key_experts(frequency=often[task].to_numpy(), expert_threshold=expert_threshold) for task in often
        }
        sets = task_sets or default_task_sets(sorted(map(str, keys)))
        for name, tasks in sets.items():
            if not set(tasks) <= set(keys):
                continue
            unpaired = task_sets is None and name == ALL and len(tasks) > MOST_PAIRED
            yield TaskSet(
                identity={
                    **dict(zip(CELL, cell, strict=True)),
                    "tokens": group["tokens"].iloc[0],
                    "order": group["order"].iloc[0],
                    "is_baseline": bool(group["tokens"].iloc[0] == 0),
                    "task_set": name,
                    "tasks": "; ".join(tasks),
                    "n_tasks": len(tasks),
                    "expert_threshold": expert_threshold,
                },
                key=always_key(keys=[keys[task] for task in tasks]),
                shared=shared.to_numpy(dtype=bool),
                tokens=tokens[list(tasks)].to_numpy(dtype=np.int64).sum(axis=1),
                note=f"{len(tasks)} tasks: pairs are tested up to {MOST_PAIRED} only" if unpaired else "",
            )


def rows(
    *,
    frequencies: pd.DataFrame,
    expert_threshold: float = EXPERT_THRESHOLD,
    task_sets: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """The table `enrichment` from a table `expert_frequency` of any number of models, checkpoints and settings.

    task_sets: as `on_task_sets` takes them. An odds ratio that is infinite is missing, and odds_ratio_note says so.
    q_greater corrects over all testable rows of one setting: models, checkpoints and task sets together.
    """
    records = []
    for found in on_task_sets(frequencies=frequencies, expert_threshold=expert_threshold, task_sets=task_sets):
        counts = cross_table(key=found.key, shared=found.shared)
        test = asdict(fisher(**counts))
        records.append(found.identity | counts | test | {"note": _joined(test["note"], found.note)})
    tested = [not np.isnan(record["odds_ratio_corrected"]) for record in records]
    family = [tuple(record[name] for name in SETTING_KEY) for record in records]
    p = [record["p_greater"] for record in records]
    for record, q in zip(records, false_discovery(p=p, family=family, tested=tested), strict=True):
        record["q_greater"] = q
    return ENRICHMENT.frame(_with_baseline(records))


def _with_baseline(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds the outcome on the model's untrained checkpoint and the change from it; missing ones have a note."""
    same = ("model", "tasks", *SETTING_KEY)
    baselines = {tuple(record[name] for name in same): record for record in records if record["is_baseline"]}
    cells = ("shared_key", "shared_other", "routed_key", "routed_other")
    started = {record["model"] for record in records if record["is_baseline"]}
    added = []
    for record in records:
        baseline = baselines.get(tuple(record[name] for name in same))
        change, note = (GAP, GAP, GAP), ""
        if baseline is None:
            has = record["model"] in started
            note = "the untrained checkpoint lacks this setting or task set" if has else "no untrained checkpoint"
        elif np.isnan(record["odds_ratio_corrected"]):
            pass  # the row's own note says why
        elif record["is_baseline"]:
            note = "no change from the untrained checkpoint: it is this one"
        elif np.isnan(baseline["odds_ratio_corrected"]):
            note = f"no change from the untrained checkpoint: {baseline['note']} there"
        else:
            before, after = ({name: row[name] for name in cells} for row in (baseline, record))
            change = log_odds_change(before=before, after=after)
        names = ("log_odds_change", "log_odds_change_low", "log_odds_change_high")
        added.append(
            dict(zip(names, change, strict=True))
            | {
                "p_greater_baseline": baseline["p_greater"] if baseline else GAP,
                "odds_ratio_corrected_baseline": baseline["odds_ratio_corrected"] if baseline else GAP,
                "note": _joined(record["note"], note),
            }
        )
    return [record | more for record, more in zip(records, added, strict=True)]


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
