"""Every table of a study by its name, for what takes them all: gathering, the report, tests."""

from __future__ import annotations

from moemui.tables import dynamics, enrichment, experts, masking, sensitivity, training, utilization
from moemui.tables.table import Table

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        training.TRAINING,
        utilization.PERFORMANCE,
        utilization.UTILIZATION,
        utilization.SATURATION,
        experts.EXPERT_FREQUENCY,
        experts.KEY_EXPERTS,
        enrichment.ENRICHMENT,
        sensitivity.SENSITIVITY,
        masking.MASKING,
        masking.MASKING_EFFECT,
        dynamics.PHASES,
    )
}


def named(name: str) -> Table:
    """The table of a name. Raises ValueError, naming the tables, for a name that none has."""
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; tables: {', '.join(TABLES)}")
    return TABLES[name]
