"""Training trajectories (SPEC section 8): the phase of each step between consecutive checkpoints.

A step counts only outside the noise band. Both changes are taken over the samples that both checkpoints answered, in
pairs: accuracy by `intervals.paired_proportions`, which keeps a width where hardly any answer changed; MUI by the
jackknife of `differences`, since the union of a resample, which holds fewer distinct samples, is biased low.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moemui.key_neurons.files import KeyNeurons, Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.mui import differences
from moemui.mui.utilization import common_samples
from moemui.statistics import intervals
from moemui.statistics.intervals import Change
from moemui.tables import dynamics as tables
from moemui.tables.columns import SETTING_KEY

MEAN = "mean"
FLAT = "Flat"
FEWEST_GRADED = 10  # of fewer answers an interval says next to nothing, and a mean would carry it
UNTRAINED = "leaves the untrained checkpoint, whose MUI is an artefact of initialisation"
# (performance rises, MUI rises) → phase
PHASES = {
    (True, True): "Accumulating",
    (True, False): "Evolving",
    (False, True): "Coarsening",
    (False, False): "Collapsing",
}
STEP = ("from_checkpoint", "to_checkpoint", "from_order", "to_order")

UNKNOWN = Change(np.nan, np.nan, np.nan)


def phase(*, accuracy: Change, mui: Change) -> str:
    """Phase of a step: Accumulating, Evolving, Coarsening, Collapsing, or Flat where an interval contains 0.

    The interval's ends belong to it. Empty where one of the changes is not known.
    """
    if not (accuracy.known and mui.known):
        return ""
    if any(change.low <= 0 <= change.high for change in (accuracy, mui)):
        return FLAT
    return PHASES[accuracy.estimate > 0, mui.estimate > 0]


class Cell(NamedTuple):
    """One task at one checkpoint, with the checkpoint's place in training order and the tokens seen (None: unknown)."""

    key_neurons: KeyNeurons
    order: int
    tokens: float | None


class Course(NamedTuple):
    """A model's cells in training order.

    checkpoints: name by order, ascending. untrained: orders of checkpoints with 0 tokens. tasks: by task (sorted) and
    order. common_m: the m at which the model's cells are compared (`utilization.common_samples`), None without samples.
    """

    model: str
    checkpoints: dict[int, str]
    untrained: frozenset[int]
    tasks: dict[str, dict[int, KeyNeurons]]
    common_m: int | None


def courses(*, cells: Iterable[Cell], variant: str) -> list[Course]:
    """The cells of one variant of scoring options, by model.

    Raises ValueError for two checkpoints of one order, two cells of one checkpoint and task, or a task named `mean`.
    """
    models: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.key_neurons.variant == variant:
            models.setdefault(cell.key_neurons.model, []).append(cell)
    return [_course(model, own) for model, own in models.items()]


def _course(model: str, cells: list[Cell]) -> Course:
    checkpoints: dict[int, str] = {}
    tasks: dict[str, dict[int, KeyNeurons]] = {}
    for file, order, _ in sorted(cells, key=lambda cell: (cell.order, cell.key_neurons.task)):
        if checkpoints.setdefault(order, file.checkpoint) != file.checkpoint:
            raise ValueError(f"{model}: two checkpoints have the same order; each needs its own place in training")
        if file.task == MEAN:
            raise ValueError(f"a task is named {MEAN!r}, which stands for the mean over tasks; rename it")
        if order in tasks.setdefault(file.task, {}):
            raise ValueError(f"{model} {file.checkpoint} {file.task}: given twice; give each cell once")
        tasks[file.task][order] = file
    common_m = common_samples(cell.key_neurons.samples.n for cell in cells)
    untrained = frozenset(cell.order for cell in cells if cell.tokens == 0)
    return Course(model, checkpoints, untrained, dict(sorted(tasks.items())), common_m)


def paired_differences(*, before: Samples, after: Samples) -> np.ndarray:
    """Correct after − correct before, −1, 0 or 1, of the samples graded in both: float64, (samples,), by id."""
    common, first, second = np.intersect1d(before.id, after.id, return_indices=True)
    was, now = before.correct[first].astype(float), after.correct[second].astype(float)
    return (now - was)[(was >= 0) & (now >= 0)] if len(common) else np.empty(0)


class _Step(NamedTuple):
    """One task's step, or the mean's: graded samples, the two changes, the m of MUI, and why something is missing."""

    n_samples: int
    accuracy: Change
    mui: differences.Difference | None
    common_m: int | None
    notes: tuple[str, ...]

    @property
    def d_mui(self) -> Change:
        return UNKNOWN if self.mui is None else self.mui.change

    @property
    def known(self) -> bool:
        return self.accuracy.known and self.d_mui.known


def _step(files: tuple[KeyNeurons, KeyNeurons], sets: tuple[KeySets, KeySets], m: int | None) -> _Step:
    answers = paired_differences(before=files[0].samples, after=files[1].samples)
    accuracy, note = _accuracy_change(answers)
    mui, reason = _mui_change(files, sets, m)
    return _Step(len(answers), accuracy, mui, m if mui else None, tuple(filter(None, (note, reason))))


def _accuracy_change(answers: np.ndarray) -> tuple[Change, str]:
    n = len(answers)
    if n == 0:
        return UNKNOWN, "no sample is graded at both checkpoints"
    mean = float(answers.mean())
    if n < FEWEST_GRADED:
        few = f"graded at both checkpoints: {n}, fewer than {FEWEST_GRADED}"
        return Change(mean, np.nan, np.nan), f"{few}, so the change of accuracy has no interval"
    return Change(mean, *intervals.paired_proportions(differences=answers)), ""


def _mui_change(
    files: tuple[KeyNeurons, KeyNeurons], sets: tuple[KeySets, KeySets], m: int | None
) -> tuple[differences.Difference | None, str]:
    """The change of MUI at m, without an interval where fewer than 2·m samples are common, and the reason why."""
    aligned = differences.aligned(cells=[(file.samples.id, own) for file, own in zip(files, sets, strict=True)])
    if aligned is None or m is None:
        return None, "fewer than two samples are at both checkpoints, so the change of MUI has no interval"
    n = len(aligned.ids)
    few = f"samples at both checkpoints: {n}, fewer than 2 · {m}"
    if n < m:
        return None, f"{few}, so MUI is not comparable"
    paired = differences.paired_mui(cells=aligned.sets, n_neurons=[file.geometry.neurons for file in files], m=m)
    mui = differences.difference(paired=paired, before=0, after=1)
    if n < 2 * m:
        gap = np.nan
        alone = mui._replace(change=Change(mui.change.estimate, gap, gap), standard_error=gap, p=gap)
        return alone, f"{few}, so the change of MUI has no interval"
    known = mui.change.known
    return mui, "" if known else "the change of MUI is the same without any one sample, so it has no interval"


def _mean(steps: Mapping[str, _Step]) -> _Step:
    """Mean over tasks, which are independent: of each change over the tasks in which it has an interval."""
    graded = {task: step for task, step in steps.items() if step.accuracy.known}
    moved = {task: step.mui for task, step in steps.items() if step.mui is not None and step.d_mui.known}
    accuracy, mui, common_m = UNKNOWN, None, None
    if graded:
        accuracy = intervals.mean_of_changes(changes=[step.accuracy for step in graded.values()])
    if moved:
        mui = differences.mean_difference(differences=list(moved.values()))
        common_m = next(steps[task].common_m for task in moved)
    n = sum(step.n_samples for step in graded.values())
    return _Step(n, accuracy, mui, common_m, tuple(_gaps(list(steps), set(graded), set(moved))))


def _gaps(tasks: Sequence[str], graded: set[str], moved: set[str]) -> list[str]:
    """Which tasks a mean leaves out, and of how many its changes and its phase are."""
    if not graded and not moved:
        return ["no task has a change with an interval"]
    if graded == moved:
        return [f"without {task}" for task in tasks if task not in graded]
    notes = []
    for name, known in (("d_accuracy", graded), ("d_mui", moved)):
        without = [task for task in tasks if task not in known]
        notes += [f"{name} over {len(known)} of {len(tasks)} tasks, without {', '.join(without)}"] if without else []
    both = len(graded & moved)
    return [*notes, f"the phase is that of the {both} with both changes" if both else "no task has both changes"]


def rows(*, cells: Iterable[Cell], settings: Sequence[Setting]) -> pd.DataFrame:
    """The table `phases`: for each model and setting, each step between consecutive checkpoints, per task and mean.

    A task absent at one of the two checkpoints has no row for the step and is not in the mean. MUI is compared at the m
    common to the model's cells; its change has no interval where both checkpoints have fewer than 2·m samples, nor has
    that of accuracy with fewer than 10 graded ones. The mean of each change is over the tasks in which it has an
    interval, the mean's phase that of the tasks with both; a note names those left out. The step that leaves the
    untrained checkpoint (0 tokens) keeps its differences but has no phase. A single checkpoint gives no rows. Key sets
    of two checkpoints of one task are in memory at a time. Raises ValueError as `courses`.
    """
    opened = list(cells)
    records: list[dict[str, Any]] = []
    for setting in settings:
        for course in courses(cells=opened, variant=setting.variant):
            pairs = list(itertools.pairwise(course.checkpoints))
            steps: dict[tuple[int, int], dict[str, _Step]] = {pair: {} for pair in pairs}
            for task, files in course.tasks.items():
                earlier: tuple[int, KeySets] | None = None
                for before, after in pairs:
                    if before not in files or after not in files:
                        continue
                    known = earlier is not None and earlier[0] == before
                    first = earlier[1] if earlier is not None and known else files[before].sets(*setting)
                    earlier = after, files[after].sets(*setting)
                    steps[before, after][task] = _step(
                        (files[before], files[after]), (first, earlier[1]), course.common_m
                    )
            for (before, after), found in steps.items():
                if not found:
                    continue
                step = dict(
                    zip(STEP, (course.checkpoints[before], course.checkpoints[after], before, after), strict=True)
                )
                identity = {"model": course.model, **setting._asdict(), **step}
                records += _records(identity, found, before in course.untrained)
    return tables.PHASES.frame(records)


def _records(identity: dict[str, Any], steps: Mapping[str, _Step], untrained: bool) -> list[dict[str, Any]]:
    everything = {**steps, MEAN: _mean(steps)}
    # a phase from the accuracy of some tasks and the MUI of others would be that of none of them
    compared = {**steps, MEAN: _mean({task: step for task, step in steps.items() if step.known})}
    phases = {
        task: "" if untrained else phase(accuracy=step.accuracy, mui=step.d_mui) for task, step in compared.items()
    }
    records = []
    for task, step in everything.items():
        notes = [*step.notes, UNTRAINED] if untrained else step.notes
        comparable = task != MEAN and phases[task] and phases[MEAN]
        records.append(
            {
                **identity,
                "task": task,
                "n_samples": step.n_samples,
                **dict(zip(("d_accuracy", "d_accuracy_low", "d_accuracy_high"), step.accuracy, strict=True)),
                "common_m": step.common_m,
                **dict(zip(("d_mui", "d_mui_low", "d_mui_high"), step.d_mui, strict=True)),
                "phase": phases[task],
                "differs_from_mean": phases[task] != phases[MEAN] if comparable else None,
                "note": "; ".join(notes),
            }
        )
    return records


def divergence(*, phases: pd.DataFrame) -> pd.DataFrame:
    """The table `phase_divergence` from rows of the table `phases`: which tasks a mean over tasks hides, by step.

    A task that is Flat differs from a mean that is not, and the other way round. A mean masks tasks where at least one
    is Accumulating and one Evolving: they use more of the model and less, and both get better. Steps without any phase
    keep their row, with a note.
    """
    accumulating, evolving = PHASES[True, True], PHASES[True, False]
    records = []
    for (model, *rest), group in phases.groupby(["model", *SETTING_KEY, *STEP], sort=False):
        own, mean = group[group["task"] != MEAN], group[group["task"] == MEAN].iloc[0]
        own = own[own["phase"] != ""]
        differing = own[own["phase"] != mean["phase"]] if mean["phase"] else own.iloc[:0]
        found = set(own["phase"])
        records.append(
            {
                "model": model,
                **dict(zip((*SETTING_KEY, *STEP), rest, strict=True)),
                "mean_phase": mean["phase"],
                "n_tasks": len(own),
                "n_agree": len(own) - len(differing) if mean["phase"] else None,
                "n_differ": len(differing) if mean["phase"] else None,
                "n_flat": int((own["phase"] == FLAT).sum()),
                "differing": "; ".join(f"{row['task']}={row['phase']}" for _, row in differing.iterrows()),
                "mean_masks": {accumulating, evolving} <= found if found else None,
                "note": mean["note"],
            }
        )
    return tables.PHASE_DIVERGENCE.frame(records)
