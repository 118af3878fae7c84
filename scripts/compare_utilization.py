"""MUI of tasks, checkpoints and models against each other, at a common number of samples."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.key_neurons import files
from moemui.mui.comparisons import KINDS, rows
from moemui.tables import table as tables
from moemui.tables.comparisons import COMPARISONS


def main(
    *,
    key_neurons: list[Path],
    comparisons: Path,
    chosen: Path | list[Path],
    settings: list,
    order: dict[str, list[str]],
) -> dict:
    """comparisons: the table to write, for `settings`. order: each model's checkpoint names in training order."""
    opened = [files.read(path) for path in key_neurons]
    found = rows(files=opened, order=order, settings=shown(settings=settings, chosen=chosen))
    tables.write(found, comparisons, COMPARISONS)
    for kind in KINDS:
        if not (found["kind"] == kind).any():
            print(f"no comparison of {kind}: nowhere are there two of them to compare")
    verdicts = found["kind"].str.cat(found["verdict"], sep=".")[found["verdict"] != ""]
    return {str(name): int(count) for name, count in verdicts.value_counts(sort=False).items()}


if __name__ == "__main__":
    run(main)
