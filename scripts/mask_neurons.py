"""Answer every task again without its key neurons, and without as many random ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from _job import run
from moemui import checkpoints, families, harness, tables
from moemui import key_neurons as files
from moemui.capture import Tap
from moemui.key_neurons import Setting
from moemui.masking import by_layer, matched_random
from moemui.masking_effects import NO_SEED, Condition, rows
from moemui.responses import read_responses, reference_nll


def main(
    *,
    checkpoint: Path,
    responses: list[Path],
    key_neurons: list[Path],
    data: list[Path],
    masking: Path,
    masking_effect: Path,
    tasks: dict,
    batch_size: int,
    loading: dict,
    setting: list,
    seeds: int,
    progress: Callable,
) -> dict:
    """masking, masking_effect: the tables to write. data: <task>.jsonl of the synthetic tasks."""
    made = {path.stem: str(path) for path in data}
    model, tokenizer = checkpoints.load(json.loads(checkpoint.read_text()), **loading)
    sites = families.sites(model)
    outcomes, effects = [], []
    for done, (name, answers, sets) in enumerate(zip(tasks, responses, key_neurons, strict=True)):
        file, records = files.read(sets), read_responses(answers)
        key = file.sets(*setting).union()
        answer = _answering(model, tokenizer, name, {**tasks[name], "data": made.get(name)}, records, batch_size)
        conditions = []
        masks = [("none", NO_SEED, np.empty(0, dtype=np.int64)), ("key", NO_SEED, key)]
        masks += [("random", seed, matched_random(key=key, geometry=file.geometry, seed=seed)) for seed in range(seeds)]
        for kind, seed, neurons in masks:
            masked = [torch.from_numpy(layer) for layer in by_layer(neurons=neurons, geometry=file.geometry)]
            with Tap(model, sites, masked_neurons=masked):
                correct, nll = answer()
            conditions.append(Condition(kind, len(neurons), correct, nll, seed))
        outcome, effect = rows(
            model=file.model,
            checkpoint=file.checkpoint,
            task=name,
            setting=Setting(*setting),
            n_neurons=file.geometry.neurons,
            conditions=conditions,
        )
        outcomes.append(outcome)
        effects.append(effect)
        progress(done + 1, len(tasks), name)
    tables.write(pd.concat(outcomes, ignore_index=True), masking, "masking")
    found = pd.concat(effects, ignore_index=True)
    tables.write(found, masking_effect, "masking_effect")
    return {
        f"{column}.{task}": value
        for column in ("loss_key", "loss_random")
        for task, value in zip(found["task"], found[column], strict=True)
        if pd.notna(value)
    }


def _answering(
    model: Any, tokenizer: Any, name: str, entry: dict, records: list[dict], batch_size: int
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that gives correctness (int8, −1 not graded) and reference NLL of the task's samples, as masked."""
    generated = "lm_eval" in entry
    if generated:
        loaded = harness.load_tasks({name: harness.TaskSpec(**entry)})
        wrapped = harness.wrap(model, tokenizer, batch_size=batch_size)

    def answer() -> tuple[np.ndarray, np.ndarray]:
        verdict = {True: 1, False: 0, None: -1}
        # Given responses can't be made again, so only the likelihood of the reference answer is measured.
        correct = [r["correct"] for r in harness.respond(wrapped, loaded)[name]] if generated else [None] * len(records)
        return np.array([verdict[c] for c in correct], dtype=np.int8), reference_nll(
            model, tokenizer, records, batch_size
        )

    return answer


if __name__ == "__main__":
    run(main)
