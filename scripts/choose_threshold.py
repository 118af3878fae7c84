"""Choose the threshold at which masking tells key from random neurons best while ranks of MUI stay stable."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import ALL_MODELS, rows
from moemui.tables import table as tables
from moemui.tables.masking import MASKING_EFFECT
from moemui.tables.sensitivity import SENSITIVITY
from moemui.tables.threshold_selection import THRESHOLD_SELECTION


def main(*, masking_effect: Path, sensitivity: Path, threshold_selection: Path) -> dict:
    """threshold_selection: the table to write, from those of the whole study."""
    found = rows(
        masking_effect=tables.read(masking_effect, MASKING_EFFECT),
        sensitivity=tables.read(sensitivity, SENSITIVITY),
    )
    tables.write(found, threshold_selection, THRESHOLD_SELECTION)
    chosen = found[found["chosen"] & (found["model"] == ALL_MODELS)]
    return {f"threshold.{row.control}": row.threshold for row in chosen.itertuples()}


if __name__ == "__main__":
    run(main)
