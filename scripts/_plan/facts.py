"""What is known of a study before its jobs run: sizes of models, layers, responses, and the bytes that follow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _resources import CHECKPOINT, Answers, answers_in, expected_answers, recipe_of, size_before, size_of
from _study import MAIN, Study
from moemui.geometry import Geometry, Layer
from moemui.models import costs
from moemui.models.model_size import ModelSize

# Bytes on disk where no formula is worth it (embedded and smoke study): of a sample, of its tokens; of a task of a
# checkpoint in the tables of the model; of other tables; of the report with its figures.
SAMPLE_BYTES, TOKEN_BYTES, CELL_BYTES, TABLE_BYTES, REPORT_BYTES = 130, 10, 60_000, 300_000, 4_000_000
ENRICHMENT_SHARE = 0.06  # of expert_frequency in bytes


@dataclass(frozen=True)
class Job:
    """A job of the workflow. name: of its record; pending: whether Snakemake would run it now.

    model, checkpoint, suite, variant: where it has one, else "".
    """

    rule: str
    stage: str
    name: str
    pending: bool
    model: str = ""
    checkpoint: str = ""
    suite: str = ""
    variant: str = MAIN


@dataclass
class Facts:
    """What is at hand of a study, the real thing where it lies there, else what is expected.

    results: its folder. doctor: findings of scripts/doctor.py by model. leaves: how many tasks a task of lm_eval stands
    for, where that was looked up. structure: gives the layers of a config.json or, in its folder, of a GGUF file;
    without it config.json is not looked into.
    """

    study: Study
    results: Path
    doctor: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    leaves: Mapping[str, int] = field(default_factory=dict)
    structure: Callable[[Path, str | None], Sequence[Layer]] | None = None

    def __post_init__(self) -> None:
        self._layers: dict[str, tuple[Sequence[Layer] | None, str]] = {}

    def size(self, model: str, checkpoint: str = "") -> ModelSize | None:
        """A model's size: of its files or recipe, as the doctor found it, or the configuration's bare `parameters`."""
        manifest = self.results / model / checkpoint / CHECKPOINT if checkpoint else None
        # The second for a damaged manifest, too.
        found = size_of(self.study, model, manifest) or size_before(self.study, model)
        bare = found is None or (found.layers is None and not found.file_bytes)
        if bare and self.doctor.get(model, {}).get("parameters"):
            layers = [Layer(**layer) for layer in self.doctor[model]["layers"]]
            number = float(self.doctor[model]["parameters"])
            used = max(
                (layer.top_k * layer.width + layer.shared * layer.shared_width for layer in layers), default=None
            )
            found = ModelSize(number, number, "the doctor's finding", layers=len(layers) or None, used=used)
        return found

    def layers(self, model: str) -> tuple[Sequence[Layer] | None, str]:
        """A model's layers and where they are known from; None where nothing at hand tells them."""
        if model not in self._layers:
            self._layers[model] = self._find_layers(model)
        return self._layers[model]

    def answers(self, model: str, checkpoint: str, task: str) -> Answers:
        """A task's responses as they lie there, else as they are expected."""
        given = self.given(model, checkpoint, task)
        if given is not None:
            return given
        found, entry = expected_answers(self.study, task), self.study.tasks[task]
        if task in self.leaves and "limit" in entry:
            share = entry["limit"] * self.leaves[task] / found.samples
            found = Answers(
                entry["limit"] * self.leaves[task], found.prompt_tokens * share, found.response_tokens * share,
                found.longest, found.steps * share,
            )  # fmt: skip
        return found

    def given(self, model: str, checkpoint: str, task: str) -> Answers | None:
        """A task's responses as they lie there; None where there are none, or the file is damaged."""
        try:
            return answers_in(self.results / model / checkpoint / task / "responses.jsonl")
        except (FileNotFoundError, ValueError, KeyError):  # a damaged one is named by the job that reads it
            return None

    def read(self, job: Job) -> dict[str, float] | None:
        """Bytes that an analysis reads of the kind that its seconds depend on; None where they can't be said."""
        kind = costs.ANALYSES[job.stage].kind
        if kind == ".h5":
            sizes = [self._key_bytes(*cell) for cell in self._scored(job)]
            return None if None in sizes else {kind: sum(size for size in sizes if size is not None)}
        if kind == ".zarr":
            stores = [self._store_bytes(*cell) for cell in self._scored(job)]
            return None if None in stores else {kind: sum(store[0] for store in stores if store is not None)}
        if kind == ".safetensors":
            size = self.size(job.model, job.checkpoint)
            return None if size is None else {kind: size.file_bytes or size.weight_bytes("bfloat16")}
        if job.stage in ("enrichment", "gather", "report"):
            frequency = self._frequency_bytes(list(self.study.models))
            if frequency is None:
                return None
            whole = (
                0.1 * frequency if job.name not in ("tables/expert_frequency", "enrichment", "report") else frequency
            )
            return {kind: 0.05 * whole}  # of which Parquet is a twentieth, CSV the rest
        return {kind: float(TABLE_BYTES)}

    def disk(self, job: Job) -> float | None:
        """Bytes that a job leaves below results; None where they can't be said."""
        if job.stage == "train":
            size, steps = self.size(job.model), self.study.models[job.model]["training"]["save_steps"]
            return None if size is None else 4 * size.parameters * len(steps)
        if job.stage == "responses":
            answers = [self.answers(job.model, job.checkpoint, task) for task in self.study.suites[job.suite]]
            return sum(SAMPLE_BYTES * a.samples + TOKEN_BYTES * (a.prompt_tokens + a.response_tokens) for a in answers)
        if job.stage == "contributions":
            stores = [self._store_bytes(*cell) for cell in self._scored(job)]
            return None if None in stores else sum(store[0] for store in stores if store is not None)
        if job.stage == "key_neurons":
            sizes = [self._key_bytes(*cell) for cell in self._scored(job)]
            return None if None in sizes else sum(size for size in sizes if size is not None)
        if job.stage == "model_experts":
            return self._frequency_bytes([job.model])
        if job.stage == "model_utilization":
            return float(CELL_BYTES * len(self._scored(job)))
        if job.name == "tables/expert_frequency" or job.stage == "enrichment":
            frequency = self._frequency_bytes(list(self.study.models))
            share = 1.0 if job.stage == "gather" else ENRICHMENT_SHARE
            return None if frequency is None else share * frequency
        small = {"report": REPORT_BYTES, "checkpoint": 2000, "task_data": 20_000}
        return float(small.get(job.stage, TABLE_BYTES))

    def most_disk(self, job: Job) -> float | None:
        """Bytes that an extraction leaves at most, nothing compressed."""
        stores = [self._store_bytes(*cell) for cell in self._scored(job)]
        return None if None in stores else sum(store[1] for store in stores if store is not None)

    def _find_layers(self, model: str) -> tuple[Sequence[Layer] | None, str]:
        for store in sorted((self.results / model).glob("*/*/contributions*.zarr/zarr.json")):
            attributes = _content(store).get("attributes", {})
            if "geometry" in attributes:
                return Geometry.from_dict(attributes["geometry"]).layers, "a finished store"
        entry = self.study.models[model]
        recipe = recipe_of(self.study, model) if "train" in entry["source"] else None
        if recipe is not None:
            shared = recipe.shared_experts if recipe.family == "deepseek_v2" else 0
            width = recipe.neurons_per_expert
            layer = Layer(0, recipe.experts, shared, width, width if shared else 0, recipe.top_k)
            return [replace(layer, index=index) for index in range(recipe.layers)], "its recipe"
        if self.doctor.get(model, {}).get("layers"):
            return [Layer(**layer) for layer in self.doctor[model]["layers"]], "the doctor's finding"
        gguf = entry["source"].get("gguf")
        for config in self._configs(model):
            if self.structure is not None and config.is_file() and config.stat().st_size:
                return self.structure(config, gguf), f"{config}"
        return None, "its config.json is not here" if self.structure is not None else "not looked for"

    def _configs(self, model: str) -> list[Path]:
        """Where a model's config.json may lie on this machine."""
        source = self.study.models[model]["source"]
        manifests = [self.results / model / name / CHECKPOINT for name in self.study.checkpoints(model)]
        pinned = [_content(path) for path in manifests if path.is_file()]
        found = [Path(manifest["path"]) / (manifest["gguf"] or "config.json") for manifest in pinned if manifest]
        if "path" in source:
            found.append(Path(source["path"]).expanduser() / source.get("gguf", "config.json"))
        if "hub" in source:
            from huggingface_hub import try_to_load_from_cache

            for checkpoint in self.study.models[model]["checkpoints"]:
                cached = try_to_load_from_cache(source["hub"], "config.json", revision=checkpoint["revision"])
                found += [Path(cached)] if isinstance(cached, str) else []
        return found

    def _scored(self, job: Job) -> list[tuple[str, str, str, str]]:
        """Model, checkpoint, task and variant of the key neurons that a job reads or writes."""
        models = [job.model] if job.model else list(self.study.models)
        ends = job.stage in ("model_diversity", "laws")
        varied = job.stage in ("model_utilization", "model_experts", "key_neurons", "contributions")
        found = []
        for model in models:
            names = self.study.checkpoints(model)
            for checkpoint in [job.checkpoint] if job.checkpoint else {names[0]: 0, names[-1]: 0} if ends else names:
                for task in self.study.suites[job.suite] if job.suite else self.study.tasks:
                    variants = [job.variant] if job.suite else [MAIN]
                    if varied and not job.suite:
                        variants += [
                            v for v in self.study.variants if checkpoint in self.study.variant_checkpoints(v, model)
                        ]
                    found += [(model, checkpoint, task, variant) for variant in variants]
        return found

    def _key_bytes(self, model: str, checkpoint: str, task: str, variant: str) -> float | None:
        layers, options, rules = self.layers(model)[0], self.study.scoring(variant), self.study["key_neurons"]
        if layers is None:
            return None
        thresholds = [*self.study["contributions"]["thresholds"], *rules["global_topk"]]
        # A share of the highest score keeps few neurons; as many as the main threshold is enough to plan with.
        thresholds += [min(thresholds)] * len(rules["top_score"])
        settings = len(options["formulations"]) * len(options["selections"])
        samples = self.answers(model, checkpoint, task).samples
        return costs.key_file_bytes(layers, samples=samples, settings=settings, thresholds=thresholds)

    def _store_bytes(self, model: str, checkpoint: str, task: str, variant: str) -> tuple[float, float] | None:
        from moemui.scores import store

        layers = self.layers(model)[0]
        if layers is None:
            return None
        geometry, options = Geometry(tuple(layers)), self.study.scoring(variant)
        answers = self.answers(model, checkpoint, task)
        tokens = [math.ceil(answers.response_tokens / max(1, answers.samples))] * answers.samples
        settings = [(f, s) for f in options["formulations"] for s in options["selections"]]
        ranks = int(geometry.key_count(options["largest_threshold"]).max())
        chunk = self.study["contributions"]["chunk_samples"]
        estimate = store.estimate(store.Layout(geometry, settings, ranks, tokens, chunk))
        shards = self.study["contributions"]["shards"]
        return estimate.usual / shards, estimate.most / shards

    def _frequency_bytes(self, models: Sequence[str]) -> float | None:
        """Of the largest table, expert_frequency: a row for every expert of every cell under every setting."""
        total = 0.0
        for model in models:
            layers = self.layers(model)[0]
            if layers is None:
                return None
            cells = len(self.study.checkpoints(model)) * len(self.study.tasks)
            total += cells * len(self.study.settings()) * sum(layer.experts for layer in layers) * costs.TABLE_ROW / 2
        return total


def _content(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is damaged, which the job that reads it names."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}


def leaves_of(study: Study) -> dict[str, int]:
    """How many tasks each group of lm_eval among a study's tasks stands for, from lm_eval's index: offline, 10 s."""
    named = {name: task for name, task in study.tasks.items() if "lm_eval" in task and "synthetic" not in task}
    if not named:
        return {}
    from lm_eval.tasks import TaskManager

    folders = sorted({task["include"] for task in named.values() if "include" in task})
    index = TaskManager(include_path=folders or None).task_index

    def count(task: Any) -> int:
        if isinstance(task, Mapping):
            return sum(map(count, task["task"])) if isinstance(task.get("task"), list) else 1
        entry = index.get(task)
        if entry is not None and entry.kind.name == "GROUP":
            return sum(map(count, entry.cfg["task"]))
        if entry is not None and entry.kind.name == "TAG":
            return sum(task in other.tags for other in index.values())
        return 1

    return {name: count(task["lm_eval"]) for name, task in named.items()}
