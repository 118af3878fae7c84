"""Fisher's test of shared experts among the key experts, beside the same test before training."""

from pathlib import Path

from _job import run
from moemui.analyses.enrichment import rows
from moemui.tables import table as tables
from moemui.tables.enrichment import ENRICHMENT
from moemui.tables.experts import EXPERT_FREQUENCY


def main(*, frequencies: list[Path], enrichment: Path, expert_threshold: float) -> dict:
    """enrichment: the table to write, from the tables expert_frequency of all models."""
    found = rows(frequencies=tables.read(frequencies, EXPERT_FREQUENCY), expert_threshold=expert_threshold)
    tables.write(found, enrichment, ENRICHMENT)
    return {"tests": len(found)}


if __name__ == "__main__":
    run(main)
