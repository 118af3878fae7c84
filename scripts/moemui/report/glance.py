"""The first screen's table: each model in one row, with what to hold against it, and what holds for the whole study."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from moemui.report import views
from moemui.report.findings import enrichment, flags, key_experts, masking, saturation
from moemui.report.findings.finding import Tables, reasons
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import change, count, decimal, estimate, listed, percent, points, power, sign, tally

MISSING = "–"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Glance:
    """A model at its last checkpoint, in words; means over tasks with 95 % intervals, a cell without says why.

    tasks: over how many the means are, each on its own where they differ. phase: of the mean's last step; changes: of
    accuracy and MUI in it, empty without a phase; course: the mean's phases in training order, repeated ones once,
    empty without any; phases: the same step by step, MISSING for a step without one. key_experts: their share of all
    experts; key_experts_beside: their number, how many are shared, and the untrained share, empty where not measured.
    top_experts: how many of the most frequent are shared. flags: diagnostic flags by outcome, but for those not raised;
    flag_outcomes: each in words with its outcome (raised, undecided, not raised, not measured), empty where none was
    looked at. check: masking and saturation in a few words each. believe: reasons to trust the row or not.
    """

    model: str
    checkpoint: str
    tasks: str
    accuracy: str
    mui: str
    phase: str
    changes: str
    course: str
    phases: tuple[str, ...]
    key_experts: str
    key_experts_beside: str
    top_experts: str
    flags: str
    flag_outcomes: tuple[tuple[str, str], ...]
    check: tuple[str, ...]
    believe: tuple[str, ...]


def glance(tables: Tables, choice: Choice) -> list[Glance]:
    """A row a model, in the study's order; none where MUI or performance has no rows."""
    try:
        cells = views.last(views.trajectory(tables, choice))
    except NothingToShow:
        return []
    proportions = _rows(tables, "key_experts", choice)
    if len(proportions):
        proportions = views.last(proportions)
    concentrations = key_experts.concentration(tables, choice)
    rows = []
    for name, own in cells.groupby("model", sort=False):
        model = str(name)
        mean, key = own[own["task"] == MEAN], proportions[proportions["model"] == model]
        tasks = {"accuracy": 0, "MUI": 0}
        values = {}
        for measure, column in zip(tasks, views.MEASURED, strict=True):
            tasks[measure] = int(mean[f"n_{column}"].iloc[0]) if len(mean) else 0
            values[column] = percent(estimate(mean.iloc[0], column)) if tasks[measure] else MISSING
        tasks |= {"key experts": len(key)} if len(key) else {}
        alike = len(set(tasks.values())) == 1
        phase, changes, course = _phase(tables, choice, model)
        share = concentrations.get(model)
        rows.append(
            Glance(
                model=model,
                checkpoint=str(own["checkpoint"].iloc[0]),
                tasks=str(tasks["MUI"]) if alike else ", ".join(f"{of} {n}" for of, n in tasks.items()),
                **values,
                phase=phase,
                changes=changes,
                course=course,
                phases=tuple(step or MISSING for step in mean_steps(tables, choice, model)["phase"]),
                key_experts=percent(share.share) if share else MISSING,
                key_experts_beside=share.beside if share else "",
                top_experts=_top_experts(tables, choice, model, str(own["checkpoint"].iloc[0])),
                flags=_flags(tables["diagnostics"], model),
                flag_outcomes=_flag_outcomes(tables["diagnostics"], model),
                check=_check(tables, choice, model),
                believe=_believe(tables, choice, model),
            )
        )
    return rows


def grounds(choice: Choice, provenance: Mapping[str, Any]) -> list[str]:
    """What to believe or doubt in all rows alike.

    provenance: conservation_error_max (of all extractions, a share of the scores' size), said not to be recorded where
    it is absent or None.
    """
    error = provenance.get("conservation_error_max")
    if error is None:
        seen = "The conservation error is not recorded, so nothing here shows that every expert's neurons were seen."
    else:
        seen = (
            f"Neuron scores add up to each layer's output with an error of at most {power(float(error))} of their size "
            "(conservation; one above what rounding explains stops a measurement)."
        )
    here = " Those that the workflow trained itself were trained with one seed." if choice.trained_here else ""
    return [seen, f"Each model is one training run, so no interval here speaks of another run.{here}"]


def _rows(tables: Tables, name: str, choice: Choice) -> pd.DataFrame:
    """A table's rows at the setting of experts, and at η_expert where it has one; none where there are none."""
    try:
        if name == "key_experts":
            return views.key_experts(tables[name], choice)
        return views.at(tables[name], choice.experts, name)
    except NothingToShow:
        return tables[name].head(0)


def mean_steps(tables: Tables, choice: Choice, model: str) -> pd.DataFrame:
    """The steps of the mean between trained checkpoints, in training order; those without a phase are in it."""
    try:
        steps = views.at(tables["phases"], choice.curves, "phases")
    except NothingToShow:
        return tables["phases"].head(0)
    cells = tables["utilization"]
    start = cells.loc[(cells["model"] == model) & views.untrained(cells), "order"]
    own = steps[(steps["model"] == model) & (steps["task"] == MEAN) & ~steps["from_order"].isin(start)]
    return own.sort_values("from_order")


def _phase(tables: Tables, choice: Choice, model: str) -> tuple[str, str, str]:
    """Phase of the mean's last step, its two changes, and the mean's course; why there is none in place of a phase."""
    steps = mean_steps(tables, choice, model)
    course = " → ".join(phase for phase, _ in itertools.groupby(steps["phase"]) if phase)
    if steps.empty:
        cells = tables["utilization"]
        trained = cells[(cells["model"] == model) & ~views.untrained(cells)]["checkpoint"].nunique()
        why = {0: "no trained checkpoint", 1: "one trained checkpoint"}.get(trained, NOT_MEASURED)
        return f"no phase: {why}", "", ""
    last = steps.iloc[-1]
    if not last["phase"]:
        return f"no phase: {reasons([last['note']])}", "", course
    changes = f"accuracy {change(estimate(last, 'd_accuracy'))}, MUI {change(estimate(last, 'd_mui'))}"
    return str(last["phase"]), changes, course


def _top_experts(tables: Tables, choice: Choice, model: str, checkpoint: str) -> str:
    rows = _rows(tables, "top_composition", choice)
    rows = rows[(rows["model"] == model) & (rows["checkpoint"] == checkpoint) & (rows["task"] == enrichment.EVERY_TASK)]
    if rows.empty:
        return NOT_MEASURED
    row = rows.iloc[0]
    if not row["n_shared_experts"]:
        return "no shared experts"
    chance = decimal(float(row["expected_shared"]), 1)
    return f"{row['n_shared']} of {row['n_top']} shared, by chance {chance}"


def _flags(diagnostics: pd.DataFrame, model: str) -> str:
    """The flags by outcome; those that are not raised go without saying."""
    own = _flag_outcomes(diagnostics, model)
    if not own:
        return NOT_MEASURED
    by = {of: [flag for flag, outcome in own if outcome == of] for of in ("raised", "undecided", NOT_MEASURED)}
    said = [f"{outcome}: {'; '.join(names)}" for outcome, names in by.items() if names]
    return ". ".join(said if by["raised"] else ["none raised", *said])


def _flag_outcomes(diagnostics: pd.DataFrame, model: str) -> tuple[tuple[str, str], ...]:
    own = diagnostics[diagnostics["model"] == model]
    return tuple((flags.FLAGS[flag], str(outcome)) for flag, outcome in zip(own["flag"], own["outcome"], strict=True))


def _check(tables: Tables, choice: Choice, model: str) -> tuple[str, ...]:
    difference = masking.mean_difference(tables, choice, model)
    masked = NOT_MEASURED if difference is None else {1: "more", -1: "less", 0: "undecided"}[sign(difference)]
    outcomes = _saturated(_totals(tables, choice, model))
    seen = f"saturated on {outcomes.count(1)} of {len(outcomes)}" if outcomes else f"saturation: {NOT_MEASURED}"
    return f"masking: {masked}", seen


def _totals(tables: Tables, choice: Choice, model: str) -> pd.DataFrame:
    totals = views.last(views.total_mui(tables["utilization"], choice.curves))
    return totals[totals["model"] == model]


def _saturated(totals: pd.DataFrame) -> list[int]:
    cells = saturation.measured(totals)
    return saturation.outcomes(cells) if len(cells) else []


def _believe(tables: Tables, choice: Choice, model: str) -> tuple[str, ...]:
    """Samples, saturation and the check by masking, and what was not measured."""
    said, gaps = [], []
    totals = _totals(tables, choice, model)
    numbers = sorted({int(totals["n_samples"].min()), int(totals["n_samples"].max())})
    ms = totals["common_m"].dropna()
    at_m = f", MUI at {int(ms.iloc[0])} of them" if len(ms) else ""
    said.append(f"{' to '.join(map(str, numbers))} samples a task{at_m}")
    if outcomes := _saturated(totals):
        said.append(
            tally(
                f"MUI has saturated on {outcomes.count(1)} of {count(len(outcomes), 'task')}",
                (outcomes.count(-1), f"not on {outcomes.count(-1)}"),
                (outcomes.count(0), f"undecided on {outcomes.count(0)}"),
            )
        )
    else:
        gaps.append("saturation")
    difference = masking.mean_difference(tables, choice, model)
    if difference is None:
        gaps.append("masking")
    else:
        words = {1: "more", -1: "less", 0: "undecided whether more or less"}[sign(difference)]
        said.append(f"masking key neurons against random ones: {points(difference)} of accuracy lost, {words}")
    diversity = tables["diversity_effect"]
    if not ((diversity["model"] == model) & diversity["resolution"].notna()).any():
        gaps.append("diversity of data")
    return (*said, f"not measured: {listed(gaps)}") if gaps else tuple(said)
