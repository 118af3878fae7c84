"""Tables of a made-up study as large as the published one: 13 models × 7 tasks × 7 checkpoints, by vectorised draws.

The values are random and agree with each other where a reader sees both: an interval holds its value, counts and
shares of one cell fit, a phase fits its two changes, key experts are those of the expert frequencies. Single experts
stand at the last checkpoint and the two settings that are shown only, which is all that a report reads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pandas as pd

from moemui.report.views import Choice
from moemui.tables.catalog import TABLES
from published_size import checks, experts, utilization
from published_size.shape import CONFIG, CURVES, EXPERTS, FAMILIES, Made

CHOICE = Choice(curves=CURVES, experts=EXPERTS, masking=EXPERTS, families=FAMILIES)
PROVENANCE = {
    "commit": "0123abc",
    "dirty": False,
    "packages": {"numpy": "2.1.0", "torch": "2.8.0"},
    "stage_seconds": {"responses": 86_400.0, "contributions": 43_200.0},
    "conservation_error_max": 1.2e-6,
    "identity_error_max": 3.0e-7,
}


def page_inputs() -> dict[str, Any]:
    """What a report takes beside tables, figures and choice: study, provenance, made, files."""
    path = "results/published/tables/{}.parquet"
    made = {"stage": "gather", "code": "c0de", "commit": "0123abc", "dirty": False}
    return {
        "study": {"name": "published", "description": CONFIG["description"], "settings": {"analysis": {}}},
        "provenance": PROVENANCE,
        "made": {name: made | {"record": f"records/tables/{name}.json", "path": path.format(name)} for name in TABLES},
        "files": {name: [f"tables/{name}.parquet", f"tables/{name}.csv"] for name in TABLES},
    }


@cache
def tables(seed: int = 0) -> dict[str, pd.DataFrame]:
    """All tables by name, checked; the same frames at every call, so copy what you change."""
    made = Made(seed)
    for make in (  # one follows from another
        utilization.performance,
        utilization.utilization,
        experts.expert_frequency,
        experts.key_experts,
        utilization.dynamics,
        utilization.comparisons,
        experts.structure,
        experts.pairs_of_experts,
        experts.enrichment,
        checks.masking,
        checks.sensitivity,
        checks.diversity,
        checks.laws,
        checks.decay,
        checks.summaries,
    ):
        make(made)
    return {name: made.frames.get(name, TABLES[name].frame([])) for name in TABLES}


def of_models(count: int) -> dict[str, pd.DataFrame]:
    """The same tables cut down to the first models, for what need not have all of them; a copy to change."""
    kept = ["", "all models", *list(FAMILIES)[:count]]
    found = {}
    for name, frame in tables().items():
        columns = [column for column in ("model", "model_a", "model_b") if column in frame]
        found[name] = frame[frame[columns].isin(kept).all(axis=1)].copy() if columns else frame.copy()
    return found
