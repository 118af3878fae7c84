"""What every experiment is given: the trained models of one seed, and how they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moemui.experiments.probe import Probe, Reading
from moemui.models import synthetic
from moemui.models.checkpoints import snapshot_name
from moemui.models.recipe import Recipe
from moemui.models.synthetic import Example
from moemui.models.training import examples_for
from moemui.progress import Progress, silent
from moemui.tables import table as tables
from moemui.tables.training import TRAINING


@dataclass(frozen=True)
class Cohort:
    """One training run: models that differ in nothing but how far they are trained.

    folder: of its snapshots (`step-00050/` …). tasks: name → first step that may hold it. tokens: seen by each step
    that was saved.
    """

    name: str
    folder: Path
    recipe: Recipe
    tasks: Mapping[str, int]
    tokens: Mapping[int, int]

    @classmethod
    def read(cls, name: str, folder: Path, history: Path, cohort: Mapping[str, Any], seed: int) -> Cohort:
        """From the snapshots and the history that training left. cohort: the config's `training` and `tasks`."""
        recipe = Recipe.from_mapping({**cohort["training"], "seed": seed})
        seen = tables.read(history, TRAINING).set_index("step")["tokens"]
        tokens = {step: int(seen[step]) if step else 0 for step in recipe.save_steps}
        return cls(name, folder, recipe, dict(cohort["tasks"]), tokens)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps whose weights were kept, ascending."""
        return self.recipe.save_steps

    def snapshot(self, step: int) -> Path:
        """The checkpoint folder of a step."""
        return self.folder / snapshot_name(step)

    def probe(self, step: int, reading: Reading) -> Probe:
        """The model of a step, ready to be asked."""
        return Probe.of(self.snapshot(step), reading)

    @cached_property
    def seen(self) -> dict[str, list[Example]]:
        """The different examples that the run was trained on, by task, in the order of their first use."""
        found: dict[str, dict[str, Example]] = {task: {} for task in self.tasks}
        for example in examples_for(self.recipe, self.tasks):
            found[example.task].setdefault(example.prompt, example)
        return {task: list(examples.values()) for task, examples in found.items()}

    def held_out(self, task: str, n: int, seed: int = 0) -> list[Example]:
        """n different examples of a task that no model is trained on; the same for all seeds of training."""
        return synthetic.held_out(task, n, seed)


@dataclass(frozen=True)
class Setup:
    """The cohorts of one seed by name, and how their models are asked.

    samples: held-out examples of a task that a measurement rests on.
    """

    cohorts: Mapping[str, Cohort]
    seed: int
    samples: int
    reading: Reading
    progress: Progress = silent
