"""Findings that go across: diversity of data, laws over models and neurons, flags, and the paper's own figures."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.finding import MOST, SIGNIFICANT, Finding, Tables, reasons, shortened, verdict
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, key_in_words, listed, percent, points, probability

FLAGS = {
    "mui_without_decline": "MUI above 30 % without decline",
    "few_key_experts": "fewer than 5 % of the experts key",
    "shared_and_total_mui_high": "MUI of the shared experts and of all both high",
    "cheap_masking": "masking key neurons costs less than 2 %",
}
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
            f"to resolve worse (difference {points(estimate(active, 'difference'))}). So the gap to key experts may "
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


def laws(tables: Tables, choice: Choice) -> Finding:
    """Performance against MUI over models and checkpoints, beside the paper's printed figures; decay over neurons."""
    rows = tables["utility_law"]
    rows = rows[rows["task"] == MEAN]
    straight = rows[rows["form"] == "linear"]
    unfitted = straight[straight["slope"].isna()]
    sentences = []
    for _, row in straight[straight["slope"].notna()].iterrows():
        same = (rows["scope"] == row["scope"]) & (rows["model"] == row["model"]) & (rows["form"] == "logarithmic")
        sentences.append(_line(row, rows[same]))
    if len(unfitted):
        reasons: dict[str, list[str]] = {}
        for _, row in unfitted.iterrows():
            reasons.setdefault(row["note"].split(";")[0], []).append(_points_of(row))
        listing = "; ".join(f"over {listed(what)}: {reason}" for reason, what in reasons.items())
        sentences.append(f"No law is fitted {listing}.")
    said = {"laws": sentences} | {model: [text] for model, text in _decays(tables["decay"], choice).items()}
    if not any(said.values()):
        raise NothingToShow("The tables utility_law and decay have no fit to show.")
    caveat = (
        "A fit takes MUI and accuracy as exact, and checkpoints of one model are no independent draws. A neuron can be "
        "key in at most all samples, so a decay is cut there, and neurons are not independent, so the exponent's "
        "interval is too narrow."
    )
    return Finding("Laws", tuple(shortened(said, "decay")), caveat)


def _points_of(row: pd.Series) -> str:
    if row["scope"] == "models":
        return "this study's models"
    if row["scope"] == "checkpoints":
        return f"the trained checkpoints of {row['model']}"
    return f"the paper's printed {'checkpoints of ' + row['model'] if row['model'] else 'models'}"


def _line(row: pd.Series, logarithmic: pd.DataFrame) -> str:
    dependent = ", as if checkpoints were independent" if row["scope"] == "checkpoints" or row["model"] else ""
    slope, shown = row["slope"], "significant" if row["slope_p"] < SIGNIFICANT else "not significant"
    tested = f"{shown} (p = {probability(row['slope_p'])}{dependent})"
    if pd.isna(row["slope_p"]):
        tested = f"not tested ({row['note']})"
    explained = f"explains {percent(estimate(row, 'r_squared'))} of the variance; its slope is"
    if pd.isna(row["r_squared"]):
        explained = "has a slope that is"
    text = (
        f"Over {_points_of(row)} ({count(int(row['n_points']), 'point')}), a straight line of accuracy on MUI "
        f"{explained} {'positive' if slope > 0 else 'negative' if slope < 0 else 'zero'} and {tested}."
    )
    better = [f for f, cells in (("straight line", row.to_frame().T), ("logarithm", logarithmic)) if
              len(cells) and cells["better"].iloc[0] is not pd.NA and bool(cells["better"].iloc[0])]  # fmt: skip
    return f"{text} The {better[0]} fits better (AICc)." if better else text


def _decays(table: pd.DataFrame, choice: Choice) -> dict[str, str]:
    """model → how its neurons' incidence over all tasks decays at the last checkpoint."""
    found: dict[str, str] = {}
    rows = views.last(views.at(table, choice.curves, "decay")) if len(table) else table
    for _, row in rows[rows["task"] == "all"].iterrows():
        model = str(row["model"])
        if row[["alpha", "xmin", "n_tail"]].isna().any():
            found[model] = f"{row['model']}: no decay is fitted ({row['note']})."
            continue
        fits = ""
        if pd.notna(row["p_fit"]):
            outcome = "rejected" if row["p_fit"] < SIGNIFICANT else "not rejected"
            fits = f" A power law is {outcome} (p = {probability(row['p_fit'])})."
        found[model] = (
            f"{row['model']} at {row['checkpoint']}: from {count(int(row['xmin']), 'sample')} on, the number of "
            f"samples in which a neuron is key falls with an exponent of {decimal(estimate(row, 'alpha'))} over "
            f"{int(row['n_tail'])} neurons.{fits} Laws that no other beats: {row['best'].replace(' or ', ', ')}."
        )
    return found


def flags(tables: Tables, choice: Choice) -> Finding:
    """The diagnostic flags of every model, raised or not, with what raised them."""
    rows = tables["diagnostics"]
    if rows.empty:
        raise NothingToShow("No model was measured, so there is nothing to raise a flag on.")
    said: dict[str, list[str]] = {}
    for outcome in ("raised", "undecided"):
        for _, row in rows[rows["outcome"] == outcome].iterrows():
            evidence = row["evidence"].removeprefix(f"{outcome.capitalize()}: ").rstrip(".")
            name = f"{row['model']}: {FLAGS[row['flag']]}"
            said[name] = [f"{outcome.capitalize()} on {name} ({evidence})."]
    sentences = shortened(said, "diagnostics")
    if not (rows["outcome"] == "raised").any():
        sentences.insert(0, "No flag is raised.")
    for outcome in ("not raised", "not measured"):
        calm = rows[rows["outcome"] == outcome].groupby("flag", sort=False)["model"].agg(list)
        if len(calm):
            each = "; ".join(f"{FLAGS[str(flag)]} ({', '.join(models)})" for flag, models in calm.items())
            sentences.append(f"{outcome.capitalize()}: {each}.")
    caveat = (
        "A flag is a reason to look, not a verdict. Its limits are the project's reading of the paper; undecided where "
        "an interval contains one, or for the reason that the evidence gives. The table diagnostics "
        "holds the figures of all."
    )
    return Finding("Flags", tuple(sentences), caveat)


def published(tables: Tables, choice: Choice) -> Finding:
    """The study's models beside the paper's of the same name."""
    rows = tables["published_agreement"]
    if rows.empty:
        raise NothingToShow("No model of this study has the name of one that the paper measured.")
    said: dict[str, list[str]] = {}
    for _, row in rows.iterrows():
        of = f" of {row['model']}" if row["model"] else ""
        what = f"{row['metric'].replace('_', ' ')}{of}, {row['task']}"
        text = (
            f"{row['figure'].replace('_', ' ')}, {what}: {count(int(row['n_common']), 'value')} in common; own less "
            f"published is {points(float(row['mean_difference']))} on average (no interval)"
        )
        if pd.notna(row["spearman"]):
            text += f", rank correlation {decimal(float(row['spearman']))} (p = {probability(row['spearman_p'])})"
        said[what] = [*said.get(what, []), f"{text}."]
    caveat = "The paper's values have no intervals. Samples, tasks and checkpoints may differ from its own."
    if len(rows) > MOST:
        caveat += " The table published holds single values."
    return Finding("The paper's own figures", tuple(shortened(said, "published_agreement")), caveat)
