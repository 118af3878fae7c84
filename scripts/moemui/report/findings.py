"""What a study found, in sentences made from its tables: every number with its interval and its caveat.

No sentence goes further than its interval: one that contains 0 is called undecided, one that was not measured is said
not to have been. The paper's expectations are those of SPEC section 6 and 7 (arXiv 2509.23933).
"""

from __future__ import annotations

from collections.abc import Callable

from moemui.report import (
    findings_checks,
    findings_experts,
    findings_laws,
    findings_phases,
    findings_shared,
    findings_utilization,
)
from moemui.report.finding import Finding, Tables
from moemui.report.views import Choice, NothingToShow

TOPICS: dict[str, Callable[[Tables, Choice], Finding]] = {
    "Performance and MUI": findings_utilization.utilization,
    "Differences of MUI": findings_utilization.comparisons,
    "Phases of training": findings_phases.phases,
    "Saturation": findings_utilization.saturation,
    "Key experts": findings_experts.key_experts,
    "Structure of experts": findings_experts.structure,
    "Shared experts": findings_shared.enrichment,
    "Masking": findings_checks.masking,
    "Choice of setting": findings_checks.sensitivity,
    "Choice of threshold": findings_checks.threshold,
    "Diversity of data": findings_laws.diversity,
    "Laws": findings_laws.laws,
    "Flags": findings_laws.flags,
    "The paper's own figures": findings_laws.published,
}


def findings(tables: Tables, choice: Choice) -> list[Finding]:
    """All findings in the order of the report; a topic without rows says why in place of a result."""
    found = []
    for topic, finding in TOPICS.items():
        try:
            found.append(finding(tables, choice))
        except NothingToShow as reason:
            found.append(Finding(topic, (str(reason),), "", "not measured"))
    return found
