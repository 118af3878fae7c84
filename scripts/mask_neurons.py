"""Answer every task again without its key neurons, and without as many random ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from _job import run
from moemui.analyses import key_neurons as files
from moemui.analyses.masking import by_layer, matched_random
from moemui.analyses.masking_effects import NO_SEED, Condition, rows
from moemui.analyses.settings import Setting
from moemui.answers import harness
from moemui.answers.responses import read_responses, reference_nll, verdicts
from moemui.models import checkpoints
from moemui.tables import table as tables
from moemui.tables.masking import MASKING, MASKING_EFFECT
from moemui.tap import families
from moemui.tap.capture import Tap


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
    chat: dict,
    setting: list,
    seeds: int,
    seed: int,
    progress: Callable,
) -> dict:
    """masking, masking_effect: the tables to write. data: <task>.jsonl of the synthetic tasks.

    seed: of the bootstrap and of the first random control; the `seeds` controls count up from it.
    """
    made = {path.stem: str(path) for path in data}
    # Before the model, so that a mistake in a task costs no loading of one.
    loaded = harness.load_tasks(
        {name: harness.TaskSpec(**entry, data=made.get(name)) for name, entry in tasks.items() if "lm_eval" in entry}
    )
    model, tokenizer = checkpoints.load(json.loads(checkpoint.read_text()), **loading)
    wrapped = harness.wrap(model, tokenizer, batch_size=batch_size, **chat)
    sites = families.sites(model)
    outcomes, effects = [], []
    for done, (name, answers, sets) in enumerate(zip(tasks, responses, key_neurons, strict=True)):
        file, records = files.read(sets), read_responses(answers)
        key = file.sets(*setting).union()
        answer = _answering(wrapped, _alone(loaded, name), records)
        conditions = []
        masks = [("none", NO_SEED, np.empty(0, dtype=np.int64)), ("key", NO_SEED, key)]
        masks += [
            ("random", control, matched_random(key=key, geometry=file.geometry, seed=control))
            for control in range(seed, seed + seeds)
        ]
        for kind, control, neurons in masks:
            masked = [torch.from_numpy(layer) for layer in by_layer(neurons=neurons, geometry=file.geometry)]
            with Tap(sites, masked_neurons=masked):
                correct, nll = answer()
            conditions.append(Condition(kind, len(neurons), correct, nll, control))
        outcome, effect = rows(
            model=file.model,
            checkpoint=file.checkpoint,
            task=name,
            setting=Setting(*setting),
            n_neurons=file.geometry.neurons,
            conditions=conditions,
            seed=seed,
        )
        outcomes.append(outcome)
        effects.append(effect)
        progress(done + 1, len(tasks), name)
    tables.write(pd.concat(outcomes, ignore_index=True), masking, MASKING)
    found = pd.concat(effects, ignore_index=True)
    tables.write(found, masking_effect, MASKING_EFFECT)
    return {
        f"{column}.{task}": value
        for column in ("loss_key", "loss_random")
        for task, value in zip(found["task"], found[column], strict=True)
        if pd.notna(value)
    }


def _alone(loaded: harness.TaskSet, name: str) -> harness.TaskSet | None:
    """One of the loaded tasks by itself; None for given responses."""
    return harness.TaskSet({name: loaded.specs[name]}, {name: loaded.leaves[name]}) if name in loaded.specs else None


def _answering(
    wrapped: harness.RecordingModel, task: harness.TaskSet | None, records: list[dict]
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A function that gives correctness (int8, −1 not graded) and reference NLL of the task's samples, as masked."""

    def answer() -> tuple[np.ndarray, np.ndarray]:
        # Given responses can't be made again, so only the likelihood of the reference answer is measured.
        correct = np.full(len(records), -1, dtype=np.int8)
        if task is not None:
            (answers,) = harness.respond(wrapped, task).values()
            correct = verdicts(answers)
        return correct, reference_nll(wrapped.model, wrapped.tokenizer, records, wrapped.batch_size)

    return answer


if __name__ == "__main__":
    run(main)
