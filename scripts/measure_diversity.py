"""Three levels of a model's first and last checkpoint against the number of domains that samples come from."""

import json
from pathlib import Path

import pandas as pd

from _job import run
from moemui.answers.responses import read_responses
from moemui.checks.threshold_selection import shown
from moemui.diversity.diversity import rows
from moemui.diversity.lexical import text_of
from moemui.key_neurons import files
from moemui.tables import table as tables
from moemui.tables.diversity import DIVERSITY, DIVERSITY_EFFECT


def main(
    *,
    key_neurons: list[Path],
    responses: list[Path],
    checkpoints: list[Path],
    diversity: Path,
    diversity_effect: Path,
    chosen: Path | list[Path],
    curve_setting: list,
    expert_setting: list,
    expert_threshold: float,
    samples: int | None,
    draws: int,
    order: list[str],
    seed: int,
) -> dict:
    """diversity, diversity_effect: the tables to write. key_neurons, responses: of the same tasks of the checkpoints.
    samples: of every drawn set, None for as many as a test leaves room for. order: checkpoint names in training order.
    """
    opened = [files.read(path) for path in key_neurons]
    texts: dict[str, dict[str, dict[str, str]]] = {}
    for file, path in zip(opened, responses, strict=True):
        by_id = {record["id"]: text_of(record=record) for record in read_responses(path)}
        texts.setdefault(file.checkpoint, {})[file.task] = by_id
    found = []
    # checkpoint files are in the order in which key neuron files first name their checkpoints
    for (name, own), path in zip(texts.items(), checkpoints, strict=True):
        found.append(
            rows(
                key_neurons=[file for file in opened if file.checkpoint == name],
                texts=own,
                tokens=json.loads(path.read_text())["tokens"],
                order=order.index(name),
                curve_setting=shown(settings=[curve_setting], chosen=chosen)[0],
                expert_setting=shown(settings=[expert_setting], chosen=chosen)[0],
                expert_threshold=expert_threshold,
                samples=samples,
                draws=draws,
                seed=seed,
            )
        )
        print(f"{name}: {len(found[-1][0])} rows of draws", flush=True)
    described, effects = (pd.concat(part, ignore_index=True) for part in zip(*found, strict=True))
    tables.write(described, diversity, DIVERSITY)
    tables.write(effects, diversity_effect, DIVERSITY_EFFECT)
    return {f"verdict.{name}": int(count) for name, count in effects["verdict"].value_counts().items() if name}


if __name__ == "__main__":
    run(main)
