"""What the width of the shared experts changes, at constant capacity and constant active neurons."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import shared_load
    from moemui.experiments.measure.shared_load import measure

    return measured(shared_load, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
