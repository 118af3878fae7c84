"""Phases of training: what performance and MUI do from each checkpoint to the next."""

from pathlib import Path

import pandas as pd

from _job import run
from moemui.analyses import key_neurons as files
from moemui.analyses.dynamics import rows
from moemui.analyses.settings import Setting
from moemui.tables import table as tables
from moemui.tables.columns import SETTING_KEY
from moemui.tables.dynamics import PHASES
from moemui.tables.utilization import UTILIZATION


def main(*, utilization: list[Path], key_neurons: list[Path], phases: Path, settings: list, seed: int) -> dict:
    """phases: the table to write, for `settings` (formulation, selection, threshold)."""
    measured = tables.read(utilization, UTILIZATION)
    wanted = pd.MultiIndex.from_tuples([Setting(*setting) for setting in settings])
    measured = measured[pd.MultiIndex.from_frame(measured[list(SETTING_KEY)]).isin(wanted)]
    opened = [files.read(path) for path in key_neurons]
    answers = {(file.model, file.checkpoint, file.task): file.samples for file in opened}
    found = rows(utilization=measured, answers=answers, seed=seed)
    tables.write(found, phases, PHASES)
    return {f"phase.{name}": count for name, count in found["phase"].value_counts().items() if name}


if __name__ == "__main__":
    run(main)
