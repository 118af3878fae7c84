"""Choice of setting: how far results depend on formulation, selection, threshold, rule and variant."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import MAIN, Setting
from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, reasons, verdict
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import decimal

PAPER_ACROSS_THRESHOLDS, PAPER_ACROSS_FORMULATIONS = 0.9958, 0.92
PAPER_COSINE = 0.9947
PAPER_THRESHOLDS = (0.0008, 0.001, 0.002)  # of its ablation
MEASURES = {"mui": "MUI", "key_expert_proportion": "Share of key experts"}
BESIDES_PAPER = (("mui", "spearman"), ("key_expert_proportion", "cosine"))  # what is said where it has no figure
SIDES = ["setting_a", "setting_b"]
RULE = Setting._fields.index("rule")


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
        said, decimals = [], len(f"{paper:g}".partition(".")[2])
        if not as_in_paper.empty:
            lowest, low, high = _lowest(as_in_paper, statistic, decimals)
            known = bool(np.isfinite([low, high]).all())
            checks.append(int(low >= paper) - int(high < paper) if known else 0)
            compared = {1: "at least as high here", -1: "lower here", 0: "undecided here"}[checks[-1]]
            said.append(f"at the paper's thresholds, {lowest}. The paper: {paper:g}; {compared}.")
        if len(rows) > len(as_in_paper):
            said.append(
                f"{'At' if said else 'at'} all thresholds of this study, {_lowest(rows, statistic, decimals)[0]}."
            )
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


def _lowest(rows: pd.DataFrame, statistic: str, decimals: int = 2) -> tuple[str, float, float]:
    """The lowest value of a statistic in words, and its interval over checkpoints (NaN where it has none).

    decimals: of the statistic, as many as the paper's figure beside it has.
    """
    row, _ = views.extremes(rows, statistic)
    low, high = (float(row[f"{statistic}_clustered_{end}"]) for end in ("low", "high"))
    noun = "cosine similarity" if statistic == "cosine" else f"{statistic.capitalize()} correlation"
    what = f"the lowest {noun} of {len(rows)} pairs" if len(rows) > 1 else f"the {noun}"
    text = f"{what} is {_of(row, statistic, decimals)}"
    if statistic == "cosine" and pd.notna(row["spearman"]):
        text += f" (Spearman correlation {_of(row, 'spearman', 2)})"
    return f"{text}, between {row['setting_a']} and {row['setting_b']} over {int(row['n_cells'])} cells", low, high


def _of(row: pd.Series, statistic: str, decimals: int) -> str:
    """A statistic with its interval over checkpoints."""
    clustered = [float(row[name]) for name in (statistic, *(f"{statistic}_clustered_{end}" for end in ("low", "high")))]
    return decimal(views.Estimate(*clustered), decimals)
