"""Measures `task_phases`: every task's course through one training run, its phases and its change points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moemui.experiments.courses import Halves, Point, course, disjoint_halves, only_cohort
from moemui.experiments.measurements import Measured
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.task_phases import ANSWERS, FLAT, PHASES, QUANTITIES, TOKENS, Settings, half_arm
from moemui.key_neurons.files import KeyNeurons, Samples
from moemui.key_neurons.key_sets import KeySets
from moemui.key_neurons.settings import Setting
from moemui.models.training import one_thread
from moemui.mui import change_points, dynamics
from moemui.mui.dynamics import MEAN, Cell
from moemui.mui.utilization import common_samples
from moemui.statistics import intervals
from moemui.statistics.intervals import Change

Courses = Mapping[str, Mapping[int, Point]]


@dataclass(frozen=True)
class _Held(KeyNeurons):
    """A key neuron file that was never written: the same record with its one setting's sets beside it."""

    key_sets: KeySets = field(kw_only=True)

    def sets(self, *setting: Any) -> KeySets:
        return self.key_sets


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """All quantities of `moemui.experiments.task_phases` on one seed, as the table of measurements.

    Raises ValueError unless there is one cohort, with at least two trained steps.
    """
    cohort = only_cohort(setup)
    trained = [step for step in cohort.steps if step > 0]
    if len(trained) < 2:
        raise ValueError(f"cohort {cohort.name} keeps the steps {list(cohort.steps)}; phases take two trained ones")
    with one_thread():
        found = course(setup, cohort, settings.samples)
    measured = Measured("task_phases", setup.seed, QUANTITIES)
    setting = Setting(setup.reading.formulation, setup.reading.selection, setup.reading.threshold)
    halves = disjoint_halves(settings.samples, settings.splits, setup.seed)
    for task, start in cohort.tasks.items():
        measured.add("start", start, task=task)
    _courses(measured, cohort, found)

    def phases_of(mask: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The table `phases`, and the phases by exact answers and by tokens, on some of the samples."""
        table = dynamics.rows(cells=_cells(cohort, found, setting, mask), settings=[setting])
        by_tokens = _told_by_tokens(table, found, mask, setup.seed, settings.resamples)
        return table, _begun(_told(table), cohort), _begun(by_tokens, cohort)

    everything = np.ones(settings.samples, dtype=bool)
    table, *told = phases_of(everything)
    _changes(measured, cohort, table)
    splits = [[phases_of(mask)[1:] for mask in split] for split in halves]
    for number, arm in enumerate((ANSWERS, TOKENS)):
        _add_phases(measured, cohort, arm, told[number])
        _add_noise(measured, cohort, arm, [(one[number], other[number]) for one, other in splits])
    begun = {
        task: {step: point for step, point in points.items() if step > cohort.tasks[task]}
        for task, points in found.items()
    }
    cells = _cells(cohort, begun, setting, everything)
    _change_points(measured, cohort, cells, setting, setup.seed, settings.resamples)
    _change_points_of_halves(measured, cohort, begun, halves)
    return measured.frame()


def _cells(cohort: Cohort, found: Courses, setting: Setting, mask: np.ndarray) -> list[Cell]:
    """The course as the project's dynamics take it. mask: which samples count."""
    cells = []
    for task, points in found.items():
        for step, (answers, needed) in points.items():
            number = np.flatnonzero(mask)
            unread = np.zeros(len(number), dtype=np.int32)  # dynamics asks for no tokens
            samples = Samples(
                id=number.astype(str).astype(object),
                domain=np.full(len(number), task, dtype=object),
                correct=answers.exact[mask].astype(np.int8),
                response_tokens=unread,
            )
            held = _Held(
                path=Path(),
                model=cohort.name,
                checkpoint=str(step),
                task=task,
                geometry=needed.geometry,
                samples=samples,
                variant=setting.variant,
                settings=(setting,),
                incomplete={setting: 0},
                routed_tokens=unread,
                options={},
                key_sets=needed.sets.subset(mask),
            )
            cells.append(Cell(held, cohort.steps.index(step), float(step)))
    return cells


def _at(cohort: Cohort, step: int) -> dict[str, Any]:
    return {"step": step, "tokens": cohort.tokens[step]}


def _courses(measured: Measured, cohort: Cohort, found: Courses) -> None:
    for step in cohort.steps:
        points = {task: own[step] for task, own in found.items()}
        m = common_samples(len(point.answers.exact) for point in points.values())
        values = {
            "accuracy": {task: point.answers.accuracy for task, point in points.items()},
            "token_accuracy": {task: float(point.answers.token_accuracy.mean()) for task, point in points.items()},
            "mui": {task: point.needed.mui(m) for task, point in points.items()},
        }
        for quantity, by_task in values.items():
            for task, value in {**by_task, "": float(np.mean(list(by_task.values())))}.items():
                measured.add(quantity, value, task=task, **_at(cohort, step))


def _changes(measured: Measured, cohort: Cohort, phases: pd.DataFrame) -> None:
    """From the table `phases`, of the steps that leave a trained checkpoint."""
    for _, row in phases[phases["from_checkpoint"] != "0"].iterrows():
        task, at = "" if row["task"] == MEAN else row["task"], _at(cohort, int(row["to_checkpoint"]))
        measured.add("accuracy_change", row["d_accuracy"], task=task, note=row["note"], **at)
        measured.add("mui_change", row["d_mui"], task=task, note=row["note"], **at)


def _told(phases: pd.DataFrame) -> pd.DataFrame:
    """The phases of the table `phases` by the step's end (rows) and task or mean (columns); missing for none."""
    known = phases[phases["phase"] != ""]
    return known.assign(step=known["to_checkpoint"].astype(int)).pivot(index="step", columns="task", values="phase")


def _told_by_tokens(phases: pd.DataFrame, found: Courses, mask: np.ndarray, seed: int, resamples: int) -> pd.DataFrame:
    """The same with the share of right tokens as performance: its change has the paired bootstrap's interval."""
    told: dict[int, dict[str, str]] = {}
    known = phases[phases["phase"] != ""]
    for after, rows in known.groupby("to_checkpoint", sort=False):
        ends_at, begins_at = int(str(after)), int(rows["from_checkpoint"].iloc[0])
        mui = {row["task"]: Change(row["d_mui"], row["d_mui_low"], row["d_mui_high"]) for _, row in rows.iterrows()}
        performance = {}
        for task in [task for task in mui if task != MEAN]:
            was, now = (found[task][step].answers.token_accuracy[mask] for step in (begins_at, ends_at))
            ends = intervals.mean_interval(values=now - was, seed=seed, resamples=resamples)
            performance[task] = Change(float((now - was).mean()), *ends)
        performance[MEAN] = intervals.mean_of_changes(changes=list(performance.values()))
        told[ends_at] = {task: dynamics.phase(accuracy=performance[task], mui=mui[task]) for task in mui}
    return pd.DataFrame.from_dict(told, orient="index")


def _begun(told: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Phases without the steps that leave a checkpoint not trained on the task: MUI there is an artefact, too."""
    before = {step: earlier for earlier, step in itertools.pairwise(cohort.steps)}
    starts = [cohort.tasks.get(str(task), -1) for task in told.columns]
    return told.where(np.greater.outer([before[int(str(step))] for step in told.index], starts))


def _add_phases(measured: Measured, cohort: Cohort, arm: str, told: pd.DataFrame) -> None:
    for step, row in told.iterrows():
        at = _at(cohort, int(str(step)))
        phases = row.dropna()
        tasks = phases.drop(MEAN, errors="ignore")
        for name in PHASES:
            for task, phase in phases.items():
                task = "" if task == MEAN else str(task)
                measured.add("in_phase", float(phase == name), arm=arm, task=task, part=name, **at)
            measured.add("tasks_in_phase", float((tasks == name).mean()), arm=arm, part=name, **at)


def _add_noise(
    measured: Measured, cohort: Cohort, arm: str, splits: Sequence[tuple[pd.DataFrame, pd.DataFrame]]
) -> None:
    """How often a step has halves of one task, and of two, in different named phases; mean over splits."""
    for step in [step for step in cohort.steps if step > 0][1:]:
        known = [
            _differ(*(told.T[step].drop(MEAN, errors="ignore").dropna() for told in halves))
            for halves in splits
            if all(step in told.index for told in halves)
        ]
        shares = np.array([differ for differ in known if differ is not None])
        note = "" if len(shares) else "no task has a phase on halves of the samples"
        for number, quantity in enumerate(("halves_differ", "tasks_differ")):
            share = float(shares[:, number].mean()) if len(shares) else float("nan")
            measured.add(quantity, share, arm=arm, note=note, **_at(cohort, step))


def _differ(first: pd.Series, second: pd.Series) -> tuple[float, float] | None:
    """Whether a task's phases on two halves are named and differ, and how often one's and another task's do.

    Both are of as many pairs of halves: n tasks in a circle, and each with itself, or with the one s places on; mean
    over s from 1 to n − 1, 0 for one task. None without a task that has a phase on both. first, second: by task.
    """
    tasks = first.index.intersection(second.index).sort_values()
    one, other = (own[tasks].to_numpy() for own in (first, second))
    shifted = [np.roll(other, -places) for places in range(len(tasks))]
    differ = [float(((one != own) & (one != FLAT) & (own != FLAT)).any()) for own in shifted]
    return (differ[0], float(np.mean(differ[1:] or [0.0]))) if differ else None


def _change_points(
    measured: Measured, cohort: Cohort, cells: Sequence[Cell], setting: Setting, seed: int, resamples: int
) -> None:
    """From the table `change_points`, of every task; cells: of the checkpoints that were trained on it."""
    trained, at = [step for step in cohort.steps if step > 0], _at(cohort, cohort.steps[-1])
    rows = change_points.rows(cells=cells, settings=[setting], seed=seed, resamples=resamples)
    for _, row in rows[rows["task"] != MEAN].iterrows():
        where: dict[str, Any] = {**at, "task": row["task"], "note": row["note"]}
        name, sought = row["measure"], bool(row["change_checkpoint"])
        step = int(row["change_checkpoint"]) if sought else 0
        measured.add(f"{name}_change_point", trained.index(step) if sought else float("nan"), **where)
        measured.add(f"{name}_change_step", step if sought else float("nan"), **where)
        measured.add(f"{name}_straight", row["p_no_change"], **where)
        if name == "mui":
            measured.add("mui_slope_before", row["slope_before"], **where)
            measured.add("mui_slope_after", row["slope_after"], **where)
    for task in sorted(set(cohort.tasks) - set(rows["task"])):
        for quantity in ("mui_change_point", "accuracy_change_point"):
            measured.add(quantity, float("nan"), task=task, note="no checkpoint was trained on the task", **at)


def _change_points_of_halves(measured: Measured, cohort: Cohort, found: Courses, halves: Sequence[Halves]) -> None:
    """Where the trajectories of each half of each task turn; nothing of a task with too few checkpoints for it.

    found: the checkpoints that were trained on the task. Positions are numbers of the run's trained checkpoints.
    """
    trained, at = [step for step in cohort.steps if step > 0], _at(cohort, cohort.steps[-1])
    m = common_samples([int(halves[0][0].sum())])
    for split, masks in enumerate(halves):
        for half, mask in enumerate(masks):
            for task, points in found.items():
                if len(points) < change_points.FEWEST:
                    continue
                own, before = list(points.values()), trained.index(min(points))
                courses = {
                    "mui": [replace(point.needed, sets=point.needed.sets.subset(mask)).mui(m) for point in own],
                    "accuracy": [float(point.answers.exact[mask].mean()) for point in own],
                }
                for name, values in courses.items():
                    position = change_points.turn(values=np.array(values)).position
                    measured.add(f"{name}_change_point", before + position, arm=half_arm(split, half), task=task, **at)
