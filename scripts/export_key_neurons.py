"""Key neurons of a task for other tools: tidy tables, and a mask of the model."""

from pathlib import Path

from _job import run
from moemui.checks.threshold_selection import shown
from moemui.exports import mask, sets
from moemui.key_neurons import files
from moemui.tables import table as tables
from moemui.tables.exports import KEY_NEURONS, NEURONS


def main(
    *,
    key_neurons: Path,
    chosen: Path | list[Path],
    samples: Path,
    neurons: Path,
    masked: Path,
    settings: list,
    mask_setting: list,
) -> dict:
    """samples, neurons: the tables `key_neurons` and `neurons` to write, at `settings`. masked: the mask to write, at
    mask_setting. chosen: the table of the threshold that masking chooses; an empty list where none is `auto`.
    """
    file = files.read(key_neurons)
    wanted = shown(settings=settings, chosen=chosen)
    rows = tables.write_parts(sets.key_neuron_rows(key_neurons=file, settings=wanted), samples, KEY_NEURONS)
    used = tables.write_parts([sets.neuron_rows(key_neurons=file, settings=wanted)], neurons, NEURONS)
    (own,) = shown(settings=[mask_setting], chosen=chosen)
    return {"rows": rows, "neurons": used, "masked": mask.write(masked, key_neurons=file, setting=own)}


if __name__ == "__main__":
    run(main)
