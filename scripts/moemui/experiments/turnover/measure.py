"""Measures `turnover`: the sets of key neurons of every task along one training run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from moemui.experiments.courses import course, disjoint_halves, only_cohort
from moemui.experiments.measurements import Measured
from moemui.experiments.setup import Cohort, Setup
from moemui.experiments.turnover import BETWEEN, PER_STEPS, QUANTITIES, Settings
from moemui.geometry import Geometry
from moemui.models.training import one_thread

Unions = Mapping[tuple[str, int], np.ndarray]  # by task and step: masks, bool, (neurons,)


def common(one: np.ndarray, other: np.ndarray) -> float:
    """|A ∩ B|; sets as masks: bool, (neurons,)."""
    return float((one & other).sum())


def expected_common(one: np.ndarray, other: np.ndarray, widths: np.ndarray) -> float:
    """|A ∩ B| as it is expected where both are random sets of their size in every expert: Σ_e |A_e|·|B_e| / width_e.

    The mean of the hypergeometric distribution in each expert. widths: neurons of each expert, in the masks' order.
    """
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    return float(
        (np.add.reduceat(one, starts, dtype=float) * np.add.reduceat(other, starts, dtype=float) / widths).sum()
    )


def similarity(in_common: float, one: np.ndarray, other: np.ndarray) -> float:
    """|A ∩ B| / √(|A|·|B|), 0..1. Raises ValueError for an empty set."""
    sizes = float(one.sum()) * float(other.sum())
    if sizes == 0:
        raise ValueError("a set of key neurons is empty, so its similarity is not defined; give at least one sample")
    return in_common / float(np.sqrt(sizes))


def measure(setup: Setup, settings: Settings) -> pd.DataFrame:
    """All quantities of `moemui.experiments.turnover` on one seed, as the table of measurements.

    Raises ValueError unless there is one cohort, of two tasks and two saved steps or more, and 2 samples or more.
    """
    cohort = only_cohort(setup)
    if len(cohort.steps) < 2 or len(cohort.tasks) < 2:
        raise ValueError(
            f"cohort {cohort.name} has the tasks {', '.join(cohort.tasks)} and keeps the steps {list(cohort.steps)}; "
            "turnover takes two of each"
        )
    halves = disjoint_halves(setup.samples, settings.splits, setup.seed)
    with one_thread():
        found = course(setup, cohort, setup.samples)
    measured = Measured("turnover", setup.seed, QUANTITIES)
    points = {(task, step): point for task, own in found.items() for step, point in own.items()}
    geometry = next(iter(points.values())).needed.geometry
    for task, start in cohort.tasks.items():
        measured.add("start", start, task=task)
    for (task, step), point in points.items():
        measured.add("accuracy", point.answers.accuracy, task=task, step=step, tokens=cohort.tokens[step])

    def unions(mask: np.ndarray | None) -> Unions:
        return {where: point.needed.sets.incidence(geometry.neurons, mask) > 0 for where, point in points.items()}

    whole, split = unions(None), [(unions(one), unions(other)) for one, other in halves]
    for part, neurons, widths in _parts(geometry):
        _on_all_samples(measured, cohort, _within(whole, neurons, part), widths, part)
        own = [(_within(one, neurons, part), _within(other, neurons, part)) for one, other in split]
        _on_halves(measured, cohort, own, widths, part)
    return measured.frame()


def _parts(geometry: Geometry) -> Iterator[tuple[str, slice, np.ndarray]]:
    """The model and each of its MoE layers: name, its neurons, and the widths of its experts."""
    widths = np.diff(geometry.expert_offsets)
    yield "", slice(0, geometry.neurons), widths
    for place, layer in enumerate(geometry.layers):
        first, end = geometry.layer_offsets[place : place + 2]
        yield f"L{layer.index}", slice(int(first), int(end)), widths[geometry.expert_layer == place]


def _within(unions: Unions, neurons: slice, part: str) -> Unions:
    """The sets inside a part. Raises ValueError for an empty one: every layer has key neurons of every sample."""
    found = {where: mask[neurons] for where, mask in unions.items()}
    for (task, step), mask in found.items():
        if not mask.any():
            raise ValueError(
                f"task {task} has no key neuron in {part or 'any layer'} at step {step}, so no overlap is defined; "
                "look at what was scored there"
            )
    return found


def _pairs(cohort: Cohort) -> list[tuple[str, str]]:
    return list(itertools.combinations(sorted(cohort.tasks), 2))


def _add(measured: Measured, cohort: Cohort, quantity: str, by_task: Mapping[str, float], step: int, part: str) -> None:
    """A quantity of each task or pair, and its mean; of pairs only the mean in a single layer, for there are many."""
    known = [value for value in by_task.values() if np.isfinite(value)]
    shown = {task: value for task, value in by_task.items() if not part or BETWEEN not in task}
    for task, value in {**shown, "": float(np.mean(known)) if known else float("nan")}.items():
        note = "" if np.isfinite(value) else "halves of the samples have no neuron in common"
        measured.add(quantity, value, step=step, tokens=cohort.tokens[step], task=task, part=part, note=note)


def _on_all_samples(measured: Measured, cohort: Cohort, sets: Unions, widths: np.ndarray, part: str) -> None:
    """Sizes, survival and what tasks share, of the sets of all samples."""

    def share(one: np.ndarray, other: np.ndarray) -> float:
        return common(one, other) / float(one.sum())

    def share_by_chance(one: np.ndarray, other: np.ndarray) -> float:
        return expected_common(one, other, widths) / float(one.sum())

    def jaccard(one: np.ndarray, other: np.ndarray) -> float:
        return common(one, other) / float((one | other).sum())

    for before, step in zip((None, *cohort.steps[:-1]), cohort.steps, strict=True):
        now = {task: sets[task, step] for task in sorted(cohort.tasks)}
        found = {"union": {task: float(own.sum()) for task, own in now.items()}}
        for quantity, of in (("shared", share), ("shared_chance", share_by_chance), ("shared_jaccard", jaccard)):
            found[quantity] = {
                BETWEEN.join((a, b)): (of(now[a], now[b]) + of(now[b], now[a])) / 2 for a, b in _pairs(cohort)
            }
        if before is not None:
            for quantity, of in (("survival", share), ("survival_chance", share_by_chance), ("jaccard", jaccard)):
                found[quantity] = {task: of(sets[task, before], own) for task, own in now.items()}
        for quantity, by_task in found.items():
            _add(measured, cohort, quantity, by_task, step, part)


def _on_halves(
    measured: Measured, cohort: Cohort, splits: Sequence[tuple[Unions, Unions]], widths: np.ndarray, part: str
) -> None:
    """Similarities of sets of disjoint halves of the samples, and turnover from them."""

    def mean(a: tuple[str, int], b: tuple[str, int], in_common: Callable[[np.ndarray, np.ndarray], float]) -> float:
        """Over splits and over which of the halves is whose."""
        return float(
            np.mean(
                [
                    similarity(in_common(own[a], others[b]), own[a], others[b])
                    for split in splits
                    for own, others in (split, split[::-1])
                ]
            )
        )

    def by_chance(one: np.ndarray, other: np.ndarray) -> float:
        return expected_common(one, other, widths)

    tasks, pairs = sorted(cohort.tasks), _pairs(cohort)
    same: dict[str, float] = {}
    for before, step in zip((None, *cohort.steps[:-1]), cohort.steps, strict=True):
        earlier, same = same, {task: mean((task, step), (task, step), common) for task in tasks}
        found: dict[str, dict[str, float]] = {"similar_same": same}
        for quantity, of in (("similar_other", common), ("similar_other_chance", by_chance)):
            found[quantity] = {BETWEEN.join((a, b)): mean((a, step), (b, step), of) for a, b in pairs}
        if before is not None:
            for quantity, of in (("similar_next", common), ("similar_next_chance", by_chance)):
                found[quantity] = {task: mean((task, before), (task, step), of) for task in tasks}
            found["similar_other_next"] = {
                BETWEEN.join((a, b)): (mean((a, before), (b, step), common) + mean((b, before), (a, step), common)) / 2
                for a, b in pairs
            }
            found["retained"] = {
                task: _retained(found["similar_next"][task], earlier[task], same[task]) for task in tasks
            }
            per = PER_STEPS / (step - before)
            found["turnover"] = {task: 1 - kept**per for task, kept in found["retained"].items()}
        for quantity, by_task in found.items():
            _add(measured, cohort, quantity, by_task, step, part)


def _retained(across: float, before: float, now: float) -> float:
    """Similarity across two checkpoints over that at each of them; NaN where halves have nothing in common at one."""
    return across / float(np.sqrt(before * now)) if before * now else float("nan")
