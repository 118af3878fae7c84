"""Frequency, MUI and key experts of every checkpoint and task of a model."""

import json
from pathlib import Path

import pandas as pd

from _job import run
from moemui.analyses import key_neurons as files
from moemui.analyses.experts import rows
from moemui.tables import table as tables
from moemui.tables.experts import EXPERT_FREQUENCY, KEY_EXPERTS


def main(
    *,
    key_neurons: list[Path],
    checkpoints: list[Path],
    expert_frequency: Path,
    key_experts: Path,
    settings: list,
    order: list[str],
    expert_threshold: float,
    seed: int,
) -> dict:
    """expert_frequency, key_experts: the tables to write. settings: (formulation, selection, threshold).
    order: checkpoint names in training order.
    """
    tokens = {name: json.loads(path.read_text())["tokens"] for name, path in zip(order, checkpoints, strict=True)}
    parts = []
    for path in key_neurons:
        file = files.read(path)
        parts.append(
            rows(
                key_neurons=file,
                tokens=tokens[file.checkpoint],
                order=order.index(file.checkpoint),
                expert_threshold=expert_threshold,
                seed=seed,
                settings=[files.Setting(*setting) for setting in settings],
            )
        )
    tables.write(pd.concat([part[0] for part in parts], ignore_index=True), expert_frequency, EXPERT_FREQUENCY)
    tables.write(pd.concat([part[1] for part in parts], ignore_index=True), key_experts, KEY_EXPERTS)
    return {"cells": len(parts)}


if __name__ == "__main__":
    run(main)
