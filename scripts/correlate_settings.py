"""Correlate MUI and key-expert proportions between every pair of settings."""

from pathlib import Path

from _job import run
from moemui.analyses.sensitivity import rows
from moemui.tables import table as tables
from moemui.tables.experts import KEY_EXPERTS
from moemui.tables.sensitivity import SENSITIVITY
from moemui.tables.utilization import UTILIZATION


def main(*, utilization: list[Path], key_experts: list[Path], sensitivity: Path, seed: int) -> dict:
    """sensitivity: the table to write, from the tables of all models."""
    found = rows(
        utilization=tables.read(utilization, UTILIZATION),
        key_experts=tables.read(key_experts, KEY_EXPERTS),
        seed=seed,
    )
    tables.write(found, sensitivity, SENSITIVITY)
    return {"pairs": len(found)}


if __name__ == "__main__":
    run(main)
