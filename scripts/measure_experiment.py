"""One seed of an experiment, whichever it is: from trained models to its table of measurements."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import yaml

from _fingerprint import fingerprint
from _job import run


def main(
    *,
    experiment: str,
    snapshots: list[Path],
    histories: list[Path],
    measurements: Path,
    given: dict,
    progress: Callable,
) -> dict:
    """Measure and write the table; what was measured last is in the metrics, so that MLflow shows it run by run.

    snapshots, histories: what training left of each cohort, in their order. measurements: the table to write. given:
    seed, settings, measure (how neurons are read, and samples), cohorts (name → training, tasks), and plan, the file in
    which the rules stand. Of the rules in force now the record keeps a fingerprint: the judge tells by it whether they
    were written before.

    The experiment's own modules are imported by its name, so that its code alone decides whether it is measured again:
    of its folder these two, so that another effect or picture measures nothing.
    """
    from moemui.experiments.measurements import at_last
    from moemui.experiments.probe import Reading
    from moemui.experiments.setup import Cohort, Setup
    from moemui.tables import table as tables
    from moemui.tables.experiments import MEASUREMENTS

    declared = import_module(f"moemui.experiments.{experiment}")
    measure = import_module(f"moemui.experiments.{experiment}.measure").measure
    rules = yaml.safe_load(Path(given["plan"]).read_text())["experiments"][experiment]["hypotheses"]
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
    rows = measure(setup, declared.Settings(**given["settings"]))
    tables.write(rows, measurements, MEASUREMENTS)
    return {"rules": fingerprint(rules), "rows": len(rows), "last": at_last(rows)}


if __name__ == "__main__":
    run(main)
