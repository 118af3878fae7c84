"""Measures the experiment `shared_load`: each family untrained and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from moemui.experiments.matched_families import check_families, other_examples
from moemui.experiments.measurements import Measured
from moemui.experiments.probe import Needed, Probe, Reading
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.shared_load import NAME, QUANTITIES, ROUTED, SHARED, TOTAL, Settings
from moemui.experts import enrichment
from moemui.experts.key_experts import activity, frequency, key_experts
from moemui.geometry import Geometry
from moemui.models.training import one_thread
from moemui.scores.contributions import Options

GAP, NO_SHARED = float("nan"), "no shared experts"


class Unweighted(Reading):
    """A reading that leaves the router's weights out of scores."""

    @property
    def options(self) -> Options:
        return replace(super().options, gate_weighting=False)

    @classmethod
    def of(cls, reading: Reading) -> Unweighted:
        """The same as another reading but for the weights."""
        return cls(**{knob.name: getattr(reading, knob.name) for knob in fields(reading)})


@dataclass(frozen=True)
class _Place:
    """Where a measurement belongs: a family at a step."""

    measured: Measured
    arm: str
    step: int
    tokens: float

    def add(self, quantity: str, value: float, *, task: str = "", part: str = TOTAL) -> None:
        """A NaN is one of shared experts where there are none."""
        note = NO_SHARED if np.isnan(value) else ""
        self.measured.add(
            quantity, value, arm=self.arm, step=self.step, tokens=self.tokens, task=task, part=part, note=note
        )

    def add_all(self, quantity: str, by_task: Mapping[str, float], *, part: str = TOTAL) -> None:
        """Every task's value, and their mean."""
        for task, value in by_task.items():
            self.add(quantity, value, task=task, part=part)
        self.add(quantity, float(np.mean(list(by_task.values()))), part=part)


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """Accuracy at every step, and all quantities at step 0, where accuracies match, and at the last step.

    Steps are matched on `setup.samples` held-out examples of each task; accuracies left there are measured on others.
    Raises ValueError for cohorts that differ in more than the shared width, or that kept no untrained model, and as
    `other_examples`.
    """
    check_families([cohort.recipe for cohort in setup.cohorts.values()])
    measured = Measured(NAME, setup.seed, QUANTITIES)
    for cohort in setup.cohorts.values():
        if cohort.steps[0] != 0 or len(cohort.steps) < 2:
            raise ValueError(
                f"cohort {cohort.name} kept steps {list(cohort.steps)}; put 0, the untrained model, and a later one "
                "among its save_steps"
            )
    places = {
        (name, step): _Place(measured, name, step, cohort.tokens[step])
        for name, cohort in setup.cohorts.items()
        for step in cohort.steps
    }
    accuracy: dict[str, dict[int, float]] = {name: {} for name in setup.cohorts}
    total = len(places) + 3 * len(accuracy)
    with one_thread():
        for done, ((name, step), place) in enumerate(places.items(), start=1):
            accuracy[name][step] = _answer(place, setup.cohorts[name], setup)
            setup.progress(done, total)
        done = len(places)
        for name, matched in matched_steps(accuracy).items():
            cohort = setup.cohorts[name]
            places[name, matched].add("matched", 1)
            probe = cohort.probe(matched, setup.reading)
            others = {
                task: other_examples(task, cohort.held_out(task, setup.samples), settings.checking_samples)
                for task in cohort.tasks
            }
            checked = {task: probe.answer(those).accuracy for task, those in others.items()}
            places[name, matched].add_all("accuracy_other_samples", checked)
            for step in sorted({0, matched, cohort.steps[-1]}):
                _measure(places[name, step], cohort, setup, settings)
            setup.progress(done := done + 3, total)
    for cohort in setup.cohorts.values():
        width = 100 * cohort.recipe.shared_experts / settings.reference_experts
        measured.add("shared_width", width, arm=cohort.name)
    return measured.frame()


def matched_steps(accuracy: Mapping[str, Mapping[int, float]]) -> dict[str, int]:
    """arm → the step whose accuracy lies nearest the level, the highest that all arms reach; of equal ones the latest.

    accuracy: arm → step → mean accuracy.
    """
    level = min(max(steps.values()) for steps in accuracy.values())
    return {
        arm: min(steps, key=lambda step: (round(abs(steps[step] - level), 9), -step)) for arm, steps in accuracy.items()
    }


def _answer(place: _Place, cohort: Cohort, setup: Setup) -> float:
    """Measure how well a model answers; returns its mean accuracy over tasks."""
    probe = cohort.probe(place.step, setup.reading)
    answers = {task: probe.answer(cohort.held_out(task, setup.samples)) for task in cohort.tasks}
    accuracy = {task: answer.accuracy for task, answer in answers.items()}
    place.add_all("accuracy", accuracy)
    place.add_all("nll", {task: float(answer.nll.mean()) for task, answer in answers.items()})
    return float(np.mean(list(accuracy.values())))


def _measure(place: _Place, cohort: Cohort, setup: Setup, settings: Settings) -> None:
    probe = cohort.probe(place.step, setup.reading)
    unweighted = Probe(probe.model, probe.tokenizer, Unweighted.of(setup.reading))
    examples = {task: cohort.held_out(task, setup.samples) for task in cohort.tasks}
    geometry = probe.geometry
    needed = {task: probe.needed(those) for task, those in examples.items()}
    place.add("parameters", sum(weights.numel() for weights in probe.model.parameters()))
    shared = geometry.neuron_is_shared
    for part, neurons in ((TOTAL, None), (SHARED, shared), (ROUTED, ~shared)):
        place.add_all("mui", {task: each.mui(neurons=neurons) for task, each in needed.items()}, part=part)
    place.add_all("union_shared", {task: union_shared(each) for task, each in needed.items()})
    key = {task: _key(each, settings) for task, each in needed.items()}
    for part, experts in ((SHARED, geometry.expert_is_shared), (ROUTED, ~geometry.expert_is_shared)):
        shares = {task: float(each[experts].mean()) if experts.any() else GAP for task, each in key.items()}
        place.add_all("key_experts", shares, part=part)
    place.add("enrichment", _log_odds(enrichment.always_key(keys=list(key.values())), geometry))
    keys = [_key(unweighted.needed(those), settings) for those in examples.values()]
    place.add("enrichment_unweighted", _log_odds(enrichment.always_key(keys=keys), geometry))
    place.add("enrichment_highest", _log_odds(geometry.expert_is_shared, geometry))


def union_shared(needed: Needed) -> float:
    """Share of the union in shared experts; NaN where the model has none."""
    shared = needed.geometry.neuron_is_shared
    return float(shared[needed.sets.union()].mean()) if shared.any() else GAP


def _key(needed: Needed, settings: Settings) -> np.ndarray:
    """Key experts of a task: bool, (experts,)."""
    often = frequency(activity=activity(sets=needed.sets, geometry=needed.geometry))
    return key_experts(frequency=often, expert_threshold=settings.expert_threshold)


def _log_odds(key: np.ndarray, geometry: Geometry) -> float:
    """The corrected log odds ratio; NaN where the model has no shared experts."""
    shared = geometry.expert_is_shared
    if not shared.any():
        return GAP
    return enrichment.corrected_log_odds(**enrichment.cross_table(key=key, shared=shared))[0]
