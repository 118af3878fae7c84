"""Flags: the diagnostic flags of every model, with the figures that raised them."""

from __future__ import annotations

from moemui.report.findings.finding import Finding, Tables, shortened
from moemui.report.views import Choice, NothingToShow

FLAGS = {
    "mui_without_decline": "MUI above 30 % without decline",
    "few_key_experts": "fewer than 5 % of the experts key",
    "shared_and_total_mui_high": "MUI of the shared experts and of all both high",
    "cheap_masking": "masking key neurons costs less than 2 %",
}


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
