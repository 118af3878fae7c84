"""Findings about training: its phases, and where MUI turns."""

from __future__ import annotations

import itertools

import pandas as pd

from moemui.mui.dynamics import FLAT, PHASES
from moemui.report import views
from moemui.report.findings.finding import SIGNIFICANT, Finding, Tables, reasons, shortened, verdict
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import change, count, estimate, key_in_words, probability, sentence, tally

ORDER = ["Accumulating", "Evolving"]  # of the paper


def phases(tables: Tables, choice: Choice) -> Finding:
    """Steps counted by phase, the mean's course, where it turns, and whether it shows the paper's order.

    A model supports the paper, as it is read here, where its mean is Accumulating first and Evolving later, Flat steps
    aside. It contradicts it where the mean has another phase or another order, and leaves it open where it shows only
    one of the two.
    """
    every = views.at(tables["phases"], choice.curves, "phases")
    rows = every[every["phase"] != ""]
    if rows.empty:
        raise NothingToShow(f"No step of training has a phase: {reasons(every['note'])}.")
    said, outcomes = {}, []
    for model, own in rows.groupby("model", sort=False):
        steps, mean = own[own["task"] != MEAN], own[own["task"] == MEAN].sort_values("from_order")
        counts = {phase: int((steps["phase"] == phase).sum()) for phase in [*PHASES.values(), FLAT]}
        said_of = [(number, f"{number} {phase}") for phase, number in counts.items()]
        of_steps = f"{'of ' if len(steps) else ''}{count(len(steps), 'step')} of single tasks"
        text = f"{model}: {tally(of_steps, *said_of)}."
        if len(mean):
            text += f" The mean over tasks goes {' → '.join(mean['phase'])}."
            outcomes.append(_as_in_paper(list(mean["phase"])))
        said[str(model)] = [text, *_hidden(tables, choice, str(model)), *_turn(tables, choice, str(model))]
    sentences = shortened(said, "phases")
    if outcomes:
        sentences.append(
            "The paper says that training first recruits neurons and then compresses, read here as Accumulating first "
            "and Evolving later: the mean "
            + tally(
                f"shows this order in {outcomes.count(1)} of {count(len(outcomes), 'model')}",
                (outcomes.count(-1), f"contradicts it in {outcomes.count(-1)}"),
                (outcomes.count(0), f"leaves it undecided in {outcomes.count(0)}"),
            )
            + "."
        )
    left = "The step from the untrained checkpoint has no phase. " if (every["phase"] == "").any() else ""
    caveat = (
        "Accumulating: accuracy and MUI rise; Evolving: accuracy rises, MUI falls; Coarsening: accuracy falls, MUI "
        "rises; Collapsing: both fall; Flat: the interval of either change contains 0, so nothing is shown. "
        f"{left}MUI with {key_in_words(choice.curves)}."
    )
    return Finding("Phases of training", tuple(sentences), caveat, verdict(outcomes))


def _as_in_paper(course: list[str]) -> int:
    moves = [phase for phase, _ in itertools.groupby(phase for phase in course if phase != FLAT)]
    if moves == ORDER:
        return 1
    return 0 if moves in ([], ORDER[:1], ORDER[1:]) else -1


def _hidden(tables: Tables, choice: Choice, model: str) -> list[str]:
    """How far the mean's phase speaks for its tasks."""
    table = tables["phase_divergence"]
    own = table[table["model"] == model]
    if own.empty:
        return []
    own = views.at(own, choice.curves, "phase_divergence")
    known, masks = own.dropna(subset=["n_differ"]), own["mean_masks"].dropna()
    parts = []
    if len(known):
        parts.append(
            f"{int(known['n_differ'].sum())} of {count(int(known['n_tasks'].sum()), 'step')} of single tasks are in "
            "another phase than the mean, Flat included"
        )
    if len(masks):
        parts.append(
            f"the mean hides an Accumulating task beside an Evolving one in {int(masks.to_numpy(dtype=bool).sum())} of "
            f"its {count(len(masks), 'step')}"
        )
    return [f"{model}: {'; '.join(parts)}."] if parts else []


def _turn(tables: Tables, choice: Choice, model: str) -> list[str]:
    """Where the mean MUI turns."""
    table = tables["change_points"]
    own = table[(table["model"] == model) & (table["task"] == MEAN) & (table["measure"] == "mui")]
    if own.empty:
        return []
    row = views.at(own, choice.curves, "change_points").iloc[0]
    if pd.isna(row["p_no_change"]):
        return [f"{model}, turn of the mean MUI: not measured. {sentence(row['note'])}"]
    p = f"(p = {probability(row['p_no_change'])})"
    if row["p_no_change"] >= SIGNIFICANT or pd.isna(row["change_order"]):
        return [f"{model}: no change of slope of the mean MUI is shown {p}."]
    cells = tables["utilization"]
    at_order = cells[cells["model"] == model].drop_duplicates("order").set_index("order")["checkpoint"]
    orders = [row["low_order"], row["high_order"]]
    ends = [str(at_order.get(order, f"checkpoint {order}")) for order in orders]
    where = (
        "the same in at least 95 % of the resamples" if ends[0] == ends[1] else f"95 % interval {ends[0]} to {ends[1]}"
    )
    where = "no interval" if any(pd.isna(order) for order in orders) else where
    return [
        f"{model}: the slope of the mean MUI changes at {row['change_checkpoint']} {p}, {where}: "
        f"{change(estimate(row, 'slope_before'))} a checkpoint before, {change(estimate(row, 'slope_after'))} after."
    ]
