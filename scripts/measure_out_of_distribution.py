"""Whether MUI foretells how well longer, larger and re-worded problems are solved."""

from collections.abc import Callable
from pathlib import Path

from _job import run
from _measured import measured


def main(*, snapshots: list[Path], histories: list[Path], measurements: Path, given: dict, progress: Callable) -> dict:
    """As `_measured.measured`."""
    from moemui.experiments import out_of_distribution
    from moemui.experiments.measure.out_of_distribution import measure

    return measured(out_of_distribution, measure, snapshots, histories, measurements, given, progress)


if __name__ == "__main__":
    run(main)
