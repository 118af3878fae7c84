"""All figures of a study, one module each, in the order of the report. See `figure.py` for what a figure is."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from moemui.report.figures import (
    coactivation,
    comparisons,
    diagnostics,
    diversity,
    enrichment,
    expert_tasks,
    key_experts,
    layers,
    masking,
    mui_performance,
    published,
    saturation,
    settings,
    top_experts,
    trajectories,
    utility_law,
    utilization_decay,
)
from moemui.report.figures.figure import Data, Figure
from moemui.report.views import Choice, NothingToShow

FIGURES: dict[str, Figure] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        mui_performance,
        trajectories,
        comparisons,
        saturation,
        layers,
        key_experts,
        top_experts,
        expert_tasks,
        coactivation,
        enrichment,
        masking,
        settings,
        diversity,
        utility_law,
        utilization_decay,
        published,
        diagnostics,
    )
}


def collect(tables: Mapping[str, pd.DataFrame], choice: Choice) -> tuple[dict[str, Data], dict[str, str]]:
    """What each figure shows, by name, and for those without rows the sentence that says why not."""
    shown, left_out = {}, {}
    for name, figure in FIGURES.items():
        try:
            shown[name] = figure.data(tables, choice)
        except NothingToShow as reason:
            left_out[name] = str(reason)
    return shown, left_out
