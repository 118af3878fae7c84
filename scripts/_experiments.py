"""The experiments' configuration: read, checked against its schema, and spread out into what rules need.

As `_study`, known to the Snakefile and light, since every dry-run imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from _resources import rounded
from _study import StudyError, explain, with_defaults
from moemui.experiments.hypotheses import Hypothesis
from moemui.models import costs, model_size
from moemui.models.recipe import Recipe

USUAL = Path("config/experiments.yaml")  # a study that names no file has these, where they lie there
SCHEMA = Path(__file__).resolve().parent.parent / "config" / "schemas" / "experiments.schema.yaml"
TOLD = ("question", "paper", "outcome", "controls", "limits")


class Experiments:
    """Valid experiments with every default filled in. Raises StudyError for a mistake in them.

    names: in the order of the file; none where there is no file.
    """

    def __init__(self, config: Mapping[str, Any], schema: Path = SCHEMA):
        rules = yaml.safe_load(schema.read_text())
        errors = sorted(Draft202012Validator(rules).iter_errors(config), key=lambda e: [str(p) for p in e.path])
        if errors:
            raise StudyError("; ".join(explain(error) for error in errors[:3]))
        self._written = config  # fingerprints are of what somebody wrote, so a new default changes none
        self.config = with_defaults(config, rules, rules)
        self.names = list(self.config["experiments"])
        for name in self.names:
            self._check(name)
        for name in self.config["cohorts"]:
            self._check_cohort(name)

    @classmethod
    def read(cls, path: Path) -> Experiments:
        """Those of a file. No experiments where `USUAL` is missing, which a study need not have."""
        if path == USUAL and not path.is_file():
            return _none()
        try:
            config = yaml.safe_load(path.read_text())
        except OSError:
            raise StudyError(f"experiments: found {str(path)!r}; there is no such file") from None
        except yaml.YAMLError as error:
            raise StudyError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
        try:
            return cls(config if config is not None else {})
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from None

    def __getitem__(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.config["experiments"][name]
        return found

    @property
    def measure(self) -> dict[str, Any]:
        """How neurons are read, and samples of a task."""
        found: dict[str, Any] = self.config["measure"]
        return found

    def cohorts(self, name: str) -> dict[str, dict[str, Any]]:
        """The cohorts of an experiment, each with its `training` and `tasks`, as moemui.experiments takes them."""
        return {cohort: self.config["cohorts"][cohort] for cohort in self[name]["cohorts"]}

    def used(self) -> list[tuple[str, int]]:
        """Every cohort and seed that some experiment needs."""
        return sorted({(c, seed) for name in self.names for c in self[name]["cohorts"] for seed in self[name]["seeds"]})

    def recipe(self, cohort: str, seed: int) -> dict[str, Any]:
        """The recipe of a cohort's model of one seed."""
        return {**self.config["cohorts"][cohort]["training"], "seed": seed}

    def tasks(self, cohort: str) -> dict[str, int]:
        """The tasks of a cohort with the step at which each begins."""
        found: dict[str, int] = self.config["cohorts"][cohort]["tasks"]
        return found

    def plan(self, name: str) -> dict[str, Any]:
        """What was written about an experiment before it ran, for judge and page: plain values."""
        entry = self[name]
        return {
            **{key: entry[key] for key in TOLD},
            **{key: entry[key] for key in ("seeds", "settings", "hypotheses")},
            "cohorts": self.cohorts(name),
            "measure": self.measure,
            "registered": self._written["experiments"][name]["hypotheses"],
        }

    def training(self) -> dict[str, Callable[..., int]]:
        """What a job that trains a cohort's model asks of a cluster."""

        def recipe(wildcards: Any) -> Recipe:
            return Recipe.from_mapping(self.recipe(wildcards.cohort, int(wildcards.seed)))

        def mem_mb(wildcards: Any, attempt: int) -> int:
            own = recipe(wildcards)
            return rounded(costs.training_memory(model_size.of_recipe(own), own)) * attempt

        def runtime(wildcards: Any, attempt: int) -> int:
            own = recipe(wildcards)
            work = costs.training_work(own)
            expected = costs.seconds("train", model_size.of_recipe(own), work, costs.CORE, dtype="float32")
            return max(10, round(costs.CORE.spread * expected / 60)) * attempt

        return {"mem_mb": mem_mb, "runtime": runtime}

    def measuring(self) -> dict[str, Callable[..., int]]:
        """What a job that measures an experiment on one seed asks of a cluster."""

        def asked(key: str) -> Callable[..., int]:
            return lambda wildcards, attempt: self[wildcards.experiment]["resources"][key] * attempt

        return {key: asked(key) for key in ("mem_mb", "runtime")}

    def _check(self, name: str) -> None:
        entry, where = self[name], f"experiments.{name}"
        for cohort in entry["cohorts"]:
            if cohort not in self.config["cohorts"]:
                raise StudyError(f"{where}.cohorts: found {cohort!r}; allowed are {sorted(self.config['cohorts'])}")
        try:
            found = [Hypothesis.from_mapping(*item) for item in entry["hypotheses"].items()]
        except ValueError as error:
            raise StudyError(f"{where}.hypotheses: {error}") from None
        primary = [hypothesis.name for hypothesis in found if hypothesis.primary]
        if len(primary) != 1:
            raise StudyError(f"{where}.hypotheses: found {len(primary)} with primary: true; exactly one is the primary")

    def _check_cohort(self, name: str) -> None:
        if "seed" in self.config["cohorts"][name]["training"]:
            raise StudyError(f"cohorts.{name}.training: found a seed; the seeds of experiments are those of training")
        try:
            Recipe.from_mapping(self.recipe(name, 0))
        except (ValueError, TypeError) as error:
            raise StudyError(f"cohorts.{name}.training: {error}") from None


def _none() -> Experiments:
    empty = object.__new__(Experiments)
    empty.config, empty.names = {"measure": {}, "cohorts": {}, "experiments": {}}, []
    return empty
