"""Every table of a study by its name, for what takes them all: gathering, the report, tests."""

from __future__ import annotations

from moemui.tables import (
    comparisons,
    diversity,
    dynamics,
    enrichment,
    experts,
    laws,
    masking,
    published,
    sensitivity,
    threshold_selection,
    training,
    utilization,
)
from moemui.tables.table import Table

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        training.TRAINING,
        utilization.PERFORMANCE,
        utilization.UTILIZATION,
        utilization.SATURATION,
        comparisons.COMPARISONS,
        experts.EXPERT_FREQUENCY,
        experts.KEY_EXPERTS,
        experts.EXPERT_OVERLAP,
        experts.EXPERTS_SHARED,
        experts.SPECIALIZATION,
        experts.SPECIALIZATION_SUMMARY,
        experts.COACTIVATION,
        experts.COACTIVATION_SUMMARY,
        enrichment.ENRICHMENT,
        enrichment.EXPOSURE,
        enrichment.TOP_COMPOSITION,
        sensitivity.SENSITIVITY,
        sensitivity.EXPERT_THRESHOLD_SENSITIVITY,
        masking.MASKING,
        masking.MASKING_EFFECT,
        threshold_selection.THRESHOLD_SELECTION,
        dynamics.PHASES,
        dynamics.PHASE_DIVERGENCE,
        dynamics.CHANGE_POINTS,
        diversity.DIVERSITY,
        diversity.DIVERSITY_EFFECT,
        laws.UTILITY_LAW,
        laws.UTILITY_CURVE,
        laws.DECAY,
        laws.DECAY_CURVE,
        laws.DIAGNOSTICS,
        published.PUBLISHED,
        published.PUBLISHED_AGREEMENT,
    )
}


def named(name: str) -> Table:
    """The table of a name. Raises ValueError, naming the tables, for a name that none has."""
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; tables: {', '.join(TABLES)}")
    return TABLES[name]
