"""Correlate MUI and key-expert proportions between every pair of settings."""

from pathlib import Path

from _job import run
from moemui import tables
from moemui.sensitivity import rows


def main(*, utilization: list[Path], key_experts: list[Path], sensitivity: Path, seed: int) -> dict:
    """sensitivity: the table to write, from the tables of all models."""
    found = rows(
        utilization=tables.read(utilization, "utilization"),
        key_experts=tables.read(key_experts, "key_experts"),
        seed=seed,
    )
    tables.write(found, sensitivity, "sensitivity")
    return {"pairs": len(found)}


if __name__ == "__main__":
    run(main)
