"""What a study found, in sentences made from its tables: every number with its interval and its caveat.

No sentence goes further than its interval: one that contains 0 is called undecided, one that was not measured is said
not to have been. The paper's expectations are those of SPEC section 6 and 7 (arXiv 2509.23933).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from moemui.report.findings import (
    comparisons,
    diversity,
    enrichment,
    flags,
    key_experts,
    laws,
    masking,
    phases,
    published,
    saturation,
    sensitivity,
    structure,
    threshold,
    utilization,
)
from moemui.report.findings.finding import Finding, Tables
from moemui.report.views import Choice, NothingToShow

TOPICS: dict[str, Callable[[Tables, Choice], Finding]] = {
    "Performance and MUI": utilization.utilization,
    "Differences of MUI": comparisons.comparisons,
    "Phases of training": phases.phases,
    "Saturation": saturation.saturation,
    "Key experts": key_experts.key_experts,
    "Structure of experts": structure.structure,
    "Shared experts": enrichment.enrichment,
    "Masking": masking.masking,
    "Choice of setting": sensitivity.sensitivity,
    "Choice of threshold": threshold.threshold,
    "Diversity of data": diversity.diversity,
    "Laws": laws.laws,
    "Flags": flags.flags,
    "The paper's own figures": published.published,
}

SHOWN_IN: dict[str, tuple[str, ...]] = {
    "Performance and MUI": ("mui_performance", "trajectories", "layers"),
    "Differences of MUI": ("comparisons",),
    "Phases of training": ("trajectories",),
    "Saturation": ("saturation",),
    "Key experts": ("key_experts",),
    "Structure of experts": ("expert_tasks", "coactivation"),
    "Shared experts": ("top_experts", "enrichment"),
    "Masking": ("masking",),
    "Choice of setting": ("settings",),
    "Choice of threshold": ("masking",),
    "Diversity of data": ("diversity",),
    "Laws": ("utility_law", "utilization_decay"),
    "Flags": ("diagnostics",),
    "The paper's own figures": ("published",),
}


def findings(tables: Tables, choice: Choice) -> list[Finding]:
    """All findings in the order of the report; a topic without rows says why in place of a result."""
    found = []
    for topic, finding in TOPICS.items():
        try:
            result = finding(tables, choice)
        except NothingToShow as reason:
            result = Finding(topic, (str(reason),), "", "not measured")
        found.append(dataclasses.replace(result, figures=SHOWN_IN[topic]))
    return found
