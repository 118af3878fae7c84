"""The paper's own figures, beside the study's models of the same name."""

from __future__ import annotations

import pandas as pd

from moemui.report.findings.finding import MOST, Finding, Tables, shortened
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import change, count, decimal, probability


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
            f"published is {change(float(row['mean_difference']))} on average (no interval)"
        )
        if pd.notna(row["spearman"]):
            text += f", rank correlation {decimal(float(row['spearman']))} (p = {probability(row['spearman_p'])})"
        said[what] = [*said.get(what, []), f"{text}."]
    caveat = "The paper's values have no intervals. Samples, tasks and checkpoints may differ from its own."
    if len(rows) > MOST:
        caveat += " The table published holds single values."
    return Finding("The paper's own figures", tuple(shortened(said, "published_agreement")), caveat)
