"""Diversity of data: whether MUI follows the number of domains, and finer than experts do."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, reasons, shortened, verdict
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import change, decimal, estimate, key_in_words, listed, percent, probability

MEASURES = {
    "key_expert_proportion": "the share of key experts",
    "active_experts": "the number of active experts",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs of words",
    "compression_ratio": "the text's compressibility",
}
FINER, COARSER, UNSHOWN = "neuron level resolves finer", "neuron level resolves coarser", "no difference shown"
GUESSING = 0.5


def diversity(tables: Tables, choice: Choice) -> Finding:
    """Whether MUI follows the number of domains, and whether it does so finer than experts and the text itself.

    A model supports the paper where the neuron level resolves finer than both the key-expert proportion and the number
    of active experts, and contradicts it where it resolves coarser than the proportion.
    """
    table = tables["diversity_effect"]
    known = table[table["resolution"].notna()]
    if table.empty:
        raise NothingToShow(views.NONE["diversity"])
    if known.empty:
        raise NothingToShow(f"The number of domains could not be varied: {reasons(table['note'])}.")
    said, outcomes = {}, []
    for model, own in views.last(known).groupby("model", sort=False):
        neuron = own[(own["level"] == "neuron") & (own["setting"] == choice.curves.label)]
        if neuron.empty:
            continue
        mui = neuron.iloc[0]
        over = (
            f"{model} at {mui['checkpoint']}: over 1 to {mui['n_domains']} domains at {mui['n_samples']} samples a set"
        )
        if pd.isna(mui["spearman"]):
            said[str(model)] = [f"{over}, MUI has no correlation with the number of domains ({mui['note']})."]
            outcomes += [0] * len(_outcome(own))
            continue
        said[str(model)] = [
            f"{over}, MUI has a Spearman correlation of {decimal(estimate(mui, 'spearman'))} with the number of "
            f"domains. It tells which of two sets has one domain more in {percent(estimate(mui, 'resolution'))} of "
            "pairs (50 % would be guessing).",
            *_against(str(model), own),
            *_untrained(known[known["model"] == model], mui),
        ]
        outcomes += _outcome(own)
    if not said:
        raise NothingToShow(f"Diversity was not measured at {choice.curves.label}.")
    sentences = shortened(said, "diversity_effect")
    if outcomes:
        sentences.append(
            "The paper claims that the neuron level follows diversity of data finer than the expert level; it agrees "
            "here only where both the share of key experts and the number of active experts resolve coarser."
        )
    caveat = (
        f"MUI with {key_in_words(choice.curves)}. Intervals are over disjoint parts of the samples, p-values not "
        "corrected for their number. Domains are few and fixed: nothing here speaks of others."
    )
    return Finding("Diversity of data", tuple(sentences), caveat, verdict(outcomes))


def _row(own: pd.DataFrame, measure: str) -> pd.Series | None:
    rows = own[(own["measure"] == measure) & (own["verdict"] != "")]
    return rows.iloc[0] if len(rows) else None


def _outcome(own: pd.DataFrame) -> list[int]:
    proportion, active = _row(own, "key_expert_proportion"), _row(own, "active_experts")
    if proportion is None:
        return []
    finer = proportion["verdict"] == FINER and (active is None or active["verdict"] == FINER)
    return [int(finer) - int(proportion["verdict"] == COARSER)]


def _against(model: str, own: pd.DataFrame) -> list[str]:
    """The neuron level against all else, each difference with its p, and what a gap to key experts may come from."""
    parts = []
    for found, words in ((FINER, "finer than"), (COARSER, "coarser than"), (UNSHOWN, "not shown to differ from")):
        rows = own[own["verdict"] == found]
        if len(rows):
            parts.append(f"{words} {listed([_measure(row) for _, row in rows.iterrows()])}")
    sentences = [f"{model}: the resolution of MUI is {'; '.join(parts)}."] if parts else []
    proportion, active = _row(own, "key_expert_proportion"), _row(own, "active_experts")
    if proportion is not None and active is not None and proportion["verdict"] == FINER != active["verdict"]:
        sentences.append(
            f"{model}: the number of active experts, which is of the expert level but takes no η_expert, is not shown "
            f"to resolve worse (difference {change(estimate(active, 'difference'))}). So the gap to key experts may "
            "come from the limit η_expert and not from the level."
        )
    return sentences


def _measure(row: pd.Series) -> str:
    name = MEASURES.get(row["measure"], f"MUI at {row['setting']}")
    return f"{name} (p = {probability(row['difference_p'])})" if pd.notna(row["difference_p"]) else name


def _untrained(own: pd.DataFrame, mui: pd.Series) -> list[str]:
    """The untrained checkpoint, where its MUI tells sets apart as well."""
    start = own[views.untrained(own) & (own["measure"] == "mui") & (own["setting"] == mui["setting"])]
    if start.empty or start["order"].iloc[0] == mui["order"] or not start["resolution_low"].iloc[0] > GUESSING:
        return []
    return [
        f"{mui['model']} untrained: MUI tells them apart in {percent(estimate(start.iloc[0], 'resolution'))} of pairs, "
        "so at least a part of this does not have to be learned."
    ]
