"""The course of training, seen on the same samples of every task at every step that was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moemui.experiments.probe import Answers, Needed
from moemui.experiments.setup import Cohort, Setup

Halves = tuple[np.ndarray, np.ndarray]


class Point(NamedTuple):
    """One task at one step: how its samples are answered, and the neurons that these need, in the same order."""

    answers: Answers
    needed: Needed


def only_cohort(setup: Setup) -> Cohort:
    """The one training run that a course is of. Raises ValueError for none or several."""
    if len(setup.cohorts) != 1:
        raise ValueError(f"there are the cohorts {', '.join(setup.cohorts) or 'none'}; a course is of one, so name one")
    return next(iter(setup.cohorts.values()))


def course(setup: Setup, cohort: Cohort, n: int) -> Mapping[str, Mapping[int, Point]]:
    """Every task at every saved step, by task (sorted) and step (ascending).

    A task's samples are n held-out ones, drawn by the seed, so that an interval over seeds knows of other samples, too.
    Raises ValueError where a task has too few, and as `Probe.needed`.
    """
    samples = {task: cohort.held_out(task, n, setup.seed) for task in sorted(cohort.tasks)}
    found: dict[str, dict[int, Point]] = {task: {} for task in samples}
    for number, step in enumerate(cohort.steps):
        probe = cohort.probe(step, setup.reading)
        for task, examples in samples.items():
            found[task][step] = Point(probe.answer(examples), probe.needed(examples))
        setup.progress(number + 1, len(cohort.steps), f"step {step}")
    return found


def disjoint_halves(n: int, splits: int, seed: int) -> list[Halves]:
    """Random halves of n samples without a common one, `splits` times: masks, bool, (n,), of n // 2 samples each.

    With n odd a sample is in neither. Raises ValueError for fewer than 2 samples.
    """
    if n < 2:
        raise ValueError(f"there are {n} samples to halve; give at least 2")
    generator, half = np.random.default_rng(seed), n // 2
    found = []
    for _ in range(splits):
        order, masks = generator.permutation(n), np.zeros((2, n), dtype=bool)
        masks[0, order[:half]] = masks[1, order[half : 2 * half]] = True
        found.append((masks[0], masks[1]))
    return found


def checked_splits(splits: int) -> None:
    """Raises ValueError for fewer than one split."""
    if splits < 1:
        raise ValueError(f"splits is {splits}; samples are halved at least once")
