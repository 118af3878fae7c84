"""Findings about shared experts: whether they are over-represented among the key ones, and what of it is learned."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import SIGNIFICANT, Finding, Tables, shortened, verdict
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, probability, sign

EVERY_TASK = "all"  # the task set of Fisher's test, and the samples of all tasks together


def enrichment(tables: Tables, choice: Choice) -> Finding:
    """Fisher's test over all tasks at the last checkpoint, beside the untrained one.

    A model supports the paper where its test is significant and it is more enriched than untrained, since shared
    experts are enriched before any training; it contradicts it where shared experts are significantly rarer.
    """
    rows = views.enrichment(tables["enrichment"], choice)
    rows = rows[rows["task_set"] == EVERY_TASK]
    if rows.empty:
        raise NothingToShow("No enrichment test was run over all tasks.")
    said, outcomes = {}, []
    for _, row in views.last(rows).iterrows():
        shared, routed = row["shared_key"] + row["shared_other"], row["routed_key"] + row["routed_other"]
        if shared == 0:
            said[row["model"]] = [f"{row['model']} has no shared experts, so there is no test."]
            continue
        counts = (
            f"{row['model']} at {row['checkpoint']}: {row['shared_key']} of {count(shared, 'shared expert')} and "
            f"{row['routed_key']} of {routed} routed ones are key on every task"
        )
        if np.isnan(row["odds_ratio_corrected"]):
            said[row["model"]] = [f"{counts}; undecided, since there is nothing to test ({row['note']})."]
            outcomes.append(0)
            continue
        significant = row["q_greater"] < SIGNIFICANT
        start = rows[(rows["model"] == row["model"]) & rows["is_baseline"]]
        change, comparison = _change_from(start.iloc[0] if len(start) else None, row)
        rarer = row["odds_ratio_corrected_high"] < 1
        outcomes.append(1 if significant and change > 0 else -1 if rarer else 0)
        said[row["model"]] = [
            f"{counts}: {'significant' if significant else 'not significant'} (Fisher p = "
            f"{probability(row['p_greater'])}, {probability(row['q_greater'])} after correction for the number of "
            f"tests; odds ratio {_ratio(row)}). {comparison}",
            *_beyond_exposure(tables["exposure"], choice, row),
            *_variants(tables["enrichment"], row),
            *_top(tables["top_composition"], choice, row),
        ]
    sentences = shortened(said, "enrichment")
    if outcomes:
        sentences.append("The paper reports p from 1e−29 to 1e−57 and an odds ratio above 50 on a far larger model.")
    caveat = (
        "A shared expert sees every token with full weight and is enriched by construction; only what differs from the "
        "untrained model comes from training. Odds ratios have 0.5 added to every count."
    )
    return Finding("Shared experts", tuple(sentences), caveat, verdict(outcomes))


def _ratio(row: pd.Series) -> str:
    ratio = estimate(row, "odds_ratio_corrected")
    value, low, high = (f"{number:,.{1 if number < 100 else 0}f}" for number in ratio)
    return f"{value} [{low}, {high}]" if np.isfinite(ratio).all() else f"{value} (no interval)"


def _change_from(start: pd.Series | None, row: pd.Series) -> tuple[int, str]:
    """Whether training raised (1) or lowered (−1) the odds ratio, 0 where it is open; and the sentence."""
    if row["is_baseline"]:
        return 0, "This checkpoint is itself untrained."
    if start is None:
        return 0, "There is no untrained checkpoint to compare with, so nothing can be said about training."
    if np.isnan(start["odds_ratio_corrected"]):
        return 0, f"On the untrained checkpoint there is nothing to test ({start['note']})."
    by = estimate(row, "log_odds_change")
    change = sign(by)
    outcome = {
        1: "training increased the enrichment",
        -1: "training reduced the enrichment",
        0: "whether training changed the enrichment is undecided",
    }[change]
    return change, (
        f"Untrained, the same test gives p = {probability(start['p_greater'])} and an odds ratio of {_ratio(start)}; "
        f"the log odds changed by {decimal(by)}: {outcome}."
    )


def _beyond_exposure(exposure: pd.DataFrame, choice: Choice, row: pd.Series) -> list[str]:
    """What of the enrichment is left among experts that see as many tokens."""
    cell = exposure[(exposure["model"] == row["model"]) & (exposure["checkpoint"] == row["checkpoint"])]
    cell = cell[(cell["task_set"] == row["task_set"]) & np.isclose(cell["expert_threshold"], row["expert_threshold"])]
    if cell.empty:
        return []
    try:
        fit = views.at(cell, choice.experts, "exposure").iloc[0]
    except NothingToShow:
        return []
    if pd.isna(fit["likelihood_ratio_p"]):
        return [f"{row['model']}: not adjusted for the tokens that each expert sees ({fit['note']})."]
    p = f"likelihood-ratio p = {probability(fit['likelihood_ratio_p'])}"
    if pd.notna(fit["log_odds_shared"]):
        p = f"log odds {decimal(estimate(fit, 'log_odds_shared'))}, {p}"
    p += f", {probability(fit['likelihood_ratio_q'])} after correction"
    text = f"{row['model']}: among experts that see as many tokens, shared ones are {_still(fit)} ({p})."
    if fit["separation_by_tokens"] == "complete":
        return [f"{text} The number of tokens alone already tells the key experts apart."]
    return [text if fit["separation"] == "none" else f"{text} Its size can't be estimated: the data are separable."]


def _still(fit: pd.Series) -> str:
    """Under separation there is no coefficient: the direction is that of the count against what tokens predict."""
    if not fit["likelihood_ratio_q"] < SIGNIFICANT:
        return "not shown to be key more or less often"
    estimated = pd.notna(fit["log_odds_shared"])
    more = fit["log_odds_shared"] > 0 if estimated else fit["n_key_shared"] > fit["expected_key_shared"]
    return "still key more often" if more else "key less often"


def _variants(every: pd.DataFrame, row: pd.Series) -> list[str]:
    """The same test under other scoring options at the same threshold, without gate weighting above all."""
    same = ["model", "checkpoint", "task_set", "formulation", "selection", "threshold", "rule", "expert_threshold"]
    others = every[(every[same] == row[same]).all(axis=1) & (every["variant"] != row["variant"])]
    sentences = []
    for _, other in others.iterrows():
        text = f"{row['model']} with the scoring variant {other['variant']}: "
        if np.isnan(other["odds_ratio_corrected"]):
            sentences.append(f"{text}undecided, since there is nothing to test ({other['note'].split(';')[0]}).")
            continue
        sentences.append(
            f"{text}{other['shared_key']} shared and {other['routed_key']} routed experts are key on every task, "
            f"{'significant' if other['q_greater'] < SIGNIFICANT else 'not significant'} (p = "
            f"{probability(other['p_greater'])}, {probability(other['q_greater'])} after correction; odds ratio "
            f"{_ratio(other)})."
        )
    return sentences


def _top(composition: pd.DataFrame, choice: Choice, row: pd.Series) -> list[str]:
    """How many of the most frequent experts are shared."""
    cell = composition[(composition["model"] == row["model"]) & (composition["checkpoint"] == row["checkpoint"])]
    cell = cell[cell["task"] == EVERY_TASK]
    if cell.empty:
        return []
    try:
        top = views.at(cell, choice.experts, "top_composition").iloc[0]
    except NothingToShow:
        return []
    significant = "significant" if top["q_greater"] < SIGNIFICANT else "not significant"
    return [
        f"{row['model']}: {top['n_shared']} of the {top['n_top']} most frequent experts are shared, by chance "
        f"{decimal(float(top['expected_shared']), 1)} would be: {significant} (p = {probability(top['p_greater'])}, "
        f"{probability(top['q_greater'])} after correction)."
    ]
