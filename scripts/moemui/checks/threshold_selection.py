"""Which threshold to take (SPEC section 7): where masking tells key from random neurons best, and ranks of MUI hold.

Separation of a threshold η: the rise of the reference answer's negative log-likelihood a masked neuron, key minus
control, for each 0.1 % of the model's neurons (so that models of different sizes weigh alike), mean over cells (model,
checkpoint, task). Only cells that are there at every threshold count, so that all are judged on the same ones.

Stable: the Spearman correlation of MUI between η and the next lower and the next higher stored threshold is at least
`STABLE_SPEARMAN`: a slightly different η would rank models, checkpoints and tasks alike. Eligible: stable, and
separation above 0.

Chosen: the eligible η with the highest separation is the best; those that are not shown to be behind it (the paired
95 % t interval of the difference over cells reaches down to 0, or there are too few cells for one) count as good as it;
of these, the one nearest to the paper's 0.001 on a logarithmic scale, the smaller of two that are as near.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from moemui.key_neurons.settings import MAIN, Setting
from moemui.statistics.crossed_means import alike
from moemui.statistics.intervals import CONFIDENCE
from moemui.tables.table import read
from moemui.tables.threshold_selection import THRESHOLD_SELECTION

STABLE_SPEARMAN = 0.9
PAPER_THRESHOLD = 0.001
SIGNIFICANT = 0.05
AUTO = "auto"
ALL_MODELS = "all models"
CELL = ["model", "checkpoint", "task"]
GROUP = ["formulation", "selection", "rule", "variant", "control"]
GAP = float("nan")


class Stability(NamedTuple):
    """Spearman correlations of MUI at one threshold: the lowest with its neighbours, the mean with all others.

    worst: the neighbour of the lowest. NaN where no other threshold is known; note then says so.
    """

    neighbours: float
    others: float
    worst: float = GAP
    note: str = ""


def stability(*, sensitivity: pd.DataFrame, setting: Setting) -> Stability:
    """How alike MUI ranks the cells at this setting and at those that differ in nothing but the threshold.

    sensitivity: the table of that name. A correlation that is missing there (too few cells, a constant vector) leaves
    what rests on it missing, with a note.
    """
    found: dict[float, float] = {}
    pairs = sensitivity[sensitivity["measure"] == "mui"]
    for label_a, label_b, spearman in zip(pairs["setting_a"], pairs["setting_b"], pairs["spearman"], strict=True):
        a, b = Setting.parse(label_a), Setting.parse(label_b)
        for own, other in ((a, b), (b, a)):
            if own.label == setting.label and other._replace(threshold=own.threshold) == own:
                found[other.threshold] = float(spearman)
    if not found:
        return Stability(GAP, GAP, note="MUI is known at no other threshold, so its stability is not")
    below = [threshold for threshold in found if threshold < setting.threshold]
    above = [threshold for threshold in found if threshold > setting.threshold]
    neighbours = [*sorted(below)[-1:], *sorted(above)[:1]]
    lowest = float(np.min([found[threshold] for threshold in neighbours]))  # NaN where one is
    others = float(np.mean(list(found.values())))
    note = "" if np.isfinite([lowest, others]).all() else "MUI has no rank correlation with another threshold"
    return Stability(lowest, others, min(neighbours, key=lambda threshold: found[threshold]), note)


def mean_over_cells(*, values: np.ndarray) -> tuple[float, float, float]:
    """Mean of values (cells,) with its 95 % t interval over cells; NaN for none, and no interval for one of them.

    Cells are taken as draws, so the interval says what other tasks would give. All alike: an interval without width.
    """
    if len(values) == 0:
        return GAP, GAP, GAP
    mean = float(values.mean())
    if len(values) == 1:
        return mean, GAP, GAP
    if alike(values):
        return mean, mean, mean
    interval = stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return mean, float(interval.low), float(interval.high)


def rows(
    *, masking_effect: pd.DataFrame, sensitivity: pd.DataFrame, stable_spearman: float = STABLE_SPEARMAN
) -> pd.DataFrame:
    """The table `threshold_selection`: a row for each masked setting and control, of every model and of all together.

    The choice is made apart for each model, control, formulation, selection, rule and variant; ranks of MUI are those
    of the whole study throughout. Every row's note says why it was chosen or not. A single masked threshold is not
    chosen, since it was compared with none. An empty masking_effect gives no rows.
    Raises ValueError for a stable_spearman outside −1..1.
    """
    if not -1 <= stable_spearman <= 1:
        raise ValueError(f"stable_spearman is {stable_spearman}; a rank correlation lies between -1 and 1")
    effects = masking_effect.assign(
        separation=masking_effect["nll_separation_per_1000_neurons"]
        * masking_effect["n_masked"]
        / masking_effect["share_masked"].where(masking_effect["share_masked"] > 0)
        / 1e6,
        significant=_significant(masking_effect),
    )
    records: list[dict[str, Any]] = []
    for name in [*pd.unique(effects["model"]), ALL_MODELS]:
        own = effects if name == ALL_MODELS else effects[effects["model"] == name]
        for group, part in own.groupby(GROUP, sort=False):
            formulation, selection, rule, variant, control = map(str, group)
            setting = Setting(formulation, selection, GAP, rule, variant)
            records += [
                {"model": name, "control": control, **record}
                for record in _compared(part, setting, sensitivity, stable_spearman)
            ]
    return THRESHOLD_SELECTION.frame(records)


def chosen_threshold(
    *, selection: pd.DataFrame, setting: Sequence[Any], model: str = ALL_MODELS, control: str = "expert"
) -> float:
    """The threshold that `threshold: auto` stands for, out of the table `threshold_selection`.

    setting: formulation, selection, any threshold, and if wanted rule and variant, as `Setting` takes them.
    Raises ValueError, saying what is missing, where none was chosen.
    """
    asked = Setting(*setting)
    kind = asked._asdict() | {"control": control, "model": model}
    same = [name for name in kind if name != "threshold"]
    found = selection[(selection[same] == pd.Series({name: kind[name] for name in same})).all(axis=1)]
    chosen = found.loc[found["chosen"], "threshold"]
    if len(chosen) == 1:
        return float(chosen.iloc[0])
    what = f"{asked.formulation}/{asked.selection}" + f"/{asked.rule}" * (asked.rule != "topk")
    what += f"/{asked.variant}" * (asked.variant != MAIN)
    if found.empty:
        raise ValueError(
            f"threshold: auto finds no masking of {what} for {model}; mask key neurons at two or more thresholds "
            "(masking.thresholds), or name a threshold"
        )
    reasons = "; ".join(f"{row.threshold:g}: {row.note}" for row in found.itertuples())
    raise ValueError(f"threshold: auto has none to take for {what} of {model} ({reasons}); name a threshold")


def shown(*, settings: Sequence[Sequence[Any]], chosen: Path | Sequence[Path]) -> list[Setting]:
    """Settings as a study names them, each once: those with threshold `auto` at the threshold that was chosen.

    settings: formulation, selection, threshold or AUTO, rule, variant. chosen: the file of the table
    `threshold_selection`; an empty sequence where no threshold is `auto`.
    Raises ValueError as `chosen_threshold`, and for `auto` without a file.
    """
    if any(setting[2] == AUTO for setting in settings) and not isinstance(chosen, Path):
        raise ValueError("a threshold is auto, and there is no table threshold_selection; name a threshold")
    found = []
    for setting in settings:
        known = Setting(*setting)
        if setting[2] == AUTO:
            assert isinstance(chosen, Path)
            table = read(chosen, THRESHOLD_SELECTION)
            known = known._replace(threshold=chosen_threshold(selection=table, setting=setting))
        found.append(known)
    return list(dict.fromkeys(found))


def _significant(effects: pd.DataFrame) -> np.ndarray:
    """Whether key neurons cost more than the control in every row, at a false discovery rate over all of them."""
    p = effects["nll_difference_p"].to_numpy(dtype=float)
    known, q = ~np.isnan(p), np.ones(len(p))
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return (q <= SIGNIFICANT) & (effects["nll_difference"].to_numpy(dtype=float) > 0)


def _compared(
    effects: pd.DataFrame, setting: Setting, sensitivity: pd.DataFrame, stable_spearman: float
) -> list[dict[str, Any]]:
    """The thresholds of one choice, in ascending order, compared with each other."""
    table = effects.pivot(index=CELL, columns="threshold", values="separation")
    complete = table.dropna()
    significant = effects.pivot(index=CELL, columns="threshold", values="significant").loc[complete.index]
    thresholds = [float(threshold) for threshold in table.columns]
    steady = {
        threshold: stability(sensitivity=sensitivity, setting=setting._replace(threshold=threshold))
        for threshold in thresholds
    }
    means = {threshold: mean_over_cells(values=complete[threshold].to_numpy(dtype=float)) for threshold in thresholds}
    eligible = [t for t in thresholds if steady[t].neighbours >= stable_spearman and means[t][0] > 0]
    best = max(eligible, key=lambda t: means[t][0], default=None)
    behind = {
        t: mean_over_cells(values=np.empty(0) if best is None else (complete[best] - complete[t]).to_numpy(dtype=float))
        for t in thresholds
    }
    # Where the interval is missing, nothing shows that this threshold is behind.
    as_good = [t for t in eligible if not behind[t][1] > 0]
    chosen = None
    if len(thresholds) > 1 and as_good:
        chosen = min(as_good, key=lambda t: (round(abs(np.log(t / PAPER_THRESHOLD)), 9), t))
    left = len(table) - len(complete)
    records = []
    for t in thresholds:
        notes = [_reason(t, thresholds, steady[t], means[t][0], stable_spearman, best, as_good, chosen)]
        if left:
            notes.append(f"{left} of {len(table)} cells lack a threshold and are left out")
        if len(complete) == 1:
            notes.append("one cell: no interval")
        if best is None:
            notes.append("no threshold is eligible, so there is no best one")
        if steady[t].note and steady[t].note not in notes[0]:
            notes.append(steady[t].note)
        record: dict[str, Any] = setting._replace(threshold=t)._asdict() | {"n_cells": len(complete)}
        for column, values in (("separation", means[t]), ("behind_best", behind[t])):
            record |= dict(zip((column, f"{column}_low", f"{column}_high"), values, strict=True))
        records.append(
            record
            | {
                "n_significant": int(significant[t].sum()),
                "spearman_neighbours": steady[t].neighbours,
                "spearman_others": steady[t].others,
                "eligible": t in eligible,
                "chosen": t == chosen,
                "note": "; ".join(notes),
            }
        )
    return records


def _reason(
    threshold: float,
    thresholds: Sequence[float],
    steady: Stability,
    separation: float,
    stable_spearman: float,
    best: float | None,
    as_good: Sequence[float],
    chosen: float | None,
) -> str:
    """Why a threshold was chosen or not, in words."""
    if np.isnan(separation):
        return "not eligible: no cell has a reference answer's likelihood under key and control at every threshold"
    if len(thresholds) < 2:
        return "not chosen: only one threshold was masked, so there is nothing to choose from"
    if np.isnan(steady.neighbours):
        return f"not eligible: {steady.note}"
    if steady.neighbours < stable_spearman:
        return (
            f"not eligible: ranks of MUI are not stable, Spearman {steady.neighbours:.3f} with {steady.worst:g}, below "
            f"{stable_spearman:g}"
        )
    if separation <= 0:
        return "not eligible: masking key neurons costs no more than masking the control"
    others = [t for t in as_good if t != threshold]
    if threshold == chosen and not others:
        return "chosen: the best separation of the eligible thresholds"
    if threshold == chosen:
        first = "the best separation" if threshold == best else f"not shown to be behind {best:g}"
        return f"chosen: {first}, and nearest to the paper's {PAPER_THRESHOLD:g} of those as good"
    if threshold in as_good:
        first = "the best separation" if threshold == best else f"not shown to be behind {best:g}"
        return f"not chosen: {first}, but {chosen:g} is as good and nearer to the paper's {PAPER_THRESHOLD:g}"
    return f"not chosen: separation is behind that of {best:g}"
