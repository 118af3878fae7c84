"""Frequency, MUI and key experts of every checkpoint and task of a model."""

import json
from pathlib import Path

import pandas as pd

from _job import run
from moemui.experts.key_experts import rows
from moemui.key_neurons import files
from moemui.key_neurons.settings import Setting
from moemui.mui.utilization import common_samples
from moemui.tables import table as tables
from moemui.tables.experts import EXPERT_FREQUENCY, KEY_EXPERTS


def main(
    *,
    key_neurons: list[Path],
    checkpoints: list[Path],
    expert_frequency: Path,
    key_experts: Path,
    settings: list,
    main_settings: list,
    order: list[str],
    expert_threshold: float,
    expert_thresholds: list[float],
    seed: int,
) -> dict:
    """expert_frequency, key_experts: the tables to write, for `settings` (formulation, selection, threshold, rule,
    variant); those in `main_settings` at all expert_thresholds. order: checkpoint names in training order.
    """
    tokens = {name: json.loads(path.read_text())["tokens"] for name, path in zip(order, checkpoints, strict=True)}
    opened = [files.read(path) for path in key_neurons]
    common_m = common_samples(file.samples.n for file in opened)
    parts = [
        rows(
            key_neurons=file,
            tokens=tokens[file.checkpoint],
            order=order.index(file.checkpoint),
            common_m=common_m,
            expert_threshold=expert_threshold,
            expert_thresholds=expert_thresholds,
            main_settings=[Setting(*setting) for setting in main_settings],
            seed=seed,
            settings=[Setting(*setting) for setting in settings],
        )
        for file in opened
    ]
    tables.write(pd.concat([part[0] for part in parts], ignore_index=True), expert_frequency, EXPERT_FREQUENCY)
    tables.write(pd.concat([part[1] for part in parts], ignore_index=True), key_experts, KEY_EXPERTS)
    return {"cells": len(parts), "common_m": common_m}


if __name__ == "__main__":
    run(main)
