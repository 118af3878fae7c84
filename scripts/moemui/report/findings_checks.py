"""Findings that check the others: what masking costs, and how far results depend on settings."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import MAIN, Setting
from moemui.report import views
from moemui.report.finding import Finding, Tables, reasons, shortened, verdict
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, key_in_words, points, sentence, sign

# The paper's numbers, as fractions where they are shares.
PAPER_LOSS_KEY, PAPER_LOSS_RANDOM = 0.10, 0.02
PAPER_ACROSS_THRESHOLDS, PAPER_ACROSS_FORMULATIONS = 0.9958, 0.92
PAPER_COSINE = 0.9947
PAPER_THRESHOLDS = (0.0008, 0.001, 0.002)  # of its ablation
BALANCED = 0.1  # standardised mean difference below which two groups count as balanced
ALL_MODELS = "all models"
MEASURES = {"mui": "MUI", "key_expert_proportion": "Share of key experts"}
BESIDES_PAPER = (("mui", "spearman"), ("key_expert_proportion", "cosine"))  # what is said where it has no figure
SIDES = ["setting_a", "setting_b"]
RULE = Setting._fields.index("rule")


def masking(tables: Tables, choice: Choice) -> Finding:
    """What masking key neurons costs beside random ones of the same experts, and of the same activation frequency.

    A model supports the paper where its mean losses lie beyond the paper's limits with their whole intervals, and
    contradicts it where one of them lies on the other side.
    """
    losses = ["loss_key", "loss_random", "loss_difference"]
    every = views.at(tables["masking_effect"], choice.masking, "masking_effect").dropna(subset=losses)
    rows, matched = every[every["control"] == "expert"], every[every["control"] == "frequency"]
    if rows.empty:
        raise NothingToShow("Masking was measured on no task that is graded.")
    said, high_key, low_random = {}, [], []
    for (model, checkpoint), own in rows.groupby(["model", "checkpoint"], sort=False):
        key, random, difference = (views.mean_column(own, f"loss_{name}") for name in ("key", "random", "difference"))
        high_key.append(int(key.low > PAPER_LOSS_KEY) - int(key.high < PAPER_LOSS_KEY))
        low_random.append(int(random.high < PAPER_LOSS_RANDOM) - int(random.low > PAPER_LOSS_RANDOM))
        signs = [sign(estimate(row, "loss_difference")) for _, row in own.iterrows()]
        where = f"{model} at {checkpoint}"
        said[where] = [
            f"{where}: masking key neurons costs {points(key)} of accuracy, as many random ones of the same experts "
            f"{points(random)}, mean over {count(len(own), 'task')}; difference {points(difference)}: "
            f"{_outcome(sign(difference))}. By task, key neurons cost more on {signs.count(1)}, undecided on "
            f"{signs.count(0)}, less on {signs.count(-1)}.{_log_likelihood(own)}"
        ]
        beside = matched[(matched["model"] == model) & (matched["checkpoint"] == checkpoint)]
        said[where] += [f"{where}, {_matched(beside)}"] if len(beside) else []
    sentences = [
        *shortened(said, "masking_effect"),
        "The paper expects a loss, here read as points, above 10 % for key neurons "
        f"({_met(high_key)}) and below 2 % for random ones ({_met(low_random)}).",
    ]
    caveat = (
        f"With {key_in_words(choice.masking)}. Losses are in percentage points, negative where accuracy rises; a small "
        "loss may also mean that there was little accuracy to lose."
    )
    return Finding(
        "Masking", tuple(sentences), caveat, verdict([min(both) for both in zip(high_key, low_random, strict=True)])
    )


def _met(outcomes: list[int]) -> str:
    return (
        f"so on {outcomes.count(1)} of {count(len(outcomes), 'model')}, not so on {outcomes.count(-1)}, undecided on "
        f"{outcomes.count(0)}"
    )


def _outcome(of: int) -> str:
    return {1: "key neurons cost more", 0: "undecided", -1: "key neurons cost less"}[of]


def _log_likelihood(own: pd.DataFrame) -> str:
    """The same in nats where every task has it, since accuracy can have little to lose."""
    if own["nll_difference"].isna().any():
        return ""
    more = views.mean_column(own, "nll_difference")
    return (
        f" The reference answers' negative log-likelihood rises by {decimal(more)} nats a token more than with random "
        f"ones: {_outcome(sign(more))}."
    )


def _matched(own: pd.DataFrame) -> str:
    """The difference to controls of the same activation frequency, and how well they are matched."""
    still = views.mean_column(own, "loss_difference")
    text = (
        f"beside controls chosen to be switched on as often as the key neurons: difference {points(still)}, "
        f"{_outcome(sign(still))}."
    )
    apart = own["activation_frequency_smd"].dropna().abs()
    if apart.empty:
        return f"{text} How well these are matched was not measured."
    loose = int((apart > BALANCED).sum())
    worst = f"standardised difference of activation frequency up to {decimal(float(apart.max()))}, no interval"
    if not loose:
        return f"{text} They are balanced on every task ({worst})."
    return (
        f"{text} These controls are not balanced on {loose} of {count(len(apart), 'task')} ({worst}; balanced: "
        f"{BALANCED:g} or less), so being switched on more often may explain a part."
    )


def sensitivity(tables: Tables, choice: Choice) -> Finding:
    """How far each part of a setting changes MUI and the share of key experts, beside the paper's figures."""
    table = tables["sensitivity"]
    if table.empty:
        raise NothingToShow("The table sensitivity is empty: no two settings were compared.")
    usual = table[table[["setting_a", "setting_b"]].map(_usual).all(axis=1)]
    sentences, checks = [], []
    for measure, part, name, statistic, paper in (
        ("mui", 2, "thresholds", "pearson", PAPER_ACROSS_THRESHOLDS),
        ("mui", 0, "formulations", "spearman", PAPER_ACROSS_FORMULATIONS),
        ("key_expert_proportion", 2, "thresholds", "cosine", PAPER_COSINE),
    ):
        rows = views.differing(usual, measure, part).dropna(subset=[statistic])
        as_in_paper = rows[rows[["setting_a", "setting_b"]].map(_threshold).isin(PAPER_THRESHOLDS).all(axis=1)]
        said = []
        if not as_in_paper.empty:
            lowest, low, high = _lowest(as_in_paper, statistic)
            known = bool(np.isfinite([low, high]).all())
            checks.append(int(low >= paper) - int(high < paper) if known else 0)
            compared = {1: "at least as high here", -1: "lower here", 0: "undecided here"}[checks[-1]]
            said.append(f"at the paper's thresholds, {lowest}. The paper: {paper:g}; {compared}.")
        if len(rows) > len(as_in_paper):
            said.append(f"{'At' if said else 'at'} all thresholds of this study, {_lowest(rows, statistic)[0]}.")
        if said:
            sentences.append(f"{MEASURES[measure]} across {name}: {' '.join(said)}")
    for part, name in ((1, "selections"), (3, "rules"), (4, "scoring variants")):
        found = []
        for measure, statistic in BESIDES_PAPER:
            rows = views.differing(table, measure, part).dropna(subset=[statistic])
            rows = rows[rows[SIDES].map(_usual).any(axis=1) & ~rows[SIDES].map(_of_top_score).any(axis=1)]
            found += [f"{MEASURES[measure]}: {_lowest(rows, statistic)[0]}."] if len(rows) else []
        if part == RULE:
            found += _top_score(table, choice)
        if found:
            sentences.append(f"Across {name} (no figure in the paper). {' '.join(found)}")
    if not sentences:
        alone = pd.concat([views.differing(table, measure, part) for measure in MEASURES for part in range(5)])
        if alone.empty:
            raise NothingToShow("No two settings differ in one part alone, so none can be compared.")
        raise NothingToShow(f"No two settings that differ in one part alone can be compared: {reasons(alone['note'])}.")
    caveat = (
        "Only settings that differ in that part alone; top_score, whose threshold is another quantity, is set beside "
        "the setting that is shown. Intervals resample whole checkpoints, where there are enough of "
        "them; checkpoints of one model are no independent draws, so they may still be too narrow. A cosine similarity "
        "of shares is high even where their ranks differ. The table sensitivity holds every pair."
    )
    return Finding("Choice of setting", tuple(sentences), caveat, _all_pairs(checks))


def _top_score(table: pd.DataFrame, choice: Choice) -> list[str]:
    """top_score beside the setting shown, whatever its threshold: that is a share of the layer's highest score."""
    found = []
    for (measure, statistic), shown in zip(BESIDES_PAPER, (choice.curves, choice.experts), strict=True):
        rows = table[table["measure"] == measure].dropna(subset=[statistic])
        pairs = [sorted(map(Setting.parse, pair), key=shown.__eq__) for pair in rows[SIDES].itertuples(index=False)]
        wanted = [
            own == shown
            and other.rule == "top_score" != own.rule
            and (*other[:2], other.variant) == (*own[:2], own.variant)
            for other, own in pairs
        ]
        rows = rows[np.array(wanted, dtype=bool)]
        found += [f"{MEASURES[measure]}: {_lowest(rows, statistic)[0]}."] if len(rows) else []
    if not found:
        return []
    return ["top_score, whose threshold is a share of the highest score, beside the setting shown.", *found]


def _of_top_score(setting: str) -> bool:
    return Setting.parse(setting).rule == "top_score"


def _usual(setting: str) -> bool:
    """Whether a setting has the paper's rule and scoring."""
    return Setting.parse(setting)[3:] == ("topk", MAIN)


def _all_pairs(checks: list[int]) -> str:
    """One figure that is lower than the paper's settles it."""
    return "disagrees" if checks and min(checks) < 0 else verdict(checks)


def _threshold(setting: str) -> float:
    return Setting.parse(setting).threshold


def _lowest(rows: pd.DataFrame, statistic: str) -> tuple[str, float, float]:
    """The lowest value of a statistic in words, and its interval over checkpoints (NaN where it has none)."""
    row, _ = views.extremes(rows, statistic)
    low, high = (float(row[f"{statistic}_clustered_{end}"]) for end in ("low", "high"))
    noun = "cosine similarity" if statistic == "cosine" else f"{statistic.capitalize()} correlation"
    text = f"{f'the lowest {noun} of {len(rows)} pairs' if len(rows) > 1 else f'the {noun}'} is {_of(row, statistic)}"
    if statistic == "cosine" and pd.notna(row["spearman"]):
        text += f" (Spearman correlation {_of(row, 'spearman')})"
    return f"{text}, between {row['setting_a']} and {row['setting_b']} over {int(row['n_cells'])} cells", low, high


def _of(row: pd.Series, statistic: str) -> str:
    """A statistic with its interval over checkpoints, four decimals as the paper prints."""
    clustered = [float(row[name]) for name in (statistic, *(f"{statistic}_clustered_{end}" for end in ("low", "high")))]
    return decimal(views.Estimate(*clustered), 4)


def threshold(tables: Tables, choice: Choice) -> Finding:
    """Which threshold sets key neurons apart best, and which are ruled out."""
    every = tables["threshold_selection"]
    every = every[every["model"] == ALL_MODELS]
    rows, matched = every[every["control"] == "expert"], every[every["control"] == "frequency"]
    if rows.empty:
        raise NothingToShow("Masking was not measured at two thresholds, so none can be chosen.")
    sentences = []
    for _, row in rows.iterrows():
        separation = estimate(row, "separation")
        if np.isnan(separation.value):
            sentences.append(f"{Setting(*row[list(Setting._fields)]).label}: not measured. {sentence(row['note'])}")
            continue
        outcome = {1: "", 0: ", which is undecided", -1: ", so less"}[sign(separation)]
        sentences.append(
            f"{Setting(*row[list(Setting._fields)]).label}: for each 0.1 % of the neurons masked, the negative "
            f"log-likelihood rises by {decimal(separation, 4)} nats a token more than with random ones of the same "
            f"experts{outcome}; by cell, significantly more in {row['n_significant']} of {row['n_cells']}. "
            f"{sentence(row['note'])}"
        )
    if len(matched):
        taken = [
            Setting(*row).label for row in matched.loc[matched["chosen"], list(Setting._fields)].itertuples(index=False)
        ]
        sentences.append(
            f"Beside controls of the same activation frequency, {', '.join(taken) or 'none'} would be chosen."
        )
    caveat = (
        "Over all models; a cell is a task at a checkpoint. `threshold: auto` takes the chosen one, out of those that "
        "were masked only."
    )
    return Finding("Choice of threshold", tuple(shortened({"": sentences}, "threshold_selection")), caveat)
