"""Shared against routed experts: Fisher's test, the regression on the tokens they saw, and the ten most frequent."""

from pathlib import Path

from _job import run
from moemui.experts import enrichment as fisher_tests
from moemui.experts import exposure as regressions
from moemui.experts import top_experts
from moemui.tables import table as tables
from moemui.tables.enrichment import ENRICHMENT, EXPOSURE, TOP_COMPOSITION
from moemui.tables.experts import EXPERT_FREQUENCY


def main(
    *, frequencies: list[Path], enrichment: Path, exposure: Path, top_composition: Path, expert_threshold: float
) -> dict:
    """enrichment, exposure, top_composition: the tables to write, from the tables expert_frequency of all models."""
    experts = tables.read(frequencies, EXPERT_FREQUENCY)
    tests = fisher_tests.rows(frequencies=experts, expert_threshold=expert_threshold)
    tables.write(tests, enrichment, ENRICHMENT)
    adjusted = regressions.rows(frequencies=experts, expert_threshold=expert_threshold)
    tables.write(adjusted, exposure, EXPOSURE)
    top = top_experts.rows(frequencies=experts)
    tables.write(top, top_composition, TOP_COMPOSITION)
    return {"tests": len(tests), "regressions": int(adjusted["log_odds_shared"].notna().sum())}


if __name__ == "__main__":
    run(main)
