"""Structure of experts: how they relate to tasks, domains and each other."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import SIGNIFICANT, Finding, Tables, shortened
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, listed, percent, probability, tally


def structure(tables: Tables, choice: Choice) -> Finding:
    """How tasks share key experts, which experts follow a domain, and which are active together."""
    parts = {
        "expert_overlap": _overlapping,
        "specialization_summary": _specialised,
        "coactivation_summary": _together,
    }
    said: dict[str, list[str]] = {}
    for name, describe in parts.items():
        for model in views.names(tables[name], "model"):
            said.setdefault(model, [])
            rows = views.last(tables[name][tables[name]["model"] == model])
            sentence = describe(_chosen(rows, choice, name))
            said[model] += [f"{model}: {sentence}"] if sentence else []
    if not any(said.values()):
        raise NothingToShow(
            f"The tables {', '.join(parts)} have no rows on how experts relate to tasks and each other."
        )
    caveat = (
        "Counted at the last checkpoint with tests at 5 %, corrected for their number; what is not shown may still be "
        "so. Within tasks: a pair that is active together only because both follow a task does not count."
    )
    return Finding("Structure of experts", tuple(shortened(said, listed(list(parts)))), caveat)


def _chosen(rows: pd.DataFrame, choice: Choice, what: str) -> pd.DataFrame:
    """The rows of the chosen setting (and η_expert); a table without this setting gives none."""
    try:
        rows = views.at(rows, choice.experts, what)
    except NothingToShow:
        return rows.head(0)
    if "expert_threshold" in rows:
        rows = rows[np.isclose(rows["expert_threshold"], choice.expert_threshold)]
    return rows


def _overlapping(pairs: pd.DataFrame) -> str:
    known = pairs.dropna(subset=["jaccard"])
    if known.empty:
        return "no two tasks have key experts to compare." if len(pairs) else ""
    more = int((known["q_within_kind"] < SIGNIFICANT).sum())
    chance = f"more than chance gives among experts of a kind in {more} of {count(len(known), 'pair')} of tasks."
    low, high = views.extremes(known, "jaccard")
    if len(known) == 1:
        share = f"{low['task_a']} and {low['task_b']} share {percent(estimate(low, 'jaccard'))}"
    else:
        share = (
            f"two tasks share from {percent(estimate(low, 'jaccard'))} ({low['task_a']}, {low['task_b']}) to "
            f"{percent(estimate(high, 'jaccard'))} ({high['task_a']}, {high['task_b']})"
        )
    return f"{share} of the experts that are key on either (Jaccard); {chance}"


def _specialised(kinds: pd.DataFrame) -> str:
    tested = [row for _, row in kinds[kinds["n_testable"] > 0].iterrows()]
    if not tested:
        if len(kinds) and kinds["n_domains"].max() < 2:
            return "all samples are of one domain, so there is no test of whether experts follow one."
        return "no expert is active in some samples and not in all, so none can follow a domain." if len(kinds) else ""
    followers = listed([f"{row['n_specialised']} of {row['n_testable']} {row['kind']}" for row in tested])
    bits = [
        f"{decimal(estimate(row, 'mean_mutual_information'), 3)} bits ({row['kind']}; by chance "
        f"{decimal(float(row['mean_mutual_information_expected']), 3)})"
        for row in tested
    ]
    return (
        f"{followers} experts follow the domain, of those active in some samples and not in all: they are active in "
        f"some domains more than in others. Whether one is active tells {listed(bits)} about the domain, mean over "
        "experts."
    )


def _together(rows: pd.DataFrame) -> str:
    every = rows[rows["pairs"] == "all"]
    if every.empty:
        return ""
    row = every.iloc[0]
    if not row["n_testable_within"]:
        return "no pair of experts can be tested for being active together within tasks."
    rest = row["n_testable_within"] - row["n_together_within"] - row["n_apart_within"]
    outcomes = tally(
        f"{row['n_together_within']} are active together within tasks",
        (row["n_apart_within"], f"{row['n_apart_within']} apart"),
        (rest, f"{rest} undecided"),
    )
    text = (
        f"of {count(row['n_testable_within'], 'pair')} of its {row['n_compared']} most frequent experts that can be "
        f"tested, {outcomes}"
    )
    if pd.notna(row["mean_phi_within"]) and pd.notna(row["p_within"]):
        text += (
            f" (mean correlation {decimal(float(row['mean_phi_within']), 3)}; chance keeps it within "
            f"[{decimal(float(row['chance_low']), 3)}, {decimal(float(row['chance_high']), 3)}]; p = "
            f"{probability(row['p_within'])})"
        )
    return f"{text}."
