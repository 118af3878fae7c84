"""Answer every task again without its key neurons, and without as many others, at several thresholds."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

from _job import run
from moemui.answers import harness
from moemui.answers.responses import read_responses, reference_nll, verdicts
from moemui.checks.masking import by_layer, masks
from moemui.checks.masking_effects import Condition, rows
from moemui.geometry import Geometry
from moemui.key_neurons import files
from moemui.key_neurons.selection import select_key_neurons
from moemui.key_neurons.settings import Setting
from moemui.models import checkpoints
from moemui.scores.activation_frequency import activity
from moemui.scores.contributions import Options, Sample, Scorer
from moemui.tables import table as tables
from moemui.tables.masking import MASKING, MASKING_EFFECT
from moemui.tap import heads
from moemui.tap.capture import Tap


def main(
    *,
    manifest: Path,
    responses: list[Path],
    stores: list[Path],
    data: list[Path],
    masking: Path,
    masking_effect: Path,
    tasks: dict,
    batch_size: int,
    loading: dict,
    chat: dict,
    settings: list,
    counting: dict,
    seeds: int,
    seed: int,
    shards: int,
    model: str,
    checkpoint: str,
    progress: Callable,
) -> dict:
    """masking, masking_effect: the tables to write. data: <task>.jsonl of the synthetic tasks.

    manifest: checkpoint.json. stores: a task's shards, in the order of `responses`, then the next's.
    settings: whose key neurons are masked, one after the other. counting: of the contributions' options, those that say
    at which states response tokens are. seed: of the bootstrap and of the first control; the `seeds` of each kind count
    up from it.
    """
    made = {path.stem: str(path) for path in data}
    # Before the model, so that a mistake in a task costs no loading of one.
    loaded = harness.load_tasks(
        {name: harness.TaskSpec(**entry, data=made.get(name)) for name, entry in tasks.items() if "lm_eval" in entry}
    )
    network, tokenizer = checkpoints.load(json.loads(manifest.read_text()), **loading)
    wrapped = harness.wrap(network, tokenizer, batch_size=batch_size, **chat)
    scorer = Scorer(network, Options.from_mapping(counting), eos_ids=heads.end_tokens(network, tokenizer))
    wanted = [Setting(*setting) for setting in settings]
    total, done = len(tasks) * (1 + len(wanted) * (2 + 2 * seeds)), 0
    outcomes, effects = [], []
    for number, (name, answers) in enumerate(zip(tasks, responses, strict=True)):
        records = read_responses(answers)
        own = stores[number * shards : (number + 1) * shards]
        samples = [Sample(record["id"], record["prompt_ids"], record["response_ids"]) for record in records]
        frequency = activity(scorer=scorer, samples=samples).frequency
        progress(done := done + 1, total, f"{name}, activation frequency")
        task = _alone(loaded, name)
        geometry, key = _key_neurons(own, answers, wanted, model=model, checkpoint=checkpoint)
        answered: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for setting in wanted:
            conditions = []
            for mask in masks(
                key=key[setting],
                frequency=frequency,
                geometry=geometry,
                seeds=range(seed, seed + seeds),
            ):
                # Answers depend on the masked neurons alone: nothing masked, for one, is the same at every threshold.
                same = mask.neurons.tobytes()
                if same not in answered:
                    layers = by_layer(neurons=mask.neurons, geometry=geometry)
                    with Tap(scorer.sites, masked_neurons=[torch.from_numpy(layer) for layer in layers]):
                        answered[same] = _answers(wrapped, task, records)
                correct, nll = answered[same]
                conditions.append(
                    Condition(mask.condition, len(mask.neurons), correct, nll, mask.seed, frequency[mask.neurons])
                )
                control = f", seed {mask.seed}" if mask.condition in ("random", "matched") else ""
                progress(done := done + 1, total, f"{name}, {setting.label}, {mask.condition}{control}")
            outcome, effect = rows(
                model=model,
                checkpoint=checkpoint,
                task=name,
                setting=setting,
                n_neurons=geometry.neurons,
                conditions=conditions,
                seed=seed,
            )
            outcomes.append(outcome)
            effects.append(effect)
    tables.write(pd.concat(outcomes, ignore_index=True), masking, MASKING)
    found = pd.concat(effects, ignore_index=True)
    tables.write(found, masking_effect, MASKING_EFFECT)
    losses = {
        f"loss_{neurons}.{row['task']}.{row['threshold']:g}": value
        for row in found.to_dict("records")
        for neurons, value in (("key", row["loss_key"]), (row["control"], row["loss_random"]))
        if pd.notna(value)
    }
    return losses | loaded.code_protections()


def _key_neurons(
    stores: list[Path], responses: Path, settings: list[Setting], *, model: str, checkpoint: str
) -> tuple[Geometry, dict[Setting, np.ndarray]]:
    """The task's geometry, and at each setting the neurons that are key for any sample, as key_neurons.h5 has them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "key_neurons.h5"
        select_key_neurons(
            stores,
            responses,
            path,
            thresholds=[setting.threshold for setting in settings],
            formulations={setting.formulation for setting in settings},
            selections={setting.selection for setting in settings},
            model=model,
            checkpoint=checkpoint,
        )
        file = files.read(path)
        return file.geometry, {setting: file.sets(*setting).union() for setting in settings}


def _alone(loaded: harness.TaskSet, name: str) -> harness.TaskSet | None:
    """One of the loaded tasks by itself; None for given responses."""
    return harness.TaskSet({name: loaded.specs[name]}, {name: loaded.leaves[name]}) if name in loaded.specs else None


def _answers(
    wrapped: harness.RecordingModel, task: harness.TaskSet | None, records: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Correctness (int8, −1 not graded) and reference NLL of the task's samples, as the model is masked now."""
    # Given responses can't be made again, so only the likelihood of the reference answer is measured.
    correct = np.full(len(records), -1, dtype=np.int8)
    if task is not None:
        (answers,) = harness.respond(wrapped, task).values()
        correct = verdicts(answers)
    return correct, reference_nll(wrapped.model, wrapped.tokenizer, records, wrapped.batch_size)


if __name__ == "__main__":
    run(main)
