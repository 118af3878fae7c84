"""The four diagnostics of SPEC section 8: flags on each model's last checkpoint, with the figures that raised them.

A flag is raised only where the whole 95 % interval lies beyond its limit, and not raised only where none of it does; an
interval that contains the limit, ends included, leaves it undecided. Figures are means over tasks (MOVER intervals).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moemui.key_neurons.settings import Setting
from moemui.laws.laws import Mean, at, cells, last, mean_over_tasks, means
from moemui.mui.dynamics import MEAN
from moemui.tables.laws import DIAGNOSTICS

HIGH_MUI = 0.30  # SPEC section 8
FEW_KEY_EXPERTS = 0.05
CHEAP_MASKING = 0.02
# The paper gives no number for a high shared-expert MUI. Half: a shared expert sees every token, so its MUI is above
# the total's in almost every model, and the total's limit would say nothing.
HIGH_SHARED_MUI = 0.50

RAISED, NOT_RAISED, UNDECIDED, NOT_MEASURED = "raised", "not raised", "undecided", "not measured"
NONE = Mean(np.nan, np.nan, np.nan)


def beyond(*, figure: Mean, limit: float, above: bool) -> str:
    """Outcome of a condition, figure > limit (above) or figure < limit: raised, not raised, undecided, not measured.

    Undecided also where there is a figure without an interval.
    """
    if np.isnan(figure.value):
        return NOT_MEASURED
    if figure.low > limit:
        return RAISED if above else NOT_RAISED
    if figure.high < limit:
        return NOT_RAISED if above else RAISED
    return UNDECIDED


def both(*, first: str, second: str) -> str:
    """Outcome of two conditions that must both hold; one that fails settles it, even where the other is not known."""
    for outcome in (NOT_RAISED, NOT_MEASURED, UNDECIDED):
        if outcome in (first, second):
            return outcome
    return RAISED


class Flag(NamedTuple):
    """A flag's outcome with the figure, and the second one where it has two conditions (NaN otherwise), and a note."""

    name: str
    outcome: str
    value: Mean
    limit: float
    second: Mean
    second_limit: float
    evidence: str
    note: str


def rows(
    *,
    utilization: pd.DataFrame,
    key_experts: pd.DataFrame,
    masking_effect: pd.DataFrame,
    phases: pd.DataFrame,
    curve_setting: Setting,
    expert_setting: Setting,
    masking_setting: Setting,
    expert_threshold: float,
) -> pd.DataFrame:
    """The table `diagnostics`: four rows for each model that has rows in `utilization`.

    MUI and its decline are taken at curve_setting (common m, all samples), key experts at expert_setting and
    expert_threshold, masking at masking_setting. Tables may be empty; what is missing is `not measured`, with a note.
    """
    places = last(table=utilization).drop_duplicates(["model", "checkpoint"])
    records = []
    for model, checkpoint in places[["model", "checkpoint"]].itertuples(index=False, name=None):

        def here(
            table: pd.DataFrame, setting: Setting, model: str = model, checkpoint: str = checkpoint
        ) -> pd.DataFrame:
            rows = at(table=table, setting=setting)
            return rows[(rows["model"] == model) & (rows["checkpoint"] == checkpoint)]

        own = utilization[utilization["model"] == model]
        total = _mui(own[own["checkpoint"] == checkpoint], curve_setting, "total")
        shared = _mui(own[own["checkpoint"] == checkpoint], curve_setting, "shared")
        steps = at(table=phases[phases["model"] == model], setting=curve_setting)
        untrained = set(own.loc[own["tokens"] == 0, "checkpoint"])
        trained = set(own["checkpoint"]) - untrained
        experts = here(key_experts, expert_setting)
        experts = experts[np.isclose(experts["expert_threshold"], expert_threshold)]
        # the loss of key neurons stands in the rows of every control
        masked = here(masking_effect[masking_effect["control"] == "expert"], masking_setting)
        for flag in (
            _mui_without_decline(total, _last_step(steps, checkpoint, untrained), alone=len(trained) < 2),
            _few_key_experts(_mean(experts, "proportion")),
            _shared_and_total(shared, total),
            _cheap_masking(_mean(masked, "loss_key"), _mean(masked, "accuracy_none")),
        ):
            records.append({"model": model, "checkpoint": checkpoint} | dict(_columns(flag)))
    return DIAGNOSTICS.frame(records)


def _columns(flag: Flag) -> Iterator[tuple[str, Any]]:
    yield "flag", flag.name
    yield from ((name, getattr(flag, name)) for name in ("outcome", "limit", "second_limit", "evidence"))
    for name, figure in (("value", flag.value), ("second", flag.second)):
        yield from zip((name, f"{name}_low", f"{name}_high"), figure, strict=True)
    notes = [flag.note, "one condition, so no second figure" if np.isnan(flag.second_limit) else ""]
    yield "note", "; ".join(filter(None, notes))


def _mui(utilization: pd.DataFrame, setting: Setting, scope: str) -> Mean:
    """Mean over tasks of MUI at the common m, accuracy or not."""
    ungraded = pd.DataFrame(columns=["model", "checkpoint", "task", "accuracy", "accuracy_low", "accuracy_high"])
    measured = cells(utilization=utilization, performance=ungraded, setting=setting, scope=scope)
    found = means(cells=measured.dropna(subset=["mui"]), of=("mui",))
    return Mean(*found[["mui", "mui_low", "mui_high"]].to_numpy(dtype=float)[0]) if len(found) else NONE


def _mean(table: pd.DataFrame, column: str) -> Mean:
    known = table.dropna(subset=[column])
    if known.empty:
        return NONE
    value, low, high = (known[name].to_numpy(dtype=float) for name in (column, f"{column}_low", f"{column}_high"))
    return mean_over_tasks(values=value, lows=low, highs=high)


def _last_step(steps: pd.DataFrame, checkpoint: str, untrained: set[str]) -> Mean:
    """Change of mean MUI from the last but one trained checkpoint to the last; NaN where there is none."""
    step = steps[
        (steps["task"] == MEAN) & (steps["to_checkpoint"] == checkpoint) & ~steps["from_checkpoint"].isin(untrained)
    ]
    return Mean(*step[["d_mui", "d_mui_low", "d_mui_high"]].to_numpy(dtype=float)[0]) if len(step) else NONE


def _mui_without_decline(total: Mean, step: Mean, *, alone: bool) -> Flag:
    high = beyond(figure=total, limit=HIGH_MUI, above=True)
    if np.isnan(step.value):
        # an unknown step can have been a decline or not: only a low MUI settles the flag
        outcome = high if high in (NOT_RAISED, NOT_MEASURED) else UNDECIDED
        note = "a decline takes two trained checkpoints" if alone else "no task has a change of MUI with an interval"
        course = "there is no earlier trained checkpoint to compare with" if alone else "its last step was not measured"
    else:
        grown = beyond(figure=step, limit=0.0, above=True)
        outcome = both(first=high, second=grown)
        said = {RAISED: "a rise", NOT_RAISED: "a decline"}.get(grown, "neither a rise nor a decline shown")
        course = f"its last step in training changed it by {_points(step)}, {said}"
        note = "" if np.isfinite(step).all() else "the last step has no interval"
    evidence = f"{outcome.capitalize()}: MUI is {_percent(total)}, limit {_percent(HIGH_MUI)}; {course}."
    return Flag("mui_without_decline", outcome, total, HIGH_MUI, step, 0.0, evidence, _notes(total, "MUI", note))


def _few_key_experts(proportion: Mean) -> Flag:
    outcome = beyond(figure=proportion, limit=FEW_KEY_EXPERTS, above=False)
    evidence = (
        f"{outcome.capitalize()}: {_percent(proportion)} of the experts are key, limit {_percent(FEW_KEY_EXPERTS)}."
    )
    note = _notes(proportion, "share of key experts")
    return Flag("few_key_experts", outcome, proportion, FEW_KEY_EXPERTS, NONE, np.nan, evidence, note)


def _shared_and_total(shared: Mean, total: Mean) -> Flag:
    if np.isnan(shared.value):
        outcome = NOT_MEASURED
    else:
        outcome = both(
            first=beyond(figure=shared, limit=HIGH_SHARED_MUI, above=True),
            second=beyond(figure=total, limit=HIGH_MUI, above=True),
        )
    evidence = (
        f"{outcome.capitalize()}: MUI of the shared experts is {_percent(shared)}, limit {_percent(HIGH_SHARED_MUI)}, "
        f"and total MUI {_percent(total)}, limit {_percent(HIGH_MUI)}."
    )
    note = "the model has no shared experts, or their MUI was not measured" if np.isnan(shared.value) else ""
    return Flag(
        "shared_and_total_mui_high", outcome, shared, HIGH_SHARED_MUI, total, HIGH_MUI, evidence,
        "; ".join(filter(None, [note or _notes(shared, "shared MUI"), _notes(total, "MUI")])),
    )  # fmt: skip


def _cheap_masking(loss: Mean, accuracy: Mean) -> Flag:
    """accuracy: with nothing masked. One that may be no higher than the limit has nothing to lose by any masking."""
    outcome = beyond(figure=loss, limit=CHEAP_MASKING, above=False)
    if outcome == NOT_MEASURED:
        text = "what masking the key neurons costs was not measured"
    else:
        text = f"masking the key neurons costs {_points(loss)} of accuracy, limit {_points(CHEAP_MASKING)}"
        text += f"; with nothing masked it is {_percent(accuracy)}"
    note = _notes(loss, "loss by masking on a graded task")
    if outcome == RAISED and beyond(figure=accuracy, limit=CHEAP_MASKING, above=True) != RAISED:
        outcome = UNDECIDED
        text += (
            ", which leaves nothing to lose" if accuracy.high <= CHEAP_MASKING else ", which may leave nothing to lose"
        )
    evidence = f"{outcome.capitalize()}: {text}."
    notes = "; ".join(filter(None, [note, _notes(accuracy, "accuracy with nothing masked")]))
    return Flag("cheap_masking", outcome, loss, CHEAP_MASKING, accuracy, CHEAP_MASKING, evidence, notes)


def _notes(figure: Mean, what: str, other: str = "") -> str:
    if np.isnan(figure.value):
        mine = f"no {what} was measured"
    else:
        mine = "" if np.isfinite(figure).all() else f"the {what} has no interval"
    return "; ".join(filter(None, [mine, other]))


def _percent(figure: Mean | float, unit: str = " %") -> str:
    """As `report.wording.percent` prints shares: one decimal, two below 1 %."""
    value, low, high = figure if isinstance(figure, Mean) else (figure, np.nan, np.nan)
    if np.isnan(value):
        return "not measured"
    decimals = 1 if abs(100 * value) >= 1 else 2
    printed = [f"{100 * number:.{decimals}f}".replace("-", "−") for number in (value, low, high)]
    interval = "" if not isinstance(figure, Mean) else " (no interval)"
    return f"{printed[0]}{unit}" + (f" [{printed[1]}, {printed[2]}]" if np.isfinite([low, high]).all() else interval)


def _points(figure: Mean | float) -> str:
    return _percent(figure, " points")
