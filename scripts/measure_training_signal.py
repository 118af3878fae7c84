"""Train with a mixture that MUI steers, against others at the same number of tokens."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import training_signal
    from moemui.experiments.measure.training_signal import measure

    return measured(training_signal, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
