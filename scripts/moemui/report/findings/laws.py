"""Laws: accuracy against MUI over models, and how neurons' incidence decays."""

from __future__ import annotations

import pandas as pd

from moemui.report import views
from moemui.report.findings.finding import SIGNIFICANT, Finding, Tables, shortened
from moemui.report.views import MEAN, Choice, NothingToShow
from moemui.report.wording import count, decimal, estimate, listed, percent, probability


def laws(tables: Tables, choice: Choice) -> Finding:
    """Performance against MUI over models and checkpoints, beside the paper's printed figures; decay over neurons."""
    rows = tables["utility_law"]
    rows = rows[rows["task"] == MEAN]
    straight = rows[rows["form"] == "linear"]
    unfitted = straight[straight["slope"].isna()]
    said: dict[str, list[str]] = {"": []}  # across models, then by model
    for _, row in straight[straight["slope"].notna()].iterrows():
        same = (rows["scope"] == row["scope"]) & (rows["model"] == row["model"]) & (rows["form"] == "logarithmic")
        group = str(row["model"]) if row["scope"] == "checkpoints" else ""
        said.setdefault(group, []).append(_line(row, rows[same]))
    if len(unfitted):
        reasons: dict[str, list[str]] = {}
        for _, row in unfitted.iterrows():
            reasons.setdefault(row["note"].split(";")[0], []).append(_points_of(row))
        listing = "; ".join(f"over {listed(what)}: {reason}" for reason, what in reasons.items())
        said[""].append(f"No law is fitted {listing}.")
    for model, text in _decays(tables["decay"], choice).items():
        said.setdefault(model, []).append(text)
    if not any(said.values()):
        raise NothingToShow("The tables utility_law and decay have no fit to show.")
    caveat = (
        "A fit takes MUI and accuracy as exact, and checkpoints of one model are no independent draws. A neuron can be "
        "key in at most all samples, so a decay is cut there, and neurons are not independent, so the exponent's "
        "interval is too narrow."
    )
    return Finding("Laws", tuple(shortened(said, "utility_law and decay")), caveat)


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
