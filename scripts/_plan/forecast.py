"""What a study will take before it starts: its jobs, and for each seconds, bytes on disk and memory, with their basis.

Jobs come from Snakemake itself (`jobs`), sizes of models and amounts of work from `_resources`, constants from
moemui.models.costs, and what other records measured as a factor on them (`_plan.measured`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from _plan.facts import Facts, Job
from _resources import NONE, JobResources, recipe_of, rounded
from _study import MAIN, Study
from moemui.models import costs
from moemui.models.model_size import ModelSize

ROOT = Path(__file__).resolve().parents[2]
MODEL_STAGES = ("train", "responses", "contributions", "masking")
TRIGGERS = ("mtime", "params", "input", "software-env")  # as in the profiles
# In the order of the data.
STAGES = (
    "task_data", "train", "checkpoint", "responses", "contributions", "key_neurons", "model_utilization",
    "model_experts", "model_expert_structure", "enrichment", "sensitivity", "masking", "threshold_selection",
    "comparisons", "dynamics", "model_diversity", "laws", "diagnostics", "gather", "report", "tracking",
)  # fmt: skip
SUITED = ("responses", "contributions", "key_neurons", "masking")  # stages whose rules are named after a suite


class PlanError(RuntimeError):
    """The plan can't be made; the text says why."""


@dataclass(frozen=True)
class Predicted:
    """Of one job. None where it can't be said. spread: the factor that seconds may be off by.

    seconds: `constant` by constants alone, times `factor`. disk, most_disk: bytes below results, as a rule and at most.
    memory: bytes; asked_mb, gpus: what the job asks a cluster for.
    """

    constant: float | None = None
    factor: float = 1.0
    spread: float = 1.0
    basis: str = ""
    disk: float | None = 0.0
    most_disk: float | None = 0.0
    memory: float | None = None
    asked_mb: int | None = None
    gpus: int = 0

    @property
    def seconds(self) -> float | None:
        """The prediction proper."""
        return None if self.constant is None else self.constant * self.factor


def stage_of(rule: str) -> str:
    """The stage that a rule belongs to: rules of a suite and a variant carry their names behind it."""
    return next((stage for stage in SUITED if rule.startswith(f"{stage}_")), rule)


def jobs(config: Path, study: Study, results: Path) -> list[Job]:
    """All jobs of a study, each once, from `snakemake --summary`. Raises PlanError with what Snakemake says."""
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(config),
        "--cores", "1", "--summary", "--rerun-triggers", *TRIGGERS,
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise PlanError(f"snakemake can't plan {config}: {run.stderr.strip() or run.stdout.strip()}")
    found, records = [], f"{results}/records/"
    suited = {
        f"{stage}_{suite}{'' if variant == MAIN else f'_{variant}'}{shard}": (suite, variant)
        for stage in SUITED
        for suite in study.suites
        for variant in (MAIN, *study.variants)
        for shard in (*study.shards(), "")
    }
    for line in run.stdout.splitlines():
        output, _, rule, *_, plan = [*line.split("\t"), "", "", ""][:6]
        if not output.startswith(records):
            continue
        name = output.removeprefix(records).removesuffix(".json")
        parts = name.split("/")
        model = parts[0] if parts[0] in study.models else ""
        suite, variant = suited.get(rule, ("", MAIN))
        checkpoint = parts[1] if model and len(parts) == 3 else ""
        found.append(Job(rule, stage_of(rule), name, plan == "update pending", model, checkpoint, suite, variant))
    return found


@dataclass
class Forecast:
    """Predicts the jobs of a study.

    factors: by stage, what measured seconds are of those that constants predict, the spread that is left, and the basis
    in words.
    """

    facts: Facts
    factors: Mapping[str, tuple[float, float, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.study = self.facts.study
        self.resources = JobResources(self.study)

    def predict(self, job: Job) -> Predicted:
        """What a job takes."""
        if job.stage in MODEL_STAGES:
            found = self._with_model(job)
        else:
            read, disk = self.facts.read(job), self.facts.disk(job)
            if read is None:
                return Predicted(disk=disk, most_disk=disk)
            constant = costs.ANALYSES[job.stage].seconds(sum(read.values()) / costs.MB)
            memory = costs.analysis_memory(read)
            found = Predicted(constant, 1.0, costs.CORE.spread, costs.CORE.basis, disk, disk, memory, rounded(memory))
        if job.stage in self.factors and found.constant is not None:
            factor, spread, basis = self.factors[job.stage]
            found = replace(found, factor=factor, spread=spread, basis=basis)
        return found

    def _with_model(self, job: Job) -> Predicted:
        size, dtype = self.facts.size(job.model, job.checkpoint), self.study.models[job.model]["dtype"]
        disk = self.facts.disk(job)
        most = self.facts.most_disk(job) if job.stage == "contributions" else disk
        if size is None:
            return Predicted(disk=disk, most_disk=most)
        if job.stage == "train":
            recipe = recipe_of(self.study, job.model)
            assert recipe is not None  # or there would be no size
            constant = costs.seconds("train", size, costs.training_work(recipe), costs.CORE, dtype=dtype)
            memory = costs.training_memory(size, recipe)
            asked = self.resources.override(job.model, "mem_mb") or rounded(memory)
            return Predicted(constant, 1.0, costs.CORE.spread, costs.CORE.basis, disk, most, memory, asked)
        tasks = self.study.suites[job.suite]
        answers = sum((self.facts.answers(job.model, job.checkpoint, task) for task in tasks), NONE)
        gpus = self.resources.gpus(job.model, size, job.stage, answers)
        machine = self._machine(job.model, size, costs.GPU if gpus else costs.CORE)
        work = self.resources.work(job.stage, answers, size, job.variant)
        constant = costs.seconds(job.stage, size, work, machine, dtype=dtype)
        working = self.resources.working(job.model, size, job.stage, answers)
        memory = costs.host_memory(size, dtype=dtype, on_gpu=bool(gpus), working=working)
        asked = self.resources.override(job.model, "mem_mb") or rounded(memory)
        return Predicted(constant, 1.0, machine.spread, machine.basis, disk, most, memory, asked, gpus)

    def _machine(self, model: str, size: ModelSize, machine: costs.Machine) -> costs.Machine:
        speed = self.facts.doctor.get(model, {}).get("forward_speed")
        if not speed:
            return machine
        basis = f"the doctor's measure of {model} on {self.facts.doctor[model]['device']}"
        return replace(machine, flops=2 * size.active * speed, token=0.0, spread=2.0, basis=basis)
