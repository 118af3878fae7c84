"""What a study found, in sentences made from its tables: every number with its interval and its caveat.

No sentence goes further than its interval: one that contains 0 is called undecided, one that was not measured is said
not to have been. The paper's expectations are those of SPEC section 6 and 7 (arXiv 2509.23933).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moemui.analyses.dynamics import FLAT, PHASES
from moemui.analyses.settings import Setting
from moemui.report import views
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import count, estimate, percent, points, probability, sign

Tables = Mapping[str, pd.DataFrame]

# The paper's numbers, as fractions where they are shares.
PAPER_LOSS_KEY, PAPER_LOSS_RANDOM = 0.10, 0.02
PAPER_ACROSS_THRESHOLDS, PAPER_ACROSS_FORMULATIONS = 0.9958, 0.92
PAPER_COSINE = 0.9947
PAPER_THRESHOLDS = (0.0008, 0.001, 0.002)  # of its ablation
SIGNIFICANT = 0.05
SATURATED = 0.95  # share of the asymptote that must have been seen


@dataclass(frozen=True)
class Finding:
    """A topic, its sentences, what to keep in mind about them, and how they stand to the paper.

    verdict: agrees, disagrees or undecided against the paper's expectation; described where the paper expects nothing.
    """

    topic: str
    sentences: tuple[str, ...]
    caveat: str
    verdict: str = "described"


def findings(tables: Tables, choice: Choice) -> list[Finding]:
    """All findings in the order of the report; a topic without rows says why in place of a result."""
    topics: dict[str, Callable[[Tables, Choice], Finding]] = {
        "Performance and MUI": utilization,
        "Phases of training": phases,
        "Saturation": saturation,
        "Key experts": key_experts,
        "Shared experts": enrichment,
        "Masking": masking,
        "Choice of setting": sensitivity,
    }
    found = []
    for topic, finding in topics.items():
        try:
            found.append(finding(tables, choice))
        except NothingToShow as reason:
            found.append(Finding(topic, (str(reason),), "", "not measured"))
    return found


def utilization(tables: Tables, choice: Choice) -> Finding:
    """Accuracy and MUI of each model's last checkpoint, mean over tasks and the extremes."""
    cells = views.last(views.trajectory(tables, choice))
    sentences = []
    for model, rows in cells.groupby("model", sort=False):
        checkpoint, tasks = rows["checkpoint"].iloc[0], rows[rows["task"] != MEAN].dropna(subset=["mui"])
        mean = rows[rows["task"] == MEAN]
        if mean.empty:
            sentences.append(f"{model} at {checkpoint} has no task with both an accuracy and a MUI at the common m.")
            continue
        accuracy, mui = (estimate(mean.iloc[0], name) for name in ("accuracy", "mui"))
        text = (
            f"{model} at {checkpoint}: mean accuracy {percent(accuracy)} and mean MUI {percent(mui)} over "
            f"{count(int(mean['n_tasks'].iloc[0]), 'task')}"
        )
        if len(tasks) > 1:
            low, high = views.extremes(tasks, "mui")
            text += (
                f"; MUI is lowest on {low['task']} ({percent(estimate(low, 'mui'))}) and highest on {high['task']} "
                f"({percent(estimate(high, 'mui'))})"
            )
        sentences.append(text + ".")
    ms = sorted({int(m) for m in cells["common_m"].dropna()})
    caveat = f"MUI at {choice.curves.label}, compared at m = {', '.join(map(str, ms)) or 'none'} samples a task. "
    caveat += "Intervals speak of other samples of the same tasks, not of another training run."
    return Finding("Performance and MUI", tuple(sentences), caveat)


def phases(tables: Tables, choice: Choice) -> Finding:
    """Steps counted by phase, the mean's course, and whether it shows the paper's order."""
    every = views.at(tables["phases"], choice.curves, "phases")
    rows = every[every["phase"] != ""]
    if rows.empty:
        raise NothingToShow("No step between two trained checkpoints has a phase.")
    sentences, orders = [], []
    for model, own in rows.groupby("model", sort=False):
        steps, mean = own[own["task"] != MEAN], own[own["task"] == MEAN].sort_values("from_order")
        counts = [f"{int((steps['phase'] == phase).sum())} {phase}" for phase in [*PHASES.values(), FLAT]]
        text = f"{model}: of {count(len(steps), 'step')} of single tasks, {', '.join(counts)}"
        if len(mean):
            text += f". The mean over tasks goes {' → '.join(mean['phase'])}"
            orders.append(_accumulates_then_evolves(list(mean["phase"])))
        differing = steps["differs_from_mean"].dropna()
        if len(differing):
            text += f"; {int(differing.sum())} of {len(differing)} steps of single tasks are in another phase than it"
        sentences.append(text + ".")
    verdict = "described"
    if orders:
        shown = sum(orders)
        sentences.append(
            "The paper describes training as Accumulating first and Evolving later: the mean shows this order in "
            f"{shown} of {count(len(orders), 'model')}."
        )
        verdict = "agrees" if shown == len(orders) else "disagrees" if shown == 0 else "undecided"
    if (every["phase"] == "").any():
        left = "The step that leaves the untrained checkpoint, and any step without both changes, has no phase. "
    else:
        left = ""
    caveat = left + f"Flat: the interval of either change contains 0. MUI at {choice.curves.label}."
    return Finding("Phases of training", tuple(sentences), caveat, verdict)


def _accumulates_then_evolves(course: list[str]) -> bool:
    moves = [phase for phase, _ in itertools.groupby(phase for phase in course if phase != FLAT)]
    return moves == ["Accumulating", "Evolving"]


def saturation(tables: Tables, choice: Choice) -> Finding:
    """Whether the samples have shown nearly all neurons that would ever be key.

    The lower end of Chao2's log-normal interval never lies below what was seen, so a task counts as saturated only
    where even the upper end leaves SATURATED of it seen, and as not saturated where the lower end leaves less.
    """
    cells = views.last(views.total_mui(tables["utilization"], choice.curves)).dropna(subset=["mui", "chao2"])
    cells = cells[cells["chao2_low"] > 0]
    if cells.empty:
        raise NothingToShow("No task has the two samples and the key neurons that an asymptote takes.")
    sentences = []
    for model, rows in cells.groupby("model", sort=False):
        done = int((rows["mui"] >= SATURATED * rows["chao2_high"]).sum())
        open_ = int((rows["mui"] < SATURATED * rows["chao2_low"]).sum())
        row, _ = views.extremes(rows.assign(seen=rows["mui"] / rows["chao2"]), "seen")
        sentences.append(
            f"{model}: MUI has not saturated on {open_} of {count(len(rows), 'task')}, has on {done}, undecided on "
            f"{len(rows) - done - open_}. Farthest from its Chao2 asymptote is {row['task']}: MUI "
            f"{percent(float(row['mui']))} of {int(row['n_samples'])} samples, asymptote "
            f"{percent(estimate(row, 'chao2'))}."
        )
    caveat = (
        f"Saturated: at least {100 * SATURATED:g} % of the asymptote was seen, over its whole interval. Chao2 is a "
        "lower bound of the asymptote, so a task that looks saturated may not be."
    )
    return Finding("Saturation", tuple(sentences), caveat)


def key_experts(tables: Tables, choice: Choice) -> Finding:
    """KeyExpertProportion of each model's last checkpoint."""
    sentences = []
    for model, rows in views.last(views.key_experts(tables["key_experts"], choice)).groupby("model", sort=False):
        low, high = views.extremes(rows, "proportion")
        text = (
            f"{model} at {rows['checkpoint'].iloc[0]}: {percent(views.mean_column(rows, 'proportion'))} of its "
            f"{int(rows['n_experts'].iloc[0])} experts are key, mean over {count(len(rows), 'task')}"
        )
        if low["proportion"] < high["proportion"]:
            text += (
                f", from {percent(estimate(low, 'proportion'))} ({low['task']}) to "
                f"{percent(estimate(high, 'proportion'))} ({high['task']})"
            )
        sentences.append(text + ".")
    caveat = f"Key: active in at least {choice.expert_threshold:g} of the samples, at {choice.experts.label}."
    return Finding("Key experts", tuple(sentences), caveat)


def enrichment(tables: Tables, choice: Choice) -> Finding:
    """Fisher's test over all tasks at the last checkpoint, beside the untrained one.

    It agrees with the paper where every test is significant and every model more enriched than untrained, since
    shared experts are enriched before any training.
    """
    rows = views.enrichment(tables["enrichment"], choice)
    rows = rows[rows["task_set"] == "all"]
    if rows.empty:
        raise NothingToShow("No enrichment test was run over all tasks.")
    sentences, outcomes = [], []
    for _, row in views.last(rows).iterrows():
        shared, routed = row["shared_key"] + row["shared_other"], row["routed_key"] + row["routed_other"]
        if shared == 0:
            sentences.append(f"{row['model']} has no shared experts, so there is no test.")
            continue
        counts = (
            f"{row['model']} at {row['checkpoint']}: {row['shared_key']} of {count(shared, 'shared expert')} and "
            f"{row['routed_key']} of {routed} routed ones are key on every task"
        )
        if np.isnan(row["odds_ratio_corrected"]):
            sentences.append(f"{counts}; undecided, since there is nothing to test ({row['note']}).")
            outcomes.append(False)
            continue
        significant = row["q_greater"] < SIGNIFICANT
        start = rows[(rows["model"] == row["model"]) & rows["is_baseline"]]
        change, comparison = _change_from(start.iloc[0] if len(start) else None, row)
        outcomes.append(significant and change > 0)
        sentences += [
            f"{counts}: {'significant' if significant else 'not significant'} (Fisher p = "
            f"{probability(row['p_greater'])}, {probability(row['q_greater'])} after correction for the number of "
            f"tests; odds ratio {_ratio(row)}).",
            comparison,
        ]
    if outcomes:
        sentences.append("The paper reports p from 1e−29 to 1e−57 and an odds ratio above 50 on a far larger model.")
    caveat = (
        "A shared expert sees every token with full weight and is enriched by construction; only what differs from the "
        "untrained model comes from training. Odds ratios are Haldane–Anscombe corrected."
    )
    verdict = "described" if not outcomes else "agrees" if all(outcomes) else "undecided"
    return Finding("Shared experts", tuple(sentences), caveat, verdict)


def _ratio(row: pd.Series) -> str:
    ratio = estimate(row, "odds_ratio_corrected")
    return f"{ratio.value:.1f} [{ratio.low:.1f}, {ratio.high:.1f}]"


def _change_from(start: pd.Series | None, row: pd.Series) -> tuple[int, str]:
    """Whether training raised (1) or lowered (−1) the odds ratio, 0 where the intervals overlap; and the sentence."""
    if row["is_baseline"]:
        return 0, "This checkpoint is itself untrained."
    if start is None:
        return 0, "There is no untrained checkpoint to compare with, so nothing can be said about training."
    if np.isnan(start["odds_ratio_corrected"]):
        return 0, f"On the untrained checkpoint there is nothing to test ({start['note']})."
    before, after = (estimate(cells, "odds_ratio_corrected") for cells in (start, row))
    change = int(after.low > before.high) - int(after.high < before.low)
    outcome = {
        1: "training increased the enrichment",
        -1: "training reduced the enrichment",
        0: "the intervals overlap, so a change by training is undecided",
    }[change]
    text = (
        f"Untrained, the same test gives p = {probability(start['p_greater'])} and an odds ratio of {_ratio(start)}: "
    )
    return change, f"{text}{outcome}."


def masking(tables: Tables, choice: Choice) -> Finding:
    """What masking key neurons costs beside random ones."""
    rows = views.at(tables["masking_effect"], choice.masking, "masking_effect").dropna(subset=["loss_difference"])
    if rows.empty:
        raise NothingToShow("Masking was measured on no task that is graded.")
    sentences, key_losses, random_losses = [], [], []
    for model, own in rows.groupby("model", sort=False):
        key, random, difference = (views.mean_column(own, f"loss_{name}") for name in ("key", "random", "difference"))
        key_losses.append(key)
        random_losses.append(random)
        signs = [sign(estimate(row, "loss_difference")) for _, row in own.iterrows()]
        outcome = {1: "key neurons cost more", 0: "undecided", -1: "key neurons cost less"}[sign(difference)]
        sentences.append(
            f"{model} at {own['checkpoint'].iloc[0]}: masking key neurons costs {points(key)} of accuracy, as many "
            f"random ones {points(random)}, mean over {count(len(own), 'task')}; difference {points(difference)}: "
            f"{outcome}. By task, key neurons cost more on {signs.count(1)}, undecided on {signs.count(0)}, less on "
            f"{signs.count(-1)}."
        )
    sentences.append(
        "The paper expects a loss above 10 % for key neurons and below 2 % for random ones, here read as points."
    )
    met = [k.low > PAPER_LOSS_KEY and r.high < PAPER_LOSS_RANDOM
           for k, r in zip(key_losses, random_losses, strict=True)]  # fmt: skip
    missed = [k.high < PAPER_LOSS_KEY or r.low > PAPER_LOSS_RANDOM
              for k, r in zip(key_losses, random_losses, strict=True)]  # fmt: skip
    verdict = "agrees" if all(met) else "disagrees" if all(missed) else "undecided"
    caveat = f"Key neurons at {choice.masking.label}; losses in percentage points, negative where accuracy rises."
    return Finding("Masking", tuple(sentences), caveat, verdict)


def sensitivity(tables: Tables, choice: Choice) -> Finding:
    """How far threshold and formulation change MUI, and the threshold the share of key experts."""
    if tables["sensitivity"].empty:
        raise NothingToShow("The table sensitivity is empty: no two settings were compared.")
    sentences, checks = [], []
    for measure, part, name, statistic, paper in (
        ("mui", 2, "thresholds", "pearson", PAPER_ACROSS_THRESHOLDS),
        ("mui", 0, "formulations", "spearman", PAPER_ACROSS_FORMULATIONS),
        ("key_expert_proportion", 2, "thresholds", "cosine", PAPER_COSINE),
    ):
        rows = views.differing(tables["sensitivity"], measure, part).dropna(subset=[statistic])
        what = f"{'MUI' if measure == 'mui' else 'Share of key experts'} across {name}"
        as_in_paper = rows[rows[["setting_a", "setting_b"]].map(_threshold).isin(PAPER_THRESHOLDS).all(axis=1)]
        if not as_in_paper.empty:
            sentence, low, high = _lowest(as_in_paper, statistic)
            known = bool(np.isfinite([low, high]).all())
            checks.append(int(low >= paper) - int(high < paper) if known else 0)
            compared = {1: "at least as high here", -1: "lower here", 0: "undecided here"}[checks[-1]]
            sentences.append(f"{what}, at the paper's thresholds: {sentence}. The paper: {paper:g}; {compared}.")
        if len(rows) > len(as_in_paper):
            sentences.append(f"{what}, at all thresholds of this study: {_lowest(rows, statistic)[0]}.")
    if not sentences:
        raise NothingToShow("No two settings differ in threshold or formulation alone.")
    verdict = "described"
    if checks:
        verdict = "disagrees" if min(checks) < 0 else "agrees" if min(checks) > 0 else "undecided"
    caveat = "Checkpoints of one model are no independent draws, so the intervals are narrower than they should be."
    return Finding("Choice of setting", tuple(sentences), caveat, verdict)


def _threshold(setting: str) -> float:
    return Setting.parse(setting).threshold


def _lowest(rows: pd.DataFrame, statistic: str) -> tuple[str, float, float]:
    """The lowest value of a statistic in words, and its interval (NaN where it has none)."""
    row, _ = views.extremes(rows, statistic)
    low, high = (float(row.get(f"{statistic}_{end}", np.nan)) for end in ("low", "high"))
    interval = f"[{low:.4f}, {high:.4f}]" if np.isfinite([low, high]).all() else "(no interval)"
    noun = "cosine similarity" if statistic == "cosine" else f"{statistic.capitalize()} correlation"
    sentence = (
        f"the lowest {noun} of {count(len(rows), 'pair')} is {float(row[statistic]):.4f} {interval}, between "
        f"{row['setting_a']} and {row['setting_b']} over {int(row['n_cells'])} cells"
    )
    return sentence, low, high
