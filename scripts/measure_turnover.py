"""How much of a task's key-neuron set survives from one checkpoint to the next."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import turnover
    from moemui.experiments.measure.turnover import measure

    return measured(turnover, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
