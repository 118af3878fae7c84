"""Saturation: whether a task's samples have shown nearly all neurons that would ever be key."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import count, estimate, percent, tally

SATURATED = 0.95  # share of the asymptote that must have been seen


def saturation(tables: Tables, choice: Choice) -> Finding:
    """Whether the samples have shown nearly all neurons that would ever be key.

    The lower end of Chao2's log-normal interval never lies below what was seen, so a task counts as saturated only
    where even the upper end leaves SATURATED of it seen, and as not saturated where the lower end leaves less.
    """
    cells = measured(views.last(views.total_mui(tables["utilization"], choice.curves)))
    if cells.empty:
        raise NothingToShow("No task has the two samples and the key neurons that an asymptote takes.")
    said = {}
    for model, rows in cells.groupby("model", sort=False):
        each = outcomes(rows)
        row, _ = views.extremes(rows.assign(seen=rows["mui"] / rows["chao2"]), "seen")
        number = tally(
            f"MUI has not saturated on {each.count(-1)} of {count(len(rows), 'task')}",
            (each.count(1), f"has on {each.count(1)}"),
            (each.count(0), f"undecided on {each.count(0)}"),
        )
        said[str(model)] = [
            f"{model}: {number}. Farthest from its asymptote is {row['task']}: "
            f"{percent(float(row['mui']))} of the neurons are key in its {int(row['n_samples'])} samples (a count, so "
            f"without an interval), with any number of samples at least {percent(estimate(row, 'chao2'))} would be."
        ]
    caveat = (
        f"Saturated: at least {100 * SATURATED:g} % of the asymptote was seen, over its whole interval. The asymptote "
        "(Chao2) is a lower bound, so a task that looks saturated may not be."
    )
    return Finding("Saturation", tuple(shortened(said, "utilization")), caveat)


def measured(totals: pd.DataFrame) -> pd.DataFrame:
    """The cells that have an asymptote."""
    known = totals.dropna(subset=["mui", "chao2"])
    return known[known["chao2_low"] > 0]


def outcomes(cells: pd.DataFrame) -> list[int]:
    """Of each cell: 1 saturated, −1 not, 0 undecided."""
    seen = cells["mui"]
    done, left = seen >= SATURATED * cells["chao2_high"], seen < SATURATED * cells["chao2_low"]
    return (done.astype(int) - left.astype(int)).tolist()
