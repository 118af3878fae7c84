"""Correlate MUI and key-expert proportions between every pair of settings, and the latter between η_expert."""

from pathlib import Path

from _job import run
from moemui.checks.sensitivity import expert_threshold_rows, rows
from moemui.tables import table as tables
from moemui.tables.experts import KEY_EXPERTS
from moemui.tables.sensitivity import EXPERT_THRESHOLD_SENSITIVITY, SENSITIVITY
from moemui.tables.utilization import UTILIZATION


def main(
    *,
    utilization: list[Path],
    key_experts: list[Path],
    sensitivity: Path,
    expert_threshold_sensitivity: Path,
    expert_threshold: float,
    seed: int,
) -> dict:
    """sensitivity, expert_threshold_sensitivity: the tables to write, from the tables of all models.

    expert_threshold: η_expert of the proportions that settings are compared by.
    """
    proportions = tables.read(key_experts, KEY_EXPERTS)
    pairs = rows(
        utilization=tables.read(utilization, UTILIZATION),
        key_experts=proportions,
        expert_threshold=expert_threshold,
        seed=seed,
    )
    tables.write(pairs, sensitivity, SENSITIVITY)
    thresholds = expert_threshold_rows(key_experts=proportions, seed=seed)
    tables.write(thresholds, expert_threshold_sensitivity, EXPERT_THRESHOLD_SENSITIVITY)
    return {"pairs": len(pairs), "expert_threshold_pairs": len(thresholds)}


if __name__ == "__main__":
    run(main)
