"""Choice of threshold: which one sets key neurons apart best, and which are ruled out."""

from __future__ import annotations

import numpy as np

from moemui.key_neurons.settings import Setting
from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import Choice, NothingToShow
from moemui.report.wording import decimal, estimate, sentence, sign

ALL_MODELS = "all models"


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
