"""From measurements on all seeds to effects with intervals, and to what the rules decide."""

from importlib import import_module
from pathlib import Path

from _fingerprint import fingerprint
from _job import run
from _provenance.records import read_record


def main(
    *,
    parts: list[Path],
    records: list[Path],
    measurements: Path,
    experiment_seeds: Path,
    experiment_effects: Path,
    experiment_decisions: Path,
    experiment: str,
    plan: dict,
) -> dict:
    """parts: the tables of measurements, one a seed; records: of the runs that made them. plan: see `_experiments`.

    The experiment's own modules are imported by its name, so that its code alone decides whether it is judged again.
    """
    from moemui.experiments.judging import Judgeable, judged
    from moemui.tables import experiments
    from moemui.tables import table as tables

    rules = fingerprint(plan["registered"])
    before = sum(read_record(path)["metrics"]["rules"] != rules for path in records)
    rows = tables.read(parts, experiments.MEASUREMENTS)
    declared = import_module(f"moemui.experiments.{experiment}")
    made = import_module(f"moemui.experiments.{experiment}.effects")
    judgeable = Judgeable(declared.Settings, made.EFFECTS, made.effects)
    found = judged(experiment, judgeable, rows, plan, runs_before_rule=before)
    tables.write(rows, measurements, experiments.MEASUREMENTS)
    tables.write(found.seeds, experiment_seeds, experiments.SEED_EFFECTS)
    tables.write(found.effects, experiment_effects, experiments.EFFECTS)
    tables.write(found.decisions, experiment_decisions, experiments.DECISIONS)
    return {
        "effects": {row.effect: row.mean for row in found.effects.itertuples()},
        "seeds": {
            effect: {str(row.seed): row.value for row in rows.itertuples()}
            for effect, rows in found.seeds.groupby("effect", sort=False)
        },
        "decisions": dict(found.decisions.set_index("hypothesis")["decision"]),
    }


if __name__ == "__main__":
    run(main)
