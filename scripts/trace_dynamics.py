"""What performance and MUI do over training: phases, tasks that part from the mean, and where trajectories turn."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.key_neurons import files
from moemui.mui import change_points as turns
from moemui.mui import dynamics
from moemui.tables import table as tables
from moemui.tables.dynamics import CHANGE_POINTS, PHASE_DIVERGENCE, PHASES


def main(
    *,
    key_neurons: list[Path],
    checkpoints: list[Path],
    phases: Path,
    phase_divergence: Path,
    change_points: Path,
    chosen: Path | list[Path],
    settings: list,
    order: dict[str, list[str]],
    seed: int,
) -> dict:
    """phases, phase_divergence, change_points: the tables to write, for `settings` (formulation, selection, threshold,
    rule, variant). order: each model's checkpoint names in training order; `checkpoints` come in the same order.
    """
    names = [(model, name) for model, listed in order.items() for name in listed]
    tokens = {name: json.loads(path.read_text())["tokens"] for name, path in zip(names, checkpoints, strict=True)}

    def cells(model: str) -> Iterator[dynamics.Cell]:
        # <results>/{model}/{checkpoint}/{task}/key_neurons.h5; one model is open at a time
        for file in (files.read(path) for path in key_neurons if path.parents[2].name == model):
            place = order[model].index(file.checkpoint)
            yield dynamics.Cell(file, place, tokens[model, file.checkpoint])

    wanted = shown(settings=settings, chosen=chosen)
    found, turned = [], []
    for model in order:
        opened = list(cells(model))
        found.append(dynamics.rows(cells=opened, settings=wanted))
        turned.append(turns.rows(cells=opened, settings=wanted, seed=seed))
    steps = pd.concat(found, ignore_index=True)
    tables.write(steps, phases, PHASES)
    tables.write(dynamics.divergence(phases=steps), phase_divergence, PHASE_DIVERGENCE)
    tables.write(pd.concat(turned, ignore_index=True), change_points, CHANGE_POINTS)
    return {f"phase.{name}": count for name, count in steps["phase"].value_counts().items() if name}


if __name__ == "__main__":
    run(main)
