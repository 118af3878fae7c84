"""What run records say about the cost of jobs: factors for a forecast, and a prediction beside what came of it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _plan.forecast import MODEL_STAGES, stage_of
from _provenance.records import read_record
from _resources import (
    CHECKPOINT,
    NONE,
    answering_work,
    answers_in,
    masking_runs,
    masking_work,
    scoring_work,
    sizes,
)  # fmt: skip
from moemui.models import costs, model_size
from moemui.models.model_size import ModelSize
from moemui.models.recipe import Recipe

ALL = "all"  # what the row over all stages is called
OWN_SPREAD, OTHER_SPREAD = 1.3, 2.0  # what seconds may still be off by, once scaled by this study's or another's jobs


@dataclass(frozen=True)
class Measured:
    """One finished job. name: of its record. predicted: seconds by constants; None where its files are gone or damaged.

    bytes: of its outputs that still lie there.
    """

    name: str
    stage: str
    seconds: float
    predicted: float | None
    memory_mb: float
    bytes: float


def finished(results: Path) -> list[Measured]:
    """The finished jobs of a study's results folder, in the order of their names; empty where there are none.

    Raises ValueError for a record that can't be read.
    """
    found = []
    for path in sorted((results / "records").rglob("*.json")):
        record = read_record(path)
        outputs = sum(sizes(str(there(results, output)) for output in record["outputs"]).values())
        name = path.relative_to(results / "records").with_suffix("").as_posix()
        found.append(
            Measured(
                name,
                stage_of(record["stage"]),
                record["seconds"],
                _by_constants(results, record),
                record["peak_memory_mb"],
                outputs,
            )
        )
    return found


def there(results: Path, path: str) -> Path:
    """Where a path of a record lies now, if its results folder was moved or is looked at from elsewhere.

    Results are named from where snakemake was called; an absolute path is a file from outside and stays as it is.
    """
    parts = Path(path).parts
    if Path(path).is_absolute() or results.name not in parts:
        return Path(path)
    return results.joinpath(*parts[parts.index(results.name) + 1 :])


def factors(own: Iterable[Measured], other: Iterable[Measured], name: str) -> dict[str, tuple[float, float, str]]:
    """By stage: measured over predicted seconds, the spread that is left, and the basis in words.

    own: finished jobs of this study, which come first; other: those of another study, called `name`.
    """
    found = {}
    for jobs, spread, whose in (
        (other, OTHER_SPREAD, f"measured in {name}"),
        (own, OWN_SPREAD, "this study's records"),
    ):
        sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0])
        for job in jobs:
            if job.predicted:
                sums[job.stage][0] += job.seconds
                sums[job.stage][1] += job.predicted
                sums[job.stage][2] += 1
        for stage, (seconds, predicted, count) in sums.items():
            found[stage] = seconds / predicted, spread, f"{whose}, {count:.0f} job{'s' if count > 1 else ''}"
    return found


def _by_constants(results: Path, record: Mapping[str, Any]) -> float | None:
    stage, params = stage_of(record["stage"]), record["params"]
    inputs = [str(there(results, path)) for path in record["inputs"]]
    machine = costs.GPU if record["peak_gpu_memory_mb"] else costs.CORE
    if stage == "train":
        recipe = Recipe.from_mapping(params["recipe"])
        work = costs.training_work(recipe, record["metrics"]["tokens"])
        return costs.seconds(stage, model_size.of_recipe(recipe), work, machine, dtype="float32")
    if stage in MODEL_STAGES:
        return _with_model(results, record, stage, inputs, machine)
    if stage not in costs.ANALYSES:
        return None
    reading = costs.ANALYSES[stage]
    if reading.kind and not any(os.path.exists(path) for path in inputs):
        return None
    return reading.seconds(sizes(inputs).get(reading.kind, 0.0) / costs.MB)


def _with_model(
    results: Path, record: Mapping[str, Any], stage: str, inputs: list[str], machine: costs.Machine
) -> float | None:
    params, size = record["params"], _size(results, inputs)
    written = [str(there(results, path)) for path in record["outputs"]] if stage == "responses" else inputs
    files = [Path(path) for path in written if path.endswith("responses.jsonl")]
    if size is None or not files or not all(file.is_file() for file in files):
        return None
    try:
        answers = sum((answers_in(file) for file in files), NONE)
    except (ValueError, KeyError):  # damaged; the job that reads it names it
        return None
    if stage == "responses":
        work = answering_work(answers, params["batch_size"])
    elif stage == "masking":
        work = masking_work(answers, params["batch_size"], masking_runs(len(params["settings"]), params["seeds"]))
    else:
        work = scoring_work(answers, size, params["options"], params["shard"][1])
    return costs.seconds(stage, size, work, machine, dtype=params["loading"]["dtype"])


def _size(results: Path, inputs: list[str]) -> ModelSize | None:
    manifest = next((Path(path) for path in inputs if Path(path).name == CHECKPOINT), None)
    if manifest is None or not manifest.is_file():
        return None
    try:
        pinned = json.loads(manifest.read_text(encoding="utf-8"))
        return model_size.of_manifest({**pinned, "path": str(there(results, pinned["path"]))})
    except ValueError:
        return None


@dataclass(frozen=True)
class Compared:
    """A stage as it was predicted and as it came, over the jobs that finished. None where nothing was predicted."""

    stage: str
    jobs: int
    finished: int
    predicted_seconds: float | None
    seconds: float
    predicted_bytes: float | None
    bytes: float
    predicted_memory_mb: float | None
    memory_mb: float


def compare(planned: Mapping[str, Mapping[str, Any]], jobs: Iterable[Measured]) -> list[Compared]:
    """Predictions by name of the job (of plan.json: stage, seconds, disk, memory_mb) beside finished jobs, by stage.

    Stages come in the order of the plan. A finished job that wasn't planned is left out; `compare` of an empty plan is
    empty.
    """
    came = {job.name: job for job in jobs if job.name in planned}
    by_stage: dict[str, list[str]] = defaultdict(list)
    for name, job in planned.items():
        by_stage[job["stage"]].append(name)
    found = []
    for stage, names in by_stage.items():
        done = [name for name in names if name in came]

        def total(key: str, done: list[str] = done) -> float | None:
            values = [planned[name][key] for name in done]
            return None if not values or None in values else float(sum(values))

        memory = [planned[name]["memory_mb"] for name in done]
        found.append(
            Compared(
                stage,
                len(names),
                len(done),
                total("seconds"),
                sum(came[name].seconds for name in done),
                total("disk"),
                sum(came[name].bytes for name in done),
                None if not memory or None in memory else max(memory),
                max((came[name].memory_mb for name in done), default=0.0),
            )
        )
    return found


def total(rows: Sequence[Compared]) -> Compared:
    """All stages in one row: times and bytes of the stages whose prediction is known, on both sides; most memory."""
    done = [row for row in rows if row.finished]
    timed = [row for row in done if row.predicted_seconds is not None]
    sized = [row for row in done if row.predicted_bytes is not None]
    weighed = [row for row in done if row.predicted_memory_mb is not None]
    return Compared(
        ALL,
        sum(row.jobs for row in rows),
        sum(row.finished for row in done),
        sum(row.predicted_seconds or 0 for row in timed),
        sum(row.seconds for row in timed),
        sum(row.predicted_bytes or 0 for row in sized),
        sum(row.bytes for row in sized),
        max((row.predicted_memory_mb or 0 for row in weighed), default=0.0),
        max((row.memory_mb for row in weighed), default=0.0),
    )
