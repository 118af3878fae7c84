"""Fisher's test of shared experts among the key experts, beside the same test before training."""

from pathlib import Path

from _job import run
from moemui import tables
from moemui.enrichment import rows


def main(*, frequencies: list[Path], enrichment: Path, expert_threshold: float) -> dict:
    """enrichment: the table to write, from the tables expert_frequency of all models."""
    found = rows(frequencies=tables.read(frequencies, "expert_frequency"), expert_threshold=expert_threshold)
    tables.write(found, enrichment, "enrichment")
    return {"tests": len(found)}


if __name__ == "__main__":
    run(main)
