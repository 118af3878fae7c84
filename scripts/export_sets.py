"""Expert sets of a study for other tools, and what every column of its tables means."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.exports.sets import expert_set_rows
from moemui.tables import dictionary
from moemui.tables import table as tables
from moemui.tables.experts import EXPERT_FREQUENCY
from moemui.tables.exports import DATA_DICTIONARY, EXPERT_SETS


def main(
    *,
    frequencies: list[Path],
    chosen: Path | list[Path],
    expert_sets: Path,
    data_dictionary: Path,
    settings: list,
    expert_thresholds: list[float],
) -> dict:
    """frequencies: the tables `expert_frequency` of all models. expert_sets, data_dictionary: the tables to write.

    settings: those that the study shows. chosen: as in `export_key_neurons`.
    """
    found = expert_set_rows(
        frequencies=tables.read(frequencies, EXPERT_FREQUENCY),
        settings=shown(settings=settings, chosen=chosen),
        expert_thresholds=expert_thresholds,
    )
    tables.write(found, expert_sets, EXPERT_SETS)
    tables.write(dictionary.frame(), data_dictionary, DATA_DICTIONARY)
    return {"rows": len(found), "key": int(found["is_key"].sum())}


if __name__ == "__main__":
    run(main)
