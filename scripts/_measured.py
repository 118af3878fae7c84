"""One seed of an experiment, whichever it is: from trained models to its table of measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from _fingerprint import fingerprint


def measured(
    experiment: Any,
    measure: Callable[..., Any],
    snapshots: Sequence[Path],
    histories: Sequence[Path],
    measurements: Path,
    given: Mapping[str, Any],
    progress: Callable,
) -> dict[str, Any]:
    """Measure and write the table; the seed's effects are the metrics, so that MLflow shows them run by run.

    experiment: its module; measure: of its twin in moemui.experiments.measure. snapshots, histories: what training left
    of each cohort, in their order. measurements: the table to write. given: seed, settings, measure (how neurons are
    read, and samples), cohorts (name → training, tasks), and plan, the file in which the rules stand. Of the rules in
    force now the record keeps a fingerprint: the judge tells by it whether they were written before.
    """
    from moemui.experiments.measure.probe import Reading
    from moemui.experiments.measure.setup import Cohort, Setup
    from moemui.tables import table as tables
    from moemui.tables.experiments import MEASUREMENTS

    name = experiment.__name__.rsplit(".", 1)[-1]
    rules = yaml.safe_load(Path(given["plan"]).read_text())["experiments"][name]["hypotheses"]
    reading = {key: value for key, value in given["measure"].items() if key != "samples"}
    setup = Setup(
        cohorts={
            cohort: Cohort.read(cohort, folder, history, about, given["seed"])
            for (cohort, about), folder, history in zip(given["cohorts"].items(), snapshots, histories, strict=True)
        },
        seed=given["seed"],
        samples=given["measure"]["samples"],
        reading=Reading(**reading),
        progress=progress,
    )
    settings = experiment.Settings(**given["settings"])
    rows = measure(setup, settings)
    tables.write(rows, measurements, MEASUREMENTS)
    effects = {name: value for name, (value, _) in experiment.effects(rows, settings).items()}
    return {"rules": fingerprint(rules), "rows": len(rows), "effects": effects}
