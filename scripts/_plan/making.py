"""The plan of a study: its jobs' predictions, gathered by stage and by model into plain numbers (plan.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _plan import measured
from _plan.facts import Facts, Job, leaves_of
from _plan.forecast import STAGES, Forecast, Predicted, jobs
from _resources import rounded
from _study import Study
from moemui.geometry import Layer
from moemui.models import costs
from moemui.models.model_size import ModelSize
from moemui.scores.disk import free

PLAN, PLAN_VERSION = "plan.json", 1
# Why a number is missing.
SIZE_UNKNOWN = (
    "how large these models are, before their files are here; set `parameters`, or give a finding of the doctor"
)
LAYERS_UNKNOWN = (
    "which layers these models have, and with that what their scores take on disk and in analyses, before their "
    "config.json is here"
)


def make(
    config: Path,
    study: Study,
    results: Path,
    *,
    like: Path | None = None,
    doctor: Mapping[str, Mapping[str, Any]] | None = None,
    quick: bool = False,
    cores: int = 1,
    gpus: int = 1,
) -> dict[str, Any]:
    """The plan, as plan.json holds it.

    like: results folder of another study, whose speed is taken where this one has no records of a stage. doctor: what
    it found, by model. quick: ask neither lm_eval how many tasks a group has nor transformers for layers.

    What plan.json says already about a job that finished since stays as it was, and what it says of one that had
    finished before is predicted without this study's own records: so that a comparison never meets its own answer.

    Raises ValueError for a folder `like` without records and for records that can't be read, PlanError where Snakemake
    can't plan the study.
    """
    own = measured.finished(results)
    other = measured.finished(like) if like is not None else []
    if like is not None and not other:
        raise ValueError(f"{like} has no records of finished jobs; name the results folder of a study that ran")
    before = (earlier(results) or {"jobs": {}})["jobs"]
    planned = sorted(jobs(config, study, results), key=lambda job: STAGES.index(job.stage))

    facts = Facts(study, results, doctor or {}, {} if quick else leaves_of(study), None if quick else layers_of)
    now = Forecast(facts, measured.factors(own, other, f"{like}"))
    cold = Forecast(facts, measured.factors([], other, f"{like}"))
    took = {job.name: job.seconds for job in own}
    predicted = {job.name: now.predict(job) for job in planned}
    rows = [
        _stage(stage, [job for job in planned if job.stage == stage], predicted, took, cores, gpus) for stage in STAGES
    ]
    return {
        "plan_version": PLAN_VERSION,
        "study": study.name,
        "config": str(config),
        "like": str(like) if like else None,
        "cores": cores,
        "gpus": gpus,
        "free_bytes": free(results),
        "stages": [row for row in rows if row["jobs"]],
        "models": [_model(now, model) for model in study.models],
        "assumed": _assumptions(now),
        "unknown": _unknown(now),
        "jobs": {
            job.name: before.get(job.name) or _of_job(job, cold.predict(job))
            if job.name in took
            else _of_job(job, predicted[job.name])
            for job in planned
        },
    }


def earlier(results: Path) -> dict[str, Any] | None:
    """The plan that lies there; None without one. Raises ValueError for a damaged one."""
    file = results / PLAN
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or "jobs" not in found:
        raise ValueError(f"{file} is no plan; delete it and plan again")
    return found


def layers_of(file: Path, gguf: str | None) -> Sequence[Layer]:
    """The layers of a config.json or GGUF file, by building the model without its weights."""
    from moemui.models.doctor import outline

    return outline(file.parent, gguf).layers


def _of_job(job: Job, predicted: Predicted) -> dict[str, Any]:
    memory = predicted.memory
    return {
        "stage": job.stage,
        "seconds": predicted.seconds,
        "disk": predicted.disk,
        "memory_mb": None if memory is None else memory / costs.MB,
    }


def _stage(
    stage: str,
    own: Sequence[Job],
    predicted: Mapping[str, Predicted],
    took: Mapping[str, float],
    cores: int,
    gpus: int,
) -> dict[str, Any]:
    """One stage. elapsed: seconds from and to, with so many jobs at a time; those of jobs that are left to do."""
    every, todo = [predicted[job.name] for job in own], [predicted[job.name] for job in own if job.pending]
    at_once = max((p.gpus for p in every), default=0)
    elapsed = []
    for side in (-1, 1):
        each = [(p.seconds * p.spread**side, p.gpus) for p in todo if p.seconds is not None]
        # A job that needs more GPUs than there are will wait for them; the plan says so elsewhere.
        shared = sum(seconds * (n / max(gpus, at_once) if n else 1 / cores) for seconds, n in each)
        elapsed.append(max([shared, *(seconds for seconds, _ in each)]))
    return {
        "stage": stage,
        "jobs": len(own),
        "done": len(own) - len(todo),
        "elapsed": elapsed,
        "measured_seconds": sum(took.get(job.name, 0.0) for job in own if not job.pending),
        "disk": sum(p.disk or 0 for p in every),
        "disk_left": sum(p.disk or 0 for p in todo),
        "most_disk": sum(p.most_disk or 0 for p in every),
        "memory_mb": max((p.memory or 0) / costs.MB for p in every) if every else 0,
        "asked_mb": max((p.asked_mb or 0 for p in every), default=0),
        "gpus": at_once,
        "unknown_jobs": sum(p.seconds is None for p in todo),
        "unknown_disk": sum(p.disk is None for p in every),
        "basis": list(dict.fromkeys(p.basis for p in todo if p.seconds is not None)),
    }


def _model(forecast: Forecast, model: str) -> dict[str, Any]:
    """A model's size, and the most that a job of its last checkpoint asks for; None where that isn't known."""
    study, resources = forecast.study, forecast.resources
    checkpoint, dtype = study.checkpoints(model)[-1], study.models[model]["dtype"]
    size, (layers, whence) = forecast.facts.size(model, checkpoint), forecast.facts.layers(model)
    row: dict[str, Any] = {
        "model": model,
        "parameters": size.parameters if size else None,
        "basis": size.basis if size else None,
        "dtype": dtype,
        "weight_bytes": size.weight_bytes(dtype) if size else None,
        "neurons": sum(layer.neurons for layer in layers) if layers is not None else None,
        "layers": whence,
        "mem_mb": resources.override(model, "mem_mb"),
        "gpus": resources.override(model, "gpus") or 0,
        "note": "",
    }
    if size is None:
        return row
    stages = ("responses", "contributions", *(["masking"] if study.masked_checkpoints() else []))
    memory, gpus, needed = [], [0], [0]
    for stage in stages:
        for tasks in study.suites.values():
            found = [forecast.facts.answers(model, checkpoint, task) for task in tasks]
            answers = sum(found[1:], found[0])
            gpus.append(resources.gpus(model, size, stage, answers))
            if "gpu_memory_mb" in study["resources"]:
                needed.append(resources.gpus_needed(model, size, stage, answers))
            working = resources.working(model, size, stage, answers)
            memory.append(rounded(costs.host_memory(size, dtype=dtype, on_gpu=bool(gpus[-1]), working=working)))
    row |= {"mem_mb": row["mem_mb"] or max(memory), "gpus": max(gpus)}
    if max(needed) > max(gpus):
        room = study["resources"]["gpu_memory_mb"]
        row["note"] = f"needs about {max(needed)} GPUs of {room} MB; set device_map: auto"
    return row


def _assumptions(forecast: Forecast) -> list[str]:
    """What the plan takes for granted, in words."""
    study, found = forecast.study, []
    cells = [(model, checkpoint) for model in study.models for checkpoint in study.checkpoints(model)]
    for task, entry in study.tasks.items():
        if all(forecast.facts.given(m, c, task) is not None for m, c in cells):
            continue
        answers = forecast.facts.answers(*cells[-1], task)
        if "responses" in entry:
            counted = "given"
        elif "limit" not in entry:
            counted = "assumed, there is no limit"
        elif task in forecast.facts.leaves:
            counted = (
                f"the limit in each of {forecast.facts.leaves[task]} tasks"
                if forecast.facts.leaves[task] > 1
                else "the limit"
            )
        else:
            counted = "the limit" if "include" in entry else "assumed, it may be a group of tasks"
        samples = max(1, answers.samples)
        found.append(
            f"{task}: {answers.samples} samples ({counted}) of {answers.prompt_tokens / samples:.0f} prompt and "
            f"{answers.response_tokens / samples:.0f} response tokens (assumed)"
        )
    whole = [model for model in study.models if _all_active(forecast.facts.size(model, study.checkpoints(model)[-1]))]
    if whole:
        found.append(f"{', '.join(whole)}: every token uses all parameters, so times are at most (no config.json here)")
    if any("hub" in study.models[model]["source"] for model in study.models):
        found.append("downloads from the hub, to its own cache, count neither as time nor as disk below results")
    return found


def _all_active(size: ModelSize | None) -> bool:
    return size is not None and size.used is None and size.active == size.parameters


def _unknown(forecast: Forecast) -> list[str]:
    """What can't be said, in words, with the models that it is about."""
    study, found = forecast.study, []
    last = {model: study.checkpoints(model)[-1] for model in study.models}
    for why, models in (
        (SIZE_UNKNOWN, [model for model in study.models if forecast.facts.size(model, last[model]) is None]),
        (LAYERS_UNKNOWN, [model for model in study.models if forecast.facts.layers(model)[0] is None]),
    ):
        if models:
            found.append(f"{', '.join(models)}: {why}")
    return found
