"""How distinct routed experts are with and without shared ones, at equal performance."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import shared_inhibition
    from moemui.experiments.measure.shared_inhibition import measure

    return measured(shared_inhibition, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
