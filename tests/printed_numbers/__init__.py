"""Every number that the report's prose may hold, counted from the tables by queries of its own: topic → function."""

from __future__ import annotations

from printed_numbers import checked, trained

TOPICS = {
    "Performance and MUI": trained.utilization,
    "Differences of MUI": trained.comparisons,
    "Phases of training": trained.phases,
    "Saturation": trained.saturation,
    "Key experts": trained.key_experts,
    "Structure of experts": trained.structure,
    "Shared experts": checked.enrichment,
    "Masking": checked.masking,
    "Choice of setting": checked.sensitivity,
    "Choice of threshold": checked.threshold,
    "Diversity of data": checked.diversity,
    "Laws": checked.laws,
    "Flags": checked.flags,
    "The paper's own figures": checked.published,
}
