"""Which experts are active in the same samples (SPEC section 5), beyond what their frequencies and tasks imply?

Over the samples of all tasks two experts of one task look co-active though neither knows of the other. True
co-activation is what remains within tasks: the Cochran–Mantel–Haenszel test stratified by task. Experts of one layer
compete for its k_l key neurons and for the router's choice, so within a layer some pairs are apart by construction.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from moemui.experts.key_experts import activities
from moemui.key_neurons.files import KeyNeurons
from moemui.key_neurons.settings import Setting
from moemui.statistics import intervals
from moemui.tables.experts import COACTIVATION, COACTIVATION_SUMMARY

COUNT = 30
ALPHA = 0.05
FEWEST_EXPECTED = 5  # Mantel and Fleiss 1980: below it the stratified statistic is no chi-square
JEFFREYS = 0.5  # samples in each cell before any is seen
GAP = float("nan")


class Within(NamedTuple):
    """Co-activation within tasks; NaN for what can't be had, with the reason in `note`."""

    odds_ratio: float
    low: float
    high: float
    p: float
    note: str


def cross_tables(*, active: Sequence[np.ndarray], a: int, b: int) -> np.ndarray:
    """2×2 tables of two experts, one a task: [[both, a alone], [b alone, neither]] samples: int64, (tasks, 2, 2).

    active: bool, (samples, experts), one a task.
    """
    found = []
    for each in active:
        in_a, in_b = each[:, a], each[:, b]
        both, n_a, n_b = int((in_a & in_b).sum()), int(in_a.sum()), int(in_b.sum())
        found.append([[both, n_a - both], [n_b - both, len(each) - n_a - n_b + both]])
    return np.array(found, dtype=np.int64)


def phi(*, table: np.ndarray) -> np.ndarray:
    """Correlation of two experts' being active, −1..1, from 2×2 tables (..., 2, 2); NaN where one is constant."""
    cells = np.asarray(table, dtype=float)
    rows, columns = cells.sum(axis=-1), cells.sum(axis=-2)
    spread = np.sqrt(rows.prod(axis=-1) * columns.prod(axis=-1))
    difference = cells[..., 0, 0] * cells[..., 1, 1] - cells[..., 0, 1] * cells[..., 1, 0]
    return np.divide(difference, spread, out=np.full(np.shape(spread), np.nan), where=spread > 0)


def phi_interval(
    *, tables: np.ndarray, seed: int | tuple[int, ...], draws: int = intervals.RESAMPLES
) -> tuple[float, float]:
    """95 % Jeffreys interval of phi over all tasks, the shares of the cells being drawn within each task.

    Draws from the Dirichlet posterior of each task's cells, half a sample a cell being added before (Agresti and Min
    2005), split over the tasks by their samples. A bootstrap never leaves a cell that is 0, so with rare experts its
    interval covers in 40 % of the cases. tables: int64, (tasks, 2, 2), one with a sample or more.
    """
    generator, total = np.random.default_rng(seed), np.zeros((draws, 4))
    share = tables.sum(axis=(1, 2)) / tables.sum()
    for table, weight in zip(tables, share, strict=True):
        total += weight * generator.dirichlet(table.ravel() + weight * JEFFREYS, size=draws)
    return intervals.percentile(means=phi(table=total.reshape(-1, 2, 2)))


def informative(*, tables: np.ndarray) -> np.ndarray:
    """The tables of tasks in which both experts vary: the others say nothing about co-activation."""
    return tables[(tables.sum(axis=1) > 0).all(axis=1) & (tables.sum(axis=2) > 0).all(axis=1)]


def moments(*, tables: np.ndarray) -> tuple[float, float, float]:
    """n_both if the experts were independent within tasks: its mean and exact variance; and Π, for phi within tasks.

    Given the margins, n_both of a task is hypergeometric with variance v_t = n_a(n−n_a)n_b(n−n_b) / (n²(n−1)).
    Π = √(Σ n_a(n−n_a)/n · Σ n_b(n−n_b)/n), so that phi_within = (n_both − mean) / Π. Zeros without tables.
    """
    n, n_a, n_b = tables.sum(axis=(1, 2)), tables[:, 0, :].sum(axis=1), tables[:, :, 0].sum(axis=1)
    spread_a, spread_b = n_a * (n - n_a) / n, n_b * (n - n_b) / n
    variance = (spread_a * spread_b / np.maximum(n - 1, 1)).sum()
    return float((n_a * n_b / n).sum()), float(variance), float(np.sqrt(spread_a.sum() * spread_b.sum()))


def within_tasks(*, tables: np.ndarray) -> Within:
    """Mantel–Haenszel odds ratio over tasks, its 95 % interval (Robins, Breslow and Greenland 1986), and the test of 1.

    The Cochran–Mantel–Haenszel test (statsmodels) where Mantel and Fleiss allow it; elsewhere the exact test given all
    margins, two-sided as Fisher's: n_both is a sum of hypergeometric variables then, a convolution (no package has it).
    tables: int64, (tasks, 2, 2), as from `cross_tables`. Without a task in which both experts vary nothing is tested.
    """
    used = informative(tables=tables)
    if not len(used):
        return Within(GAP, GAP, GAP, GAP, "in no task do both experts vary: no test within tasks")
    pooled, notes = StratifiedTable(list(used)), []
    together, alone = (used[:, 0, 0] * used[:, 1, 1]).sum(), (used[:, 0, 1] * used[:, 1, 0]).sum()
    ratio, low, high = GAP, GAP, GAP
    if alone == 0:
        notes.append("odds ratio within tasks infinite")
    else:
        ratio = float(pooled.oddsratio_pooled)
        if together == 0:
            notes.append("odds ratio within tasks 0: no interval")
        else:
            low, high = map(float, pooled.oddsratio_pooled_confint(alpha=1 - intervals.CONFIDENCE))
    n_a, n_b, n = used[:, 0, :].sum(axis=1), used[:, :, 0].sum(axis=1), used.sum(axis=(1, 2))
    expected = (n_a * n_b / n).sum()
    room = min(expected - np.maximum(0, n_a + n_b - n).sum(), np.minimum(n_a, n_b).sum() - expected)
    if room >= FEWEST_EXPECTED:
        p = float(stats.chi2.sf(pooled.test_null_odds(correction=False).statistic, 1))
    else:
        p = _exact(used)
        notes.append("p within tasks exact: few samples expected")
    return Within(ratio, low, high, p, "; ".join(notes))


def _exact(used: np.ndarray) -> float:
    """Exact two-sided p of Σ n_both given all margins: the chance of all sums no likelier than the one found."""
    parts, found = [], 0
    for table in used:
        n, n_a, n_b = int(table.sum()), int(table[0].sum()), int(table[:, 0].sum())
        fewest = max(0, n_a + n_b - n)
        parts.append(stats.hypergeom.pmf(np.arange(fewest, min(n_a, n_b) + 1), n, n_a, n_b))
        found += int(table[0, 0]) - fewest
    chances = reduce(np.convolve, parts)
    return min(1.0, float(chances[chances <= chances[found] * (1 + 1e-7)].sum()))  # R's tolerance for equal ones


def most_frequent(*, active: np.ndarray, count: int = COUNT) -> np.ndarray:
    """The `count` most frequent experts among those active in some samples and not in all; ties: lower number first.

    active: samples of each expert: bool, (samples, experts). Returns int64 expert numbers, most frequent first.
    """
    totals = active.sum(axis=0)
    varying = np.flatnonzero((totals > 0) & (totals < len(active)))
    return varying[np.argsort(-totals[varying], kind="stable")][:count]


def rows(
    *,
    key_neurons: Sequence[KeyNeurons],
    tokens: float | None,
    order: int,
    setting: Setting,
    count: int = COUNT,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of one checkpoint in the tables `coactivation` and `coactivation_summary`, at one setting.

    key_neurons: the files of the checkpoint, one a task. count: experts that are compared in pairs.
    Raises ValueError as `experts.activities`.
    """
    active = activities(key_neurons=key_neurons, setting=setting)
    geometry, pooled = key_neurons[0].geometry, np.concatenate(active)
    chosen = most_frequent(active=pooled, count=count)
    index = np.array([layer.index for layer in geometry.layers])[geometry.expert_layer]
    records, chances = [], []
    for number, (a, b) in enumerate(itertools.combinations(map(int, chosen), 2)):
        found = cross_tables(active=active, a=a, b=b)
        chances.append(moments(tables=informative(tables=found)))
        records.append(
            {
                "expert_a": geometry.expert_names[a],
                "expert_b": geometry.expert_names[b],
                "kind_a": "shared" if geometry.expert_is_shared[a] else "routed",
                "kind_b": "shared" if geometry.expert_is_shared[b] else "routed",
                "layer_a": int(index[a]),
                "layer_b": int(index[b]),
                **_measures(found, chances[-1], (seed, number)),
            }
        )
    _add_verdict(records, "", "phi")
    _add_verdict(records, "_within", "phi_within")
    identity = {
        "model": key_neurons[0].model,
        "checkpoint": key_neurons[0].checkpoint,
        "tokens": tokens,
        "order": order,
        **setting._asdict(),
        "n_samples": len(pooled),
    }
    totals = pooled.sum(axis=0)
    about = {
        "n_tasks": len(active),
        "n_compared": len(chosen),
        "n_left_out": int(((totals > 0) & (totals < len(pooled))).sum()) - len(chosen),
        "n_always": int((totals == len(pooled)).sum()),
        "n_never": int((totals == 0).sum()),
    }
    same = np.array([record["layer_a"] == record["layer_b"] for record in records], dtype=bool)
    summaries = [
        identity | about | {"pairs": name} | _summary(records, chances, mask)
        for name, mask in (("all", np.ones(len(records), dtype=bool)), ("same_layer", same), ("across_layers", ~same))
    ]
    return COACTIVATION.frame(identity | record for record in records), COACTIVATION_SUMMARY.frame(summaries)


def _measures(found: np.ndarray, chance: tuple[float, float, float], seed: tuple[int, ...]) -> dict[str, Any]:
    """The measured columns of a `coactivation` row, without q and verdicts."""
    table = found.sum(axis=0)
    n, n_a, n_b, both = int(table.sum()), int(table[0].sum()), int(table[:, 0].sum()), int(table[0, 0])
    low, high = phi_interval(tables=found, seed=seed)
    within, used = within_tasks(tables=found), informative(tables=found)
    mean, _, spread = chance
    varied = int(used[:, 0, 0].sum())
    return {
        "n_a": n_a,
        "n_b": n_b,
        "n_both": both,
        "expected": n_a * n_b / n,
        "lift": both * n / (n_a * n_b),
        "phi": float(phi(table=table)),
        "phi_low": low,
        "phi_high": high,
        "p": min(1.0, float(stats.fisher_exact(table).pvalue)),
        "n_tasks_within": len(used),
        "expected_within": mean + both - varied,  # in the other tasks n_both could not have come out otherwise
        "phi_within": (varied - mean) / spread if len(used) else GAP,
        "odds_ratio_within": within.odds_ratio,
        "odds_ratio_within_low": within.low,
        "odds_ratio_within_high": within.high,
        "p_within": within.p,
        "note": within.note,
    }


def _add_verdict(records: list[dict[str, Any]], suffix: str, sign: str) -> None:
    """Adds q, Benjamini–Hochberg over the pairs with a p, and the verdict; the sign of a correlation gives its word."""
    p = np.array([record[f"p{suffix}"] for record in records])
    q, tested = np.full(len(p), GAP), ~np.isnan(p)
    if tested.any():
        q[tested] = np.clip(stats.false_discovery_control(p[tested], method="bh"), 0.0, 1.0)
    for record, value in zip(records, q, strict=True):
        word = "together" if record[sign] > 0 else "apart"
        record |= {f"q{suffix}": float(value), f"verdict{suffix}": word if value < ALPHA else "undecided"}


def _summary(
    records: Sequence[dict[str, Any]], chances: Sequence[tuple[float, float, float]], mask: np.ndarray
) -> dict[str, Any]:
    """The measured columns of a `coactivation_summary` row.

    If all experts are independent within tasks, the phi_within of two pairs are uncorrelated (given the margins they
    are even with an expert in common), so the variance of their mean is exact; its distribution is taken as normal.
    """
    chosen = [record for record, use in zip(records, mask, strict=True) if use]
    spreads = [(variance, spread) for (_, variance, spread), use in zip(chances, mask, strict=True) if use and spread]
    within = [record["phi_within"] for record in chosen if not np.isnan(record["phi_within"])]
    count = {
        f"n_{word}{suffix}": sum(record[f"verdict{suffix}"] == word for record in chosen)
        for word in ("together", "apart")
        for suffix in ("", "_within")
    }
    mean, width, p = GAP, GAP, GAP
    if within:
        mean = float(np.mean(within))
        error = float(np.sqrt(sum(variance / spread**2 for variance, spread in spreads))) / len(within)
        width, p = intervals.Z * error, float(2 * stats.norm.sf(abs(mean) / error))
    notes = [] if chosen else ["no pair of experts to compare"]
    if chosen and not within:
        notes.append("in no task do both experts of a pair vary")
    return {
        "n_pairs": len(chosen),
        "n_testable_within": len(within),
        **count,
        "mean_phi": float(np.mean([record["phi"] for record in chosen])) if chosen else GAP,
        "mean_phi_within": mean,
        "chance_low": -width,
        "chance_high": width,
        "p_within": p,
        "note": "; ".join(notes),
    }
