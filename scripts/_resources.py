"""What each job asks of a cluster: memory, minutes and GPUs, from the size of its model or of its inputs.

The functions that rules get are called again and again: by a dry-run, when nothing may be there yet, and once more when
a job is about to start or starts again, and its inputs lie there (Snakemake resets resources then, and counts
`attempt`). So they take the best that is known at the moment. Where nothing is, they raise FileNotFoundError for the
missing input, which Snakemake shows as <TBD>.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from _study import MAIN, Study
from moemui.models import costs, model_size
from moemui.models.model_size import ModelSize
from moemui.models.recipe import Recipe
from moemui.scores import disk

Asked = dict[str, Callable[..., int | None]]

LEAST_MB, STEP_MB, LEAST_MINUTES = 1500, 500, 10
LEAST_MODEL_MINUTES = 30
LATE = 5  # times as long as predicted before an analysis is taken for hung
# Before responses are there: tokens of a prompt and of a response, samples of a task without a limit, and of one with a
# limit that may be a group, which takes its limit for every task in it (those of the ready studies make 210 to 285).
PROMPT_TOKENS, RESPONSE_TOKENS, UNKNOWN_SAMPLES, GROUP_SAMPLES = 256, 256, 1000, 300
NEIGHBOURS = 16  # samples that are taken for a batch, whose longest response decides how long it takes
SYNTHETIC_PROMPT = 15  # tokens of a prompt of the embedded tasks (measured)
DOWNLOAD_BYTES, UNKNOWN_DOWNLOAD_MINUTES = 2e7, 12 * 60  # a second from the hub, at least; where the size isn't known
CHECKPOINT = "checkpoint.json"


@dataclass(frozen=True)
class Answers:
    """Samples of a task and their tokens, as they lie there or as they are expected.

    longest: tokens of the longest prompt with its response. steps: Σ over samples of the longest response near each, so
    that steps / samples is how many forward passes a batch takes.
    """

    samples: int
    prompt_tokens: float
    response_tokens: float
    longest: int
    steps: float

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            self.samples + other.samples,
            self.prompt_tokens + other.prompt_tokens,
            self.response_tokens + other.response_tokens,
            max(self.longest, other.longest),
            self.steps + other.steps,
        )


NONE = Answers(0, 0, 0, 0, 0)


def answers_in(path: Path) -> Answers:
    """What a responses.jsonl holds. Raises FileNotFoundError where there is none."""
    return _answers_at(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _answers_at(path: str, _changed: int) -> Answers:
    with open(path, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    lengths = [(len(record["prompt_ids"]), len(record["response_ids"])) for record in records]
    total = NONE
    for start in range(0, len(lengths), NEIGHBOURS):
        near = lengths[start : start + NEIGHBOURS]
        most = max(response for _, response in near)
        for prompt, response in near:
            total += Answers(1, prompt, response, prompt + response, most)
    return total


def expected_answers(study: Study, task: str) -> Answers:
    """What a task's responses will be about, with the assumptions above."""
    entry = study.tasks[task]
    limit = entry.get("limit")
    if "responses" in entry:
        lines = sum(1 for line in Path(entry["responses"]).read_text(encoding="utf-8").splitlines() if line.strip())
        samples = min(lines, limit or lines)
    elif "synthetic" in entry or "include" in entry:
        samples = limit or UNKNOWN_SAMPLES
    else:
        # A limit holds for every leaf of a group, and nothing here says how many leaves there are.
        samples = max(limit, GROUP_SAMPLES) if limit else UNKNOWN_SAMPLES
    prompt = SYNTHETIC_PROMPT if "synthetic" in entry else PROMPT_TOKENS
    response = entry.get("max_new_tokens") or _budget(entry) or RESPONSE_TOKENS
    return Answers(samples, samples * prompt, samples * response, prompt + response, samples * response)


def _budget(entry: Mapping[str, Any]) -> int | None:
    """The longest response that a task's own file allows; None where it says nothing, or not in plain YAML."""
    file = Path(entry.get("include", ""), f"{entry.get('lm_eval')}.yaml")
    if "include" not in entry or not file.is_file():
        return None
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8")).get("generation_kwargs", {}).get("max_gen_toks")
    except (yaml.YAMLError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def answering_work(answers: Answers, batch: int) -> costs.Work:
    """What making these responses is, so many at a time, each batch as long as the longest response in it."""
    steps = math.ceil(answers.samples / batch) * answers.steps / max(1, answers.samples)
    return costs.Work(answers.samples, answers.prompt_tokens, steps, answers.response_tokens)


def masking_runs(settings: int, seeds: int) -> int:
    """Times that masking answers a task: with nothing masked, and for every setting the key set and its controls."""
    return 1 + settings * (1 + 2 * seeds)


def masking_work(answers: Answers, batch: int, runs: int) -> costs.Work:
    """What masking is: once the activation frequency, and a run of answers and of reference likelihoods each."""
    once, tokens = answering_work(answers, batch), answers.prompt_tokens + answers.response_tokens
    return costs.Work(
        runs * answers.samples, tokens + runs * (once.tokens + tokens), runs * once.steps, runs * once.generated
    )


def scoring_work(answers: Answers, size: ModelSize, options: Mapping[str, Any], shards: int = 1) -> costs.Work:
    """What extracting the contributions to these responses is, or to one shard of them."""
    kept = (size.layers or 0) * max(1, options["largest_threshold"] * (size.neurons or 0))
    settings = len(options["formulations"]) * len(options["selections"])
    return costs.Work(
        samples=answers.samples / shards,
        tokens=(answers.prompt_tokens + answers.response_tokens) / shards,
        entries=answers.samples * kept * settings / shards,
        formulations=len(options["formulations"]),
    )


def recipe_of(study: Study, model: str) -> Recipe | None:
    """The recipe of a model that is trained here; None for a wrong one, which the job that trains will name."""
    entry = study.models[model]
    try:
        return Recipe.from_mapping({"family": entry["source"]["train"], **entry["training"]})
    except ValueError:
        return None


def size_before(study: Study, model: str) -> ModelSize | None:
    """A model's size from the configuration and local files, before its checkpoint is pinned; None where unknown."""
    entry = study.models[model]
    source = entry["source"]
    if "train" in source:
        recipe = recipe_of(study, model)
        return None if recipe is None else model_size.of_recipe(recipe)
    if "path" in source:
        folder = Path(source["path"]).expanduser()
        files = {Path(path).name: {"bytes": os.path.getsize(path)} for path in study.local_files(model)}
        try:
            return model_size.of_manifest({"path": str(folder), "gguf": source.get("gguf"), "files": files})
        except ValueError:  # no weights; the job that loads them will say so
            return None
    return model_size.of_parameters(entry["parameters"]) if "parameters" in entry else None


def size_of(study: Study, model: str, manifest: Path | None) -> ModelSize | None:
    """As `size_before`, but from its pinned files where checkpoint.json lies there."""
    if manifest is not None and manifest.is_file():
        try:
            return model_size.of_manifest(json.loads(manifest.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            return None
    return size_before(study, model)


class JobResources:
    """What the jobs of a study ask for: dictionaries for `resources:` of a rule."""

    def __init__(self, study: Study):
        self.study = study

    def model_job(self, stage: str, tasks: Sequence[str], variant: str = MAIN) -> Asked:
        """Of a job that answers or scores some tasks on a loaded model. stage: responses, contributions or masking."""

        def ask(wildcards: Any, inputs: Iterable[str]) -> tuple[str, ModelSize, Answers, bool]:
            manifest = next(Path(path) for path in inputs if Path(path).name == CHECKPOINT)
            size = size_of(self.study, wildcards.model, manifest)
            if size is None:
                if manifest.is_file():
                    raise ValueError(
                        f"{manifest} tells no size of {wildcards.model}; delete it, to pin its files again"
                    )
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(manifest))
            answers = sum((self._answers(task, inputs) for task in tasks), NONE)
            return wildcards.model, size, answers, bool(self.gpus(wildcards.model, size, stage, answers))

        def mem_mb(wildcards: Any, input: Any, attempt: int) -> int:
            given = self.override(wildcards.model, "mem_mb")
            if given is None:
                model, size, answers, on_gpu = ask(wildcards, input)
                working = self.working(model, size, stage, answers)
                given = rounded(costs.host_memory(size, dtype=self._dtype(model), on_gpu=on_gpu, working=working))
            return given * attempt

        def runtime(wildcards: Any, input: Any, attempt: int) -> int:
            given = self.override(wildcards.model, "runtime")
            if given is None:
                model, size, answers, on_gpu = ask(wildcards, input)
                machine = costs.GPU if on_gpu else costs.CORE
                work = self.work(stage, answers, size, variant)
                expected = costs.seconds(stage, size, work, machine, dtype=self._dtype(model))
                given = max(LEAST_MODEL_MINUTES, math.ceil(machine.spread * expected / 60))
            return given * attempt

        def gpu(wildcards: Any, input: Any) -> int | None:
            given = self.override(wildcards.model, "gpus")
            if given is None and self._on_one(wildcards.model):
                given = 1
            if given is None:
                model, size, answers, _ = ask(wildcards, input)
                given = self.gpus(model, size, stage, answers)
            return given or None

        asked: Asked = {"mem_mb": mem_mb, "runtime": runtime}
        return asked | ({"gpu": gpu} if self.uses_gpus else {})

    def training(self) -> Asked:
        """Of a job that trains a model here."""

        def mem_mb(wildcards: Any, attempt: int) -> int:
            given, recipe = self.override(wildcards.model, "mem_mb"), recipe_of(self.study, wildcards.model)
            if given is None and recipe is not None:
                given = rounded(costs.training_memory(model_size.of_recipe(recipe), recipe))
            return (given or LEAST_MB) * attempt

        def runtime(wildcards: Any, attempt: int) -> int:
            given, recipe = self.override(wildcards.model, "runtime"), recipe_of(self.study, wildcards.model)
            if given is None and recipe is not None:
                size, work = model_size.of_recipe(recipe), costs.training_work(recipe)
                expected = costs.seconds("train", size, work, costs.CORE, dtype="float32")
                given = max(LEAST_MODEL_MINUTES, math.ceil(costs.CORE.spread * expected / 60))
            return (given or LEAST_MODEL_MINUTES) * attempt

        return {"mem_mb": mem_mb, "runtime": runtime}

    def pinning(self) -> Asked:
        """Of a job that downloads and pins a checkpoint."""

        def runtime(wildcards: Any, input: Any, attempt: int) -> int:
            model = wildcards.model
            if "hub" not in self.study.models[model]["source"]:
                expected = sum(sizes(input).values()) / costs.CORE.reading
                return max(LEAST_MINUTES, math.ceil(LATE * expected / 60)) * attempt
            size = size_before(self.study, model)
            if size is None:
                return UNKNOWN_DOWNLOAD_MINUTES * attempt
            return max(LEAST_MODEL_MINUTES, math.ceil(size.weight_bytes("bfloat16") / DOWNLOAD_BYTES / 60)) * attempt

        return {"mem_mb": lambda wildcards, attempt: LEAST_MB * attempt, "runtime": runtime}

    def analysis(self, stage: str) -> Asked:
        """Of a job without a model, by the sizes of its inputs, as far as they lie there. stage: of costs.ANALYSES."""

        def mem_mb(wildcards: Any, input: Any, attempt: int) -> int:
            return rounded(costs.analysis_memory(sizes(input))) * attempt

        def runtime(wildcards: Any, input: Any, attempt: int) -> int:
            reading = costs.ANALYSES[stage]
            expected = reading.seconds(sizes(input).get(reading.kind, 0) / costs.MB)
            return max(LEAST_MINUTES, math.ceil(LATE * expected / 60)) * attempt

        return {"mem_mb": mem_mb, "runtime": runtime}

    @property
    def uses_gpus(self) -> bool:
        """Whether any job of the study may ask for a GPU."""
        asked = self.study["resources"]
        return bool(asked.get("gpus") or "gpu_memory_mb" in asked) or any(
            self.override(model, "gpus") for model in self.study.models
        )

    def override(self, model: str, key: str) -> int | None:
        """What the configuration says instead: of the model, else of the study. key: mem_mb, gpus or runtime."""
        of_study = {"mem_mb": "model_mem_mb", "gpus": "gpus"}.get(key, "")
        found: int | None = self.study.models[model].get("resources", {}).get(key)
        return found if found is not None else self.study["resources"].get(of_study)

    def gpus(self, model: str, size: ModelSize, stage: str, answers: Answers) -> int:
        """GPUs of a job of a model; 0 where the study names neither their number nor the memory of one."""
        given = self.override(model, "gpus")
        if given is not None:
            return given
        if "gpu_memory_mb" not in self.study["resources"]:
            return 0
        return 1 if self._on_one(model) else self.gpus_needed(model, size, stage, answers)

    def gpus_needed(self, model: str, size: ModelSize, stage: str, answers: Answers) -> int:
        """GPUs of the study's memory that the model fits into, however it is placed."""
        room = self.study["resources"]["gpu_memory_mb"] * costs.MB
        working = self.working(model, size, stage, answers)
        return math.ceil(costs.SPARE * costs.gpu_memory(size, dtype=self._dtype(model), working=working) / room)

    def working(self, model: str, size: ModelSize, stage: str, answers: Answers) -> float:
        """Bytes beside the weights."""
        scoring = stage in ("contributions", "masking")
        return costs.working_memory(
            size,
            dtype=self._dtype(model),
            batch=0 if stage == "contributions" else min(self.study["responses"]["batch_size"], answers.samples),
            length=answers.longest,
            scored_tokens=self.study["contributions"]["max_batch_tokens"] if scoring else 0,
            likelihood=True,
        )

    def work(self, stage: str, answers: Answers, size: ModelSize, variant: str = MAIN) -> costs.Work:
        """What a job does with some answers; of contributions, one shard of them."""
        batch = self.study["responses"]["batch_size"]
        if stage == "responses":
            return answering_work(answers, batch)
        if stage == "masking":
            return masking_work(
                answers, batch, masking_runs(len(self.study.masking_settings()), self.study["masking"]["seeds"])
            )
        return scoring_work(answers, size, self.study.scoring(variant), self.study["contributions"]["shards"])

    def _answers(self, task: str, inputs: Iterable[str]) -> Answers:
        for path in map(Path, inputs):
            if path.name == "responses.jsonl" and path.parent.name == task and path.is_file():
                with suppress(ValueError, KeyError, TypeError):  # the job that reads it names it
                    return answers_in(path)
        return expected_answers(self.study, task)

    def _on_one(self, model: str) -> bool:
        return "gpu_memory_mb" in self.study["resources"] and self.study.models[model]["device_map"] == "single"

    def _dtype(self, model: str) -> str:
        return str(self.study.models[model]["dtype"])


def rounded(size: float) -> int:
    """Megabytes to ask for where so many bytes are predicted."""
    return max(LEAST_MB, STEP_MB * math.ceil(costs.SPARE * size / costs.MB / STEP_MB))


def sizes(inputs: Iterable[str]) -> dict[str, float]:
    """Bytes of the inputs that lie there, by ending; a Zarr store as its manifest says, wherever its files are."""
    found: dict[str, float] = defaultdict(float)
    for path in map(Path, inputs):
        if (path / "manifest.json").is_file():
            try:
                listed = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
                found[path.suffix] += sum(file["bytes"] for file in listed.values())
            except (ValueError, KeyError, TypeError):  # the job that reads it names it
                found[path.suffix] += disk.size(path)
        elif path.is_dir():
            found[path.suffix] += disk.size(path)
        elif path.is_file():
            found[path.suffix] += path.stat().st_size
    return dict(found)
