"""Phases and change points of single tasks, beside those of their mean."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import task_phases
    from moemui.experiments.measure.task_phases import measure

    return measured(task_phases, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
