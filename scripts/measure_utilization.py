"""MUI, saturation and performance of every checkpoint and task of a model."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from _job import run
from moemui.key_neurons import files
from moemui.key_neurons.settings import MAIN, Setting
from moemui.mui.performance import row as performance_row
from moemui.mui.utilization import common_samples, rows, saturation_rows
from moemui.tables import table as tables
from moemui.tables.utilization import PERFORMANCE, SATURATION, UTILIZATION


def main(
    *,
    key_neurons: list[Path],
    checkpoints: list[Path],
    utilization: Path,
    saturation: Path,
    performance: Path,
    settings: list,
    order: list[str],
) -> dict:
    """utilization, saturation, performance: the tables to write. settings: the parts of each, as `Setting` takes them.
    order: checkpoint names in training order.
    """
    tokens = {name: json.loads(path.read_text())["tokens"] for name, path in zip(order, checkpoints, strict=True)}
    opened = [files.read(path) for path in key_neurons]
    common = {
        "all": common_samples(file.samples.n for file in opened),
        "correct": common_samples(int((file.samples.correct == 1).sum()) for file in opened),
    }
    chosen = [Setting(*setting) for setting in settings]
    measured, curves, answered = [], [], []
    for file in opened:
        place: dict[str, Any] = {"tokens": tokens[file.checkpoint], "order": order.index(file.checkpoint)}
        measured.append(rows(key_neurons=file, common_m=common, settings=chosen, **place))
        curves.append(saturation_rows(key_neurons=file, settings=chosen, **place))
        if file.variant == MAIN:  # variants score the same answers
            cell: dict[str, Any] = {
                "model": file.model,
                "checkpoint": file.checkpoint,
                "task": file.task,
                "samples": file.samples,
            }
            answered.append(performance_row(**cell, **place))
    found = pd.concat(measured, ignore_index=True)
    tables.write(found, utilization, UTILIZATION)
    tables.write(pd.concat(curves, ignore_index=True), saturation, SATURATION)
    tables.write(PERFORMANCE.frame(answered), performance, PERFORMANCE)
    return {"cells": len(opened), "common_m": common["all"], **_by_layer(found, chosen[0])}


def _by_layer(found: pd.DataFrame, setting: Setting) -> dict[str, Any]:
    """MUI under one setting, of every checkpoint and task and in each of its layers."""
    own = found[(found[list(setting._fields)] == list(setting)).all(axis=1) & (found["samples"] == "all")]
    metrics: dict[str, Any] = {"mui_setting": setting.label}
    for (checkpoint, task), cell in own.groupby(["checkpoint", "task"], sort=False):
        layers = cell[cell["scope"] == "layer"].sort_values("layer")
        metrics[f"mui.{checkpoint}.{task}"] = float(cell.loc[cell["scope"] == "total", "mui"].iloc[0])
        metrics[f"mui_by_layer.{checkpoint}.{task}"] = layers["mui"].tolist()
    return metrics


if __name__ == "__main__":
    run(main)
