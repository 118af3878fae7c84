"""Phases of training: what performance and MUI do from each checkpoint to the next."""

from pathlib import Path

import pandas as pd

from _job import run
from moemui import key_neurons as files
from moemui import tables
from moemui.dynamics import rows


def main(*, utilization: list[Path], key_neurons: list[Path], phases: Path, settings: list, seed: int) -> dict:
    """phases: the table to write, for `settings` (formulation, selection, threshold)."""
    measured = tables.read(utilization, "utilization")
    wanted = pd.MultiIndex.from_tuples([tuple(setting) for setting in settings])
    measured = measured[pd.MultiIndex.from_frame(measured[list(tables.SETTING_KEY)]).isin(wanted)]
    opened = [files.read(path) for path in key_neurons]
    answers = {(file.model, file.checkpoint, file.task): file.samples for file in opened}
    found = rows(utilization=measured, answers=answers, seed=seed)
    tables.write(found, phases, "phases")
    return {f"phase.{name}": count for name, count in found["phase"].value_counts().items() if name}


if __name__ == "__main__":
    run(main)
