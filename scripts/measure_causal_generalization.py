"""Raise a trained model's utilization without changing what it computes; see how it generalizes."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import causal_generalization
    from moemui.experiments.measure.causal_generalization import measure

    return measured(causal_generalization, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
